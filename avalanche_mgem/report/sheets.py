"""The tables of a report as one reads them: their columns, captions and rounded numbers."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isnan, nan
from typing import Any

import pandas as pd

from avalanche_mgem.report.pareto import GENERATOR_SEED, RESAMPLES
from avalanche_mgem.report.statistics import FEWEST_SEEDS
from avalanche_mgem.report.tables import SIGNIFICANT, Hypervolumes
from avalanche_mgem.runs import GAP_METRICS, LABELS, METRICS

_DIGITS = {**dict.fromkeys(METRICS, 3), "seconds_train": 1, "seconds_eval": 1, "peak_memory_mb": 0}
"""The numbers of a table of means, in its order, with the digits after the point."""

_LABELS = {**LABELS, **{name: name for name in GAP_METRICS}}  # axes have room for words
_GAP_DIGITS = 3

NONE = "-"
"""In a cell without a number."""

UNTIMED = "Seconds are left out where several runs could share the machine."


@dataclass(frozen=True)
class Sheet:
    """A table of text.

    Attributes:
        name: of its files.
        caption: what it shows and how its numbers were made.
        header: of the columns.
        rows: of the cells.
        texts: how many columns from the left are texts; the others are numbers.
    """

    name: str
    caption: str
    header: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]
    texts: int = 1


def results_sheet(table: pd.DataFrame) -> Sheet:
    """The table of means."""
    untimed = "" if table["is_timed"].all() else f" {UNTIMED}"
    return Sheet(
        "results",
        f"Mean ± half-width of the 95 % interval over n seeds (Student's t).{untimed}",
        ("method", "n", *(LABELS[name] for name in _DIGITS)),
        [
            (
                str(row["method"]),
                str(row["n"]),
                *(mean_of(row, name) for name in _DIGITS),
            )
            for row in rows_of(table)
        ],
    )


def gap_sheet(table: pd.DataFrame, runs: pd.DataFrame, measures: Sequence[str]) -> Sheet:
    """The table of the generalisation gap.

    Args:
        table: of means, from :func:`~avalanche_mgem.report.tables.results_table`.
        runs: ``Results.runs``.
        measures: ``Results.gap``.
    """
    n = runs.set_index("method")[list(measures)].notna().any(axis=1).groupby(level="method").sum()
    return Sheet(
        "gap",
        "Generalisation gap of the constraints (docs/metrics.md): mean over the experiences in which it "
        "could be measured, then mean ± half-width of the 95 % interval over n seeds. Differences are over "
        "the experiences that both have.",
        ("method", "n", *measures),
        [
            (
                str(row["method"]),
                str(n[row["method"]]),
                *(_mean(row[f"{name}_mean"], row[f"{name}_half_width"], _GAP_DIGITS) for name in measures),
            )
            for row in rows_of(table)
        ],
    )


def differences_sheet(table: pd.DataFrame) -> Sheet:
    """The table of paired differences; a star where the corrected p is small, and no p of too few pairs."""
    means = "Paired differences at equal seeds, mean ± half-width of the 95 % interval"
    header = ("metric", "method", "baseline", "n", "difference")
    rows = [
        (
            _LABELS[row["metric"]],
            str(row["method"]),
            str(row["baseline"]),
            str(row["n"]),
            _mean(row["difference"], row["half_width"], 3, sign="+"),
        )
        for row in rows_of(table)
    ]
    return _tested_sheet("differences", means, header, rows, table, 3, "pairs of seeds", "differences")


def trends_sheet(table: pd.DataFrame, setting: str) -> Sheet:
    """The table of how differences change with a setting; no p of too few seeds."""
    what = (
        f"Change of the paired difference to the baseline each time {setting} doubles: slope of the "
        f"least-squares line over log2({setting}) at each seed, mean ± half-width of the 95 % interval"
    )
    header = ("metric", "methods", "baseline", setting, "n", "slope")
    rows = [
        (
            _LABELS[row["metric"]],
            str(row["methods"]),
            str(row["baseline"]),
            str(row["values"]),
            str(row["n"]),
            _mean(row["slope"], row["half_width"], 4, sign="+"),
        )
        for row in rows_of(table)
    ]
    return _tested_sheet("trends", what, header, rows, table, 4, "seeds", "slopes")


def _tested_sheet(
    name: str,
    what: str,
    header: tuple[str, ...],
    rows: Sequence[tuple[str, ...]],
    table: pd.DataFrame,
    texts: int,
    units: str,
    values: str,
) -> Sheet:
    """A table of paired comparisons with their p, or without where there are too few seeds for any.

    Args:
        name: of the sheet.
        what: the beginning of the caption.
        header: of the columns before p.
        rows: the cells before p.
        table: the frame of these rows.
        texts: how many columns are texts.
        units: what is too few.
        values: what a test is not made of if all are equal.
    """
    few = f"ewer than {FEWEST_SEEDS} {units}"
    if not (table["n"] >= FEWEST_SEEDS).any():
        return Sheet(name, f"{what}. F{few} are not tested, so there is no p.", header, rows, texts)
    return Sheet(
        name,
        f"{what}; p of the paired t-test, and corrected by Holm over the tests of a metric. "
        f"* corrected p < {SIGNIFICANT}; {NONE} no test: f{few}, or equal {values}.",
        (*header, "p", "corrected p"),
        [(*shown, *_tested(row)) for shown, row in zip(rows, rows_of(table), strict=True)],
        texts,
    )


def _tested(row: Mapping[str, Any]) -> tuple[str, str]:
    """The cells of p and of the corrected p, with a star where that is small."""
    star = "*" if row["p_corrected"] < SIGNIFICANT else ""
    return _p(row["p"]), _p(row["p_corrected"]) + star


def pairs_sheets(table: pd.DataFrame, methods: Sequence[str]) -> dict[str, Sheet]:
    """The differences of all pairs as a square for each metric, filled above the diagonal.

    Rows and columns have the same numbers, so that long names of methods make no wide columns.

    Args:
        table: of all pairs, from :func:`~avalanche_mgem.report.tables.differences_table`.
        methods: in the order of the rows. The first of each pair is the table's ``method``.

    Returns:
        By heading; none for a metric that no pair has.
    """
    of_metric = {str(metric): rows for metric, rows in table.groupby("metric", sort=False)}
    return {
        f"{_LABELS[metric]} of all pairs": _square(metric, rows, methods)
        for metric, rows in of_metric.items()
    }


def _square(metric: str, table: pd.DataFrame, methods: Sequence[str]) -> Sheet:
    is_tested = bool((table["n"] >= FEWEST_SEEDS).any())
    cells = {(row["method"], row["baseline"]): _of_pair(row, is_tested) for row in rows_of(table)}
    rows = []
    for place, method in enumerate(methods):
        above = [cells.get((method, other), NONE) for other in methods[place + 1 :]]
        rows.append((f"{place + 1}. {method}", *[""] * (len(methods) - 1 - len(above)), *above))
    return Sheet(
        f"pairs_{metric}",
        _square_caption(_LABELS[metric], table, is_tested, [cell for row in rows for cell in row[1:]]),
        ("method", *map(str, range(2, len(methods) + 1))),
        rows,
    )


def _square_caption(label: str, table: pd.DataFrame, is_tested: bool, shown: Sequence[str]) -> str:
    n = sorted({*table["n"]} - {0}) or [0]
    seeds = " to ".join(map(str, dict.fromkeys((n[0], n[-1]))))
    sentences = [
        f"Row minus column: mean paired difference of {label} at {seeds} shared seed{'s' * (n[-1] != 1)}; "
        "methods in the order of mean ACC."
    ]
    if is_tested:
        tests = int(table["p_corrected"].notna().sum())
        sentences.append(
            f"* p < {SIGNIFICANT} of the paired t-test, corrected by Holm over {tests} "
            f"pair{'s' * (tests != 1)} of methods."
        )
    else:
        sentences.append(f"Fewer than {FEWEST_SEEDS} shared seeds are not tested, so there is no star.")
    if any(cell.startswith("(") for cell in shown):
        sentences.append(
            f"In parentheses: not tested (fewer than {FEWEST_SEEDS} shared seeds, or equal differences)."
        )
    if NONE in shown:
        sentences.append(f"{NONE} no seed at which both have {label}.")
    return " ".join([*sentences, "All numbers are in differences.csv."])


def _of_pair(row: Mapping[str, Any], is_tested: bool) -> str:
    difference = _mean(row["difference"], nan, 3, sign="+")
    if not is_tested or difference == NONE:
        return difference
    if isnan(row["p_corrected"]):
        return f"({difference})"
    return f"{difference}*" if row["p_corrected"] < SIGNIFICANT else difference


def published_sheet(table: pd.DataFrame) -> Sheet:
    """The table of published numbers beside ours."""
    return Sheet(
        "published",
        "Published numbers of the same protocol: benchmark, experiences, samples, pixels, epochs, "
        "minibatches, memory, network and optimizer. Ours are mean ± half-width of the 95 % interval over n "
        "seeds. BWD is a sum over the earlier experiences, here divided by their number.",
        ("method", "source", "protocol", "metric", "n", "ours", "published"),
        [
            (
                str(row["method"]),
                row["source"],
                row["protocol"],
                _LABELS[row["metric"]],
                str(row["n"]),
                _mean(row["mean"], row["half_width"], 3),
                row["published"],
            )
            for row in rows_of(table)
        ],
        texts=4,
    )


def hypervolume_sheet(volumes: Hypervolumes, setting: str) -> Sheet:
    """The table of the fronts' areas."""
    la, bwd = volumes.reference
    return Sheet(
        "hypervolumes",
        f"Area that the front over {setting} dominates in the plane of LA and BWD, above LA {la:.4g} and "
        f"BWD {bwd:.4g}, of the means over seeds {', '.join(map(str, volumes.seeds))}. "
        + _bootstrapped(len(volumes.seeds)),
        ("front", "points", "non-dominated", "hypervolume", "difference to the baseline"),
        [
            (
                str(row["front"]),
                str(row["points"]),
                str(row["non_dominated"]),
                _bracket(row["hypervolume"], row["low"], row["high"], ""),
                _bracket(row["difference"], row["difference_low"], row["difference_high"], "+"),
            )
            for row in rows_of(volumes.table)
        ],
    )


def _bootstrapped(seeds: int) -> str:
    if seeds < FEWEST_SEEDS:
        return f"Fewer than {FEWEST_SEEDS} seeds are not resampled, so there are no intervals."
    return (
        f"In brackets 95 % percentile intervals of {RESAMPLES} bootstrap resamples of the seeds, the same "
        f"for all fronts (generator seed {GENERATOR_SEED}); with fewer than ten seeds they are too short."
    )


def rows_of(table: pd.DataFrame) -> list[dict[str, Any]]:
    """The rows of a table, each by the names of its columns."""
    return [{str(key): value for key, value in row.items()} for row in table.to_dict("records")]


def mean_of(row: Mapping[str, Any], name: str) -> str:
    """A number of a row of the table of means, with its interval."""
    return _mean(row[f"{name}_mean"], row[f"{name}_half_width"], _DIGITS[name])


def _mean(mean: float, half_width: float, digits: int, sign: str = "") -> str:
    if isnan(mean):
        return NONE
    text = f"{round(mean, digits) + 0.0:{sign}.{digits}f}"  # 0.0 makes no number of -0.000
    return text if isnan(half_width) else f"{text} ± {half_width:.{digits}f}"


def _p(p: float) -> str:
    if isnan(p):
        return NONE
    return "<0.001" if p < 0.001 else f"{p:.3f}"


def _bracket(value: float, low: float, high: float, sign: str) -> str:
    if isnan(value):
        return NONE
    text = f"{value:{sign}.3g}"
    return text if isnan(low) else f"{text} [{low:{sign}.3g}, {high:{sign}.3g}]"
