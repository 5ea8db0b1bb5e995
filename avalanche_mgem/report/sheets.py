"""The tables of a report as one reads them, and their spelling in Markdown, LaTeX and a terminal."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isnan, nan
from typing import Any

import pandas as pd
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from avalanche_mgem.report.pareto import GENERATOR_SEED, RESAMPLES
from avalanche_mgem.report.statistics import FEWEST_SEEDS
from avalanche_mgem.report.tables import SIGNIFICANT, Hypervolumes
from avalanche_mgem.runs import LABELS, METRICS, printable

_DIGITS = {**dict.fromkeys(METRICS, 3), "seconds_train": 1, "seconds_eval": 1, "peak_memory_mb": 0}
"""The numbers of a table of means, in its order, with the digits after the point."""

_NONE = "-"

_UNTIMED = "Seconds are left out where several runs could share the machine."

_COLUMNS = 80  # of a terminal
_METHOD = 20  # characters of a line that a method's name gets at least, if it needs them

_LATEX = {
    "\\": r"\textbackslash{}",
    **{character: f"\\{character}" for character in "&%$#_{}"},
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "±": r"$\pm$",
    "|": r"\textbar{}",
}

_SIGN = re.compile(r"(?<![\w.])([-+])(?=\d)")
"""The sign of a number; elsewhere a minus is a hyphen."""


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
    untimed = "" if table["is_timed"].all() else f" {_UNTIMED}"
    return Sheet(
        "results",
        f"Mean ± half-width of the 95 % interval over n seeds (Student's t).{untimed}",
        ("method", "n", *(LABELS[name] for name in _DIGITS)),
        [
            (
                str(row["method"]),
                str(row["n"]),
                *(_mean_of(row, name) for name in _DIGITS),
            )
            for row in _rows(table)
        ],
    )


def differences_sheet(table: pd.DataFrame) -> Sheet:
    """The table of paired differences; a star where the corrected p is small, and no p of too few pairs."""
    means = "Paired differences at equal seeds, mean ± half-width of the 95 % interval"
    header = ("metric", "method", "baseline", "n", "difference")
    rows = [
        (
            LABELS[row["metric"]],
            str(row["method"]),
            str(row["baseline"]),
            str(row["n"]),
            _mean(row["difference"], row["half_width"], 3, sign="+"),
        )
        for row in _rows(table)
    ]
    if not (table["n"] >= FEWEST_SEEDS).any():
        caption = f"{means}. Fewer than {FEWEST_SEEDS} pairs of seeds are not tested, so there is no p."
        return Sheet("differences", caption, header, rows, texts=3)
    return Sheet(
        "differences",
        f"{means}; p of the paired t-test, and corrected by Holm over the tests of a metric. "
        f"* corrected p < {SIGNIFICANT}; {_NONE} no test: fewer than {FEWEST_SEEDS} pairs of seeds, or equal "
        "differences.",
        (*header, "p", "corrected p"),
        [
            (
                *shown,
                _p(row["p"]),
                _p(row["p_corrected"]) + ("*" if row["p_corrected"] < SIGNIFICANT else ""),
            )
            for shown, row in zip(rows, _rows(table), strict=True)
        ],
        texts=3,
    )


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
        f"{LABELS[metric]} of all pairs": _square(metric, rows, methods) for metric, rows in of_metric.items()
    }


def _square(metric: str, table: pd.DataFrame, methods: Sequence[str]) -> Sheet:
    is_tested = bool((table["n"] >= FEWEST_SEEDS).any())
    cells = {(row["method"], row["baseline"]): _of_pair(row, is_tested) for row in _rows(table)}
    rows = []
    for place, method in enumerate(methods):
        above = [cells.get((method, other), _NONE) for other in methods[place + 1 :]]
        rows.append((f"{place + 1}. {method}", *[""] * (len(methods) - 1 - len(above)), *above))
    return Sheet(
        f"pairs_{metric}",
        _square_caption(LABELS[metric], table, is_tested, [cell for row in rows for cell in row[1:]]),
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
    if _NONE in shown:
        sentences.append(f"{_NONE} no seed at which both have {label}.")
    return " ".join([*sentences, "All numbers are in differences.csv."])


def _of_pair(row: Mapping[str, Any], is_tested: bool) -> str:
    difference = _mean(row["difference"], nan, 3, sign="+")
    if not is_tested or difference == _NONE:
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
                LABELS[row["metric"]],
                str(row["n"]),
                _mean(row["mean"], row["half_width"], 3),
                row["published"],
            )
            for row in _rows(table)
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
            for row in _rows(volumes.table)
        ],
    )


def _bootstrapped(seeds: int) -> str:
    if seeds < FEWEST_SEEDS:
        return f"Fewer than {FEWEST_SEEDS} seeds are not resampled, so there are no intervals."
    return (
        f"In brackets 95 % percentile intervals of {RESAMPLES} bootstrap resamples of the seeds, the same "
        f"for all fronts (generator seed {GENERATOR_SEED}); with fewer than ten seeds they are too short."
    )


def markdown(sheet: Sheet) -> str:
    """A table of GitHub's Markdown, its caption below."""
    rule = ["---"] * sheet.texts + ["---:"] * (len(sheet.header) - sheet.texts)
    rows = [sheet.header, tuple(rule), *(tuple(map(_markdown_cell, row)) for row in sheet.rows)]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows) + f"\n\n{_markdown_cell(sheet.caption)}\n"


def _markdown_cell(cell: str) -> str:
    for character in "\\|*_`<":
        cell = cell.replace(character, f"\\{character}")
    return cell


def latex(sheet: Sheet) -> str:
    r"""A table with the rules of booktabs, to be read in by ``\input``."""
    columns = "l" * sheet.texts + "r" * (len(sheet.header) - sheet.texts)
    body = [" & ".join(map(_latex_cell, row)) + r" \\" for row in (sheet.header, *sheet.rows)]
    lines = [
        "% \\usepackage{booktabs}",
        r"\begin{table}",
        r"\centering",
        rf"\caption{{{_latex_cell(sheet.caption)}}}",
        rf"\label{{tab:{sheet.name}}}",
        rf"\begin{{tabular}}{{{columns}}}",
        r"\toprule",
        body[0],
        r"\midrule",
        *body[1:],
        r"\bottomrule",
        r"\end{tabular}",
        r"\end{table}",
    ]
    return "\n".join(lines) + "\n"


def _latex_cell(cell: str) -> str:
    if cell == _NONE:
        return "--"
    escaped = "".join(_LATEX.get(character, character) for character in cell)
    return _SIGN.sub(r"$\1$", escaped)


def print_results(table: pd.DataFrame, title: str, names: Sequence[str] = ("acc", "bwd", "la")) -> None:
    """Prints means with their intervals for a terminal of 80 columns.

    Args:
        table: :func:`~avalanche_mgem.report.tables.results_table`.
        title: such as the benchmark.
        names: the numbers to show, from left to right. Those that do not fit beside the others are in a table
            below. Seconds that no method has are left out. Long names of methods take several lines.
    """
    rows = _rows(table)
    methods, n = [printable(str(row["method"])) for row in rows], [str(row["n"]) for row in rows]
    columns = {
        LABELS[name]: [_mean_of(row, name).replace(" ", "") for row in rows]
        for name in names
        if table["is_timed"].any() or not name.startswith("seconds_")
    }
    console = Console(width=_COLUMNS, markup=False, highlight=False)
    room = _COLUMNS - min(max(map(len, methods)), _METHOD) - 1 - max(map(len, n))
    for number, labels in enumerate(_beside(columns, room)):
        shown = Table(
            title=None if number else f"{printable(title)}\nmean ± 95 % interval over n seeds",
            box=SIMPLE_HEAD,
            padding=(0, 0),
            pad_edge=False,
        )
        shown.add_column("method", overflow="fold")
        for label in ("n", *labels):
            shown.add_column(label, justify="right", no_wrap=True)
        for row in zip(methods, n, *(columns[label] for label in labels), strict=True):
            shown.add_row(*row)
        console.print(shown)
    if any(name.startswith("seconds_") for name in names) and not table["is_timed"].all():
        console.print(_UNTIMED)


def _beside(columns: Mapping[str, Sequence[str]], room: int) -> list[list[str]]:
    """The labels of columns in tables that are no wider than the room."""
    tables: list[list[str]] = [[]]
    left = room
    for label, cells in columns.items():
        width = 1 + max(map(len, (label, *cells)))
        if width > left and tables[-1]:
            tables.append([])
            left = room
        tables[-1].append(label)
        left -= width
    return tables


def _rows(table: pd.DataFrame) -> list[dict[str, Any]]:
    return [{str(key): value for key, value in row.items()} for row in table.to_dict("records")]


def _mean_of(row: Mapping[str, Any], name: str) -> str:
    return _mean(row[f"{name}_mean"], row[f"{name}_half_width"], _DIGITS[name])


def _mean(mean: float, half_width: float, digits: int, sign: str = "") -> str:
    if isnan(mean):
        return _NONE
    text = f"{round(mean, digits) + 0.0:{sign}.{digits}f}"  # 0.0 makes no number of -0.000
    return text if isnan(half_width) else f"{text} ± {half_width:.{digits}f}"


def _p(p: float) -> str:
    if isnan(p):
        return _NONE
    return "<0.001" if p < 0.001 else f"{p:.3f}"


def _bracket(value: float, low: float, high: float, sign: str) -> str:
    if isnan(value):
        return _NONE
    text = f"{value:{sign}.3g}"
    return text if isnan(low) else f"{text} [{low:{sign}.3g}, {high:{sign}.3g}]"
