"""Fronts in the plane of LA and BWD; more is better on both axes. Pure functions on arrays."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from avalanche_mgem.report.statistics import FEWEST_SEEDS

RESAMPLES = 10_000
GENERATOR_SEED = 0


@dataclass(frozen=True)
class Bootstrap:
    """A number and its 95 % percentile interval over resampled seeds; none of fewer than five seeds."""

    value: float
    low: float | None
    high: float | None


def non_dominated(points: np.ndarray) -> np.ndarray:
    """The points to which no other is at least equal on both axes and better on one.

    Args:
        points: [n, 2].

    Returns:
        A mask [n]. Of equal points all are in, or none.
    """
    better_or_equal = (points[:, None, :] >= points[None, :, :]).all(axis=-1)  # [n, n]: row i, column j
    better = better_or_equal & (points[:, None, :] > points[None, :, :]).any(axis=-1)
    return np.asarray(~better.any(axis=0))


def hypervolume(points: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """The area above a reference point that some point of the front dominates.

    Args:
        points: [..., n, 2]; the front is found among them.
        reference: [2]; points below it add nothing.

    Returns:
        The areas [...].
    """
    above = np.maximum(points - reference, 0.0)
    order = np.argsort(-above[..., 0], axis=-1)
    x, y = np.moveaxis(np.take_along_axis(above, order[..., None], axis=-2), -1, 0)
    heights = np.maximum.accumulate(y, axis=-1)  # from the right to the left
    widths = x - np.concatenate([x[..., 1:], np.zeros_like(x[..., :1])], axis=-1)
    return np.asarray((widths * heights).sum(axis=-1))


def bootstrap_hypervolumes(
    fronts: Mapping[str, np.ndarray], reference: np.ndarray, baseline: str | None
) -> tuple[dict[str, Bootstrap], dict[str, Bootstrap]]:
    """Hypervolumes of the points' means over seeds, and their differences to a baseline's.

    Seeds are resampled with replacement, the same for all points of all fronts, because runs at one seed
    share weights, minibatches and permutations: the differences are paired.

    Args:
        fronts: for each name the points of every seed, [seeds, points, 2]; the same seeds in all.
        reference: [2].
        baseline: a name, or None for no differences.

    Returns:
        The hypervolumes, and the differences of all other names to the baseline.
    """
    seeds = {len(points) for points in fronts.values()}
    if len(seeds) != 1:
        raise ValueError(f"fronts must have the same seeds, not {sorted(seeds)} of them")
    (n,) = seeds
    draws = np.random.default_rng(GENERATOR_SEED).integers(n, size=(RESAMPLES, n))
    values = {name: hypervolume(points.mean(axis=0), reference) for name, points in fronts.items()}
    resampled = {name: hypervolume(points[draws].mean(axis=1), reference) for name, points in fronts.items()}
    volumes = {name: _interval(values[name], resampled[name], n) for name in fronts}
    if baseline is None:
        return volumes, {}
    differences = {
        name: _interval(values[name] - values[baseline], resampled[name] - resampled[baseline], n)
        for name in fronts
        if name != baseline
    }
    return volumes, differences


def _interval(value: np.ndarray, resampled: np.ndarray, seeds: int) -> Bootstrap:
    if seeds < FEWEST_SEEDS:
        return Bootstrap(float(value), None, None)
    low, high = np.quantile(resampled, [0.025, 0.975])
    return Bootstrap(float(value), float(low), float(high))
