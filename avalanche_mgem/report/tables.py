"""The tables of a report as frames of full precision."""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from avalanche_mgem.report.comparisons import Front
from avalanche_mgem.report.pareto import bootstrap_hypervolumes, non_dominated
from avalanche_mgem.report.results import Results
from avalanche_mgem.report.statistics import Difference, holm, paired_difference
from avalanche_mgem.runs import ABSENT, COSTS, METRICS, mean_interval, text

COMPARED = ("acc", "bwd", "la")  # forgetting is BWD with the other sign
_COMPARED_GAPS = ("gap_violated", "gap_violated_acting")
SIGNIFICANT = 0.05  # corrected p below
_FEWEST_OF_TREND = 3  # values: two have a difference, which the table of differences shows


def results_table(results: Results) -> pd.DataFrame:
    """Mean and half-width of the 95 % interval over seeds, for each method and number.

    Returns:
        A row for each method, with ``n``, ``seeds``, ``is_timed``, and ``NAME_mean``, ``NAME_half_width``;
        NaN where the runs do not have the number, and a half-width of fewer than two seeds. Seconds are NaN
        where ``is_timed`` is false: some of the runs may have shared their machine with others.
    """
    is_shared = _shared_machine(results.environments)
    rows = []
    for method, runs in results.runs.groupby("method", sort=False):
        is_timed = not (results.is_busy or is_shared[runs.index].any())
        row: dict[str, Any] = {"method": method, "n": len(runs), "seeds": _seeds(runs["seed"])}
        row["is_timed"] = is_timed
        for name in (*METRICS, *COSTS, *results.gap):
            counts = is_timed or not name.startswith("seconds_")
            mean = mean_interval(runs[name].dropna().tolist() if counts else [])
            row |= {f"{name}_mean": mean.mean, f"{name}_half_width": mean.half_width}
        rows.append(row)
    return _numbers(pd.DataFrame(rows), "method", "n", "seeds", "is_timed")


def _compared(results: Results) -> list[str]:
    """The numbers of which methods have differences."""
    return [*COMPARED, *(name for name in _COMPARED_GAPS if name in results.gap)]


def _shared_machine(environments: pd.DataFrame) -> "pd.Series[bool]":
    """Whether other runs of its sweep could be made at the same time as each run, where that was recorded."""
    at_once = "launcher.runs_at_once"
    if at_once not in environments:
        return pd.Series(False, index=environments.index)
    return ~environments[at_once].isin(["1", ABSENT])


def differences_table(results: Results, compared: Collection[tuple[str, str]]) -> pd.DataFrame:
    """Paired differences of methods at equal seeds, p corrected by Holm for each metric.

    The tests of one metric are one family. Fewer than five seeds are not tested. Measures of the
    generalisation gap are compared over those experiences that both runs of a seed have.

    Args:
        results: all runs.
        compared: each method with its baseline, or with another one of all pairs.

    Returns:
        A row for each metric and each two methods that have it: ``metric``, ``method``, ``baseline`` (the
        other one), ``n`` pairs of seeds, ``difference``, ``half_width``, ``p``, ``p_corrected``, ``seeds``
        and ``seeds_left_out``.
    """
    rows = []
    for metric in _compared(results):
        values = _values(results, metric)
        pairs = [(method, other) for method, other in compared if method in values and other in values]
        differences = [paired_difference(*_of_both(values, pair)) for pair in pairs]
        for pair, difference, numbers in zip(
            pairs, differences, _tests(differences, "difference"), strict=True
        ):
            names = {"metric": metric, "method": pair[0], "baseline": pair[1]}
            rows.append(names | numbers | {"seeds_left_out": _seeds(difference.left_out)})
    texts = ["metric", "method", "baseline", "n", "seeds", "seeds_left_out"]
    columns = [*texts[:4], "difference", "half_width", "p", "p_corrected", *texts[4:]]
    return _numbers(pd.DataFrame(rows, columns=columns), *texts)


def _tests(differences: Collection[Difference], value: str) -> Iterator[dict[str, Any]]:
    """The columns of comparisons that are one family of tests; ``value`` names that of their mean."""
    corrected = holm([difference.p for difference in differences])
    for difference, p_corrected in zip(differences, corrected, strict=True):
        mean = difference.difference
        yield {
            "n": mean.n,
            value: mean.mean,
            "half_width": mean.half_width,
            "p": difference.p,
            "p_corrected": p_corrected,
            "seeds": _seeds(difference.seeds),
        }


def _values(results: Results, metric: str) -> pd.DataFrame:
    """The values of each method that has some, in a row for each seed; of a gap, for each experience too."""
    if metric in results.gap:
        rows = results.constraints.join(results.runs[["method", "seed"]], on="run")
        index = ["seed", "experience"]
    else:
        rows, index = results.runs, ["seed"]
    return rows.dropna(subset=[metric]).set_index([*index, "method"])[metric].unstack("method")


def _of_both(values: pd.DataFrame, pair: tuple[str, str]) -> tuple[dict[int, float], dict[int, float]]:
    """Two methods' values by seed, over the rows that both have; over all where one alone has the seed."""
    both = values[list(pair)].dropna().groupby("seed").mean()
    alone = [values[name].dropna().groupby("seed").mean() for name in pair]
    ours, theirs = (
        {**own.drop(index=other.index, errors="ignore").to_dict(), **both[name].to_dict()}
        for name, own, other in zip(pair, alone, reversed(alone), strict=True)
    )
    return ours, theirs


def trends_table(results: Results, axis: Front, compared: Mapping[str, str]) -> pd.DataFrame:
    """How the paired differences to a baseline change with a setting: their slope over its binary logarithm.

    The slope is that of the least-squares line at each seed on its own, so that it has an interval and a test
    like a difference. A family of methods has one if the setting is a positive number in three of its methods
    or more, whose baselines have the same values. The tests of one metric are one family.

    Args:
        results: all runs.
        axis: the setting.
        compared: the baseline of each method that has one.

    Returns:
        A row for each metric and family: ``metric``, ``methods`` (the family's name), ``baseline`` (the name
        of its baselines' family), ``values`` of the setting, ``n`` seeds that all these methods have,
        ``slope`` (change of the difference each time the setting doubles), ``half_width``, ``p``,
        ``p_corrected``, ``seeds`` and ``seeds_left_out``.
    """
    family_of = {method: name for name, values in axis.families.items() for method in values}
    setting = axis.values
    pairs = {
        name: both
        for name, values in axis.curves.items()
        if len(both := _pairs_of_equal_value(values, setting, compared)) >= _FEWEST_OF_TREND
    }
    rows = []
    for metric in _compared(results):
        values = _values(results, metric)
        slopes = {name: _slopes(values, both, setting) for name, both in pairs.items()}
        differences = {name: paired_difference(*sides) for name, sides in slopes.items() if sides[0]}
        for name, numbers in zip(differences, _tests(differences.values(), "slope"), strict=True):
            present = values.reindex(columns=[method for both in pairs[name] for method in both])
            every = {int(seed) for seed in present.dropna(how="all").index.get_level_values("seed")}
            names = {
                "metric": metric,
                "methods": name,
                "baseline": family_of[pairs[name][0][1]],
                "values": " ".join(text(setting[method]) for method, _ in pairs[name]),
            }
            left_out = sorted(every.difference(differences[name].seeds))
            rows.append(names | numbers | {"seeds_left_out": _seeds(left_out)})
    texts = ["metric", "methods", "baseline", "values", "n", "seeds", "seeds_left_out"]
    columns = [*texts[:5], "slope", "half_width", "p", "p_corrected", *texts[5:]]
    return _numbers(pd.DataFrame(rows, columns=columns), *texts)


def _pairs_of_equal_value(
    family: Mapping[str, Any], values: Mapping[str, Any], compared: Mapping[str, str]
) -> list[tuple[str, str]]:
    """Methods with their baselines, where both have the same positive number as the setting."""
    return [
        (method, compared[method])
        for method, value in family.items()
        if isinstance(value, int | float) and not isinstance(value, bool) and value > 0
        if method in compared and text(values.get(compared[method], ABSENT)) == text(value)
    ]


def _slopes(
    values: pd.DataFrame, pairs: list[tuple[str, str]], setting: Mapping[str, Any]
) -> tuple[dict[int, float], dict[int, float]]:
    """The slopes of both sides of the pairs over log2 of the setting, at each seed that all methods have."""
    doublings = np.log2([float(setting[method]) for method, _ in pairs])
    doublings -= doublings.mean()
    weights = doublings / (doublings**2).sum()
    every = list({method: None for both in pairs for method in both})
    common = values.reindex(columns=every).dropna().groupby("seed").mean()
    levels = [common[list(side)].to_numpy() for side in zip(*pairs, strict=True)]
    # Less the first value: what is the same everywhere then has a slope of exactly 0.
    ours, theirs = (
        dict(zip(common.index, (level - level[:, :1]) @ weights, strict=True)) for level in levels
    )
    return ours, theirs


@dataclass(frozen=True)
class Hypervolumes:
    """The areas of fronts over a setting.

    Attributes:
        table: a row for each front: ``front``, ``points``, ``non_dominated`` of them, ``hypervolume`` with
            ``low`` and ``high``, ``difference`` to the baseline's with its ``difference_low`` and
            ``difference_high``; ``reference_la``, ``reference_bwd`` and ``seeds``, the same in all rows.
        reference: LA and BWD.
        seeds: those that all methods of all fronts have.
        left_out: seeds that only some have.
    """

    table: pd.DataFrame = field(repr=False)
    reference: tuple[float, float]
    seeds: list[int]
    left_out: list[int]


def hypervolumes(
    results: Results, front: Front, baseline: str | None, reference: tuple[float, float] | None
) -> Hypervolumes | None:
    """The area that each front dominates in the plane of LA and BWD.

    Args:
        results: all runs.
        front: the families with more than one method are compared.
        baseline: name of a family; None for no differences.
        reference: LA and BWD where the area begins; None takes the smallest means of any compared method,
            so that every method counts and no single run moves the point far.

    Returns:
        None if no seed has both metrics in all methods.
    """
    compared = {method for methods in front.curves.values() for method in methods}
    runs = results.runs[results.runs["method"].isin(compared)].dropna(subset=["la", "bwd"])
    by_seed = {
        method: rows.set_index("seed")[["la", "bwd"]] for method, rows in runs.groupby("method", sort=False)
    }
    all_seeds = {int(seed) for seed in runs["seed"]}
    seeds = sorted(all_seeds.intersection(*(values.index for values in by_seed.values())))
    if not seeds or len(by_seed) < len(compared):
        return None
    points = {
        family: np.stack([by_seed[method].loc[seeds].to_numpy(dtype=float) for method in methods], axis=1)
        for family, methods in front.curves.items()
    }
    means = np.concatenate([front_points.mean(axis=0) for front_points in points.values()])
    la, bwd = reference or (float(means[:, 0].min()), float(means[:, 1].min()))
    baseline = baseline if baseline in points else None
    volumes, differences = bootstrap_hypervolumes(points, np.array([la, bwd]), baseline)
    rows = [
        {
            "front": family,
            "points": points[family].shape[1],
            "non_dominated": int(non_dominated(points[family].mean(axis=0)).sum()),
            "hypervolume": volumes[family].value,
            "low": volumes[family].low,
            "high": volumes[family].high,
            "difference": differences[family].value if family in differences else None,
            "difference_low": differences[family].low if family in differences else None,
            "difference_high": differences[family].high if family in differences else None,
            "reference_la": la,
            "reference_bwd": bwd,
            "seeds": _seeds(seeds),
        }
        for family in points
    ]
    table = _numbers(pd.DataFrame(rows), "front", "points", "non_dominated", "seeds")
    return Hypervolumes(table, (la, bwd), seeds, sorted(all_seeds - set(seeds)))


def _seeds(seeds: "pd.Series[int] | tuple[int, ...] | list[int]") -> str:
    return " ".join(str(seed) for seed in sorted(seeds))


def _numbers(frame: pd.DataFrame, *others: str) -> pd.DataFrame:
    """None to NaN in all columns but the others."""
    return frame.astype({column: float for column in frame if column not in others})
