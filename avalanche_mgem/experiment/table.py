"""Tables for a terminal of 80 columns."""

from collections.abc import Iterable, Sequence
from statistics import mean, stdev
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from scipy.special import stdtrit  # type: ignore[import-untyped]

from avalanche_mgem.experiment.metrics import Matrix

_METRICS = ("acc", "bwd", "la", "fwt")
_CHUNK = 10  # experiences side by side


def print_run(summary: dict[str, Any], matrix: Matrix, folder: str) -> None:
    """Prints a run's metrics, the accuracies by experience, and where the files are."""
    console = Console(width=80)
    table = Table(
        title=f"{summary['strategy']} on {summary['benchmark']}, seed {summary['seed']}", box=SIMPLE_HEAD
    )
    for name in ("ACC", "BWD", "LA", "FWT", "forgetting", "train s", "test s"):
        table.add_column(name, justify="right")
    metrics = (_number(summary[name]) for name in (*_METRICS, "forgetting"))
    table.add_row(*metrics, *(f"{summary[f'seconds_{phase}']:.1f}" for phase in ("train", "eval")))
    console.print(table)
    if len(matrix) == len(matrix[0]) + 1:
        learnt = [row[number] for number, row in enumerate(matrix[1:])]
        for start in range(0, len(learnt), _CHUNK):
            chunk = slice(start, start + _CHUNK)
            console.print(_by_experience(start, learnt[chunk], matrix[-1][chunk]))
    console.print(f"results: {folder}", soft_wrap=True, highlight=False, markup=False)


def run_line(summary: dict[str, Any]) -> str:
    """A run in one line, for sweeps."""
    metrics = "  ".join(f"{name.upper()} {_number(summary[name])}" for name in _METRICS)
    name = f"{summary['strategy']} {summary['benchmark']} seed {summary['seed']}"
    return f"{name}: {metrics}  {summary['seconds_train']:.1f} s"


def print_sweep(runs: Iterable[tuple[str, dict[str, Any]]], shared: str) -> None:
    """Prints mean and 95 % confidence interval (Student's t) over the runs of each setting.

    Args:
        runs: for each run the name of its setting, the same where only the seed differs, and its summary.
        shared: what all runs have in common, such as the benchmark.
    """
    groups: dict[str, list[dict[str, Any]]] = {}
    for name, summary in runs:
        groups.setdefault(name, []).append(summary)
    table = Table(
        title=f"{shared}\nmean ± 95 % interval over seeds", box=SIMPLE_HEAD, padding=(0, 0), pad_edge=False
    )
    table.add_column("run", overflow="fold")
    for column in ("n", "ACC", "BWD", "LA", "FWT", "train s"):
        table.add_column(column, justify="right", no_wrap=True)
    for name, summaries in groups.items():
        cells = [mean_interval([summary[metric] for summary in summaries], 3) for metric in _METRICS]
        seconds = mean_interval([summary["seconds_train"] for summary in summaries], 1)
        table.add_row(name, str(len(summaries)), *cells, seconds)
    Console(width=80).print(table)


def mean_interval(values: Sequence[float | None], digits: int) -> str:
    """``mean±half-width`` of the 95 % confidence interval; without the interval for a single value.

    A value that is not defined in any run gives ``-``.
    """
    numbers = [value for value in values if value is not None]
    if not numbers:
        return "-"
    if len(numbers) == 1:
        return f"{numbers[0]:.{digits}f}"
    half_width = stdtrit(len(numbers) - 1, 0.975) * stdev(numbers) / len(numbers) ** 0.5
    return f"{mean(numbers):.{digits}f}±{half_width:.{digits}f}"


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
