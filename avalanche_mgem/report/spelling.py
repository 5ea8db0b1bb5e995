"""How tables are written in Markdown, in LaTeX and on a terminal."""

import re
from collections.abc import Mapping, Sequence

import pandas as pd
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from avalanche_mgem.report.sheets import NONE, UNTIMED, Sheet, mean_of, rows_of
from avalanche_mgem.runs import LABELS, printable

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
    if cell == NONE:
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
    rows = rows_of(table)
    methods, n = [printable(str(row["method"])) for row in rows], [str(row["n"]) for row in rows]
    columns = {
        LABELS[name]: [mean_of(row, name).replace(" ", "") for row in rows]
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
        console.print(UNTIMED)


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
