"""A run in a terminal of 80 columns."""

from collections.abc import Sequence
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from avalanche_mgem.runs import LABELS, METRICS, VALID_ACC, Matrix, printable

_SECONDS = ("seconds_train", "seconds_eval")
_CHUNK = 10  # experiences side by side


def print_run(summary: dict[str, Any], matrix: Matrix, folder: str, threads: int) -> None:
    """Prints a run's metrics, the accuracies by experience, torch's threads, and where the files are."""
    console = Console(width=80)
    title = f"{summary['strategy']} on {summary['benchmark']}, seed {summary['seed']}"
    table = Table(title=Text(printable(title), style="table.title"), box=SIMPLE_HEAD)
    shown = [*METRICS, *([VALID_ACC] if VALID_ACC in summary else [])]
    for name in (*shown, *_SECONDS):
        table.add_column(LABELS[name], justify="right")
    metrics = (_number(summary[name]) for name in shown)
    table.add_row(*metrics, *(f"{summary[name]:.1f}" for name in _SECONDS))
    console.print(table)
    if len(matrix) == len(matrix[0]) + 1:
        learnt = [row[number] for number, row in enumerate(matrix[1:])]
        for start in range(0, len(learnt), _CHUNK):
            chunk = slice(start, start + _CHUNK)
            console.print(_by_experience(start, learnt[chunk], matrix[-1][chunk]))
    console.print(f"threads: {threads}", highlight=False)  # the last digits of a run depend on them
    console.print(f"results: {printable(folder)}", soft_wrap=True, highlight=False, markup=False)


def run_line(summary: dict[str, Any]) -> str:
    """A run in one line, for sweeps."""
    shown = ("acc", "bwd", "la")
    metrics = "  ".join(f"{LABELS[name]} {_number(summary[name])}" for name in shown)
    name = f"{summary['strategy']} {summary['benchmark']} seed {summary['seed']}"
    return f"{printable(name)}: {metrics}  {summary['seconds_train']:.1f} s"


def _by_experience(start: int, learnt: Sequence[float], last: Sequence[float]) -> Table:
    table = Table(box=None, padding=(0, 1, 0, 0))
    table.add_column("experience")
    for number in range(start, start + len(learnt)):
        table.add_column(str(number), justify="right")
    table.add_row("when learnt", *map(_number, learnt))
    table.add_row("at the end", *map(_number, last))
    return table


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
