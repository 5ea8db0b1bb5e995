"""Paired comparisons and their correction. Pure functions on numbers."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats  # type: ignore[import-untyped]

from avalanche_mgem.runs import Mean, mean_interval

FEWEST_SEEDS = 5
"""Below it no test is made and no seeds are resampled: a few seeds say little, and their stars mislead."""

# Below this part of the numbers' size a difference is rounding: accuracies that differ by the same number
# of samples at each seed would otherwise have a tiny variance, and p near 0.
_ROUNDING = 1e-12


@dataclass(frozen=True)
class Difference:
    """A paired difference at equal seeds.

    Attributes:
        difference: its mean with interval; n is the number of pairs.
        p: of the two-sided paired t-test; None of fewer than five pairs, or if all pairs differ by the same,
            where t is not defined.
        seeds: those of the pairs, sorted.
        left_out: seeds that only one of the two has, sorted.
    """

    difference: Mean
    p: float | None
    seeds: tuple[int, ...]
    left_out: tuple[int, ...]


def paired_difference(values: Mapping[int, float], baseline: Mapping[int, float]) -> Difference:
    """Compares values with those of a baseline at the same seeds.

    Args:
        values: by seed.
        baseline: by seed.
    """
    seeds = sorted(values.keys() & baseline.keys())
    ours, theirs = (np.array([side[seed] for seed in seeds], dtype=float) for side in (values, baseline))
    mean = mean_interval((ours - theirs).tolist())
    return Difference(
        difference=mean,
        p=_t_test(ours, theirs),
        seeds=tuple(seeds),
        left_out=tuple(sorted(values.keys() ^ baseline.keys())),
    )


def _t_test(ours: np.ndarray, theirs: np.ndarray) -> float | None:
    if len(ours) < FEWEST_SEEDS or np.ptp(ours - theirs) <= _ROUNDING * np.abs([ours, theirs]).max():
        return None
    return float(stats.ttest_rel(ours, theirs).pvalue)


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """Corrects p values of one family of tests by Holm's step-down method, under any dependence.

    SciPy corrects the false discovery rate only.

    A test that could not be made (None) stays so, and is not counted.

    >>> holm([0.01, None, 0.04])
    [0.02, None, 0.04]
    """
    tests = sorted((p, number) for number, p in enumerate(p_values) if p is not None)
    corrected: list[float | None] = [None] * len(p_values)
    largest = 0.0
    for place, (p, number) in enumerate(tests):
        largest = max(largest, min(1.0, (len(tests) - place) * p))
        corrected[number] = largest
    return corrected
