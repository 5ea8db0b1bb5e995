"""How far a study is: a bar on a terminal, and else a line for each trial."""

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from avalanche_mgem.runs import printable, text


class StudyProgress:
    """Shows the trials of a study.

    The bar is on standard error, and gone at the end. The lines are on standard output.
    """

    def __init__(self) -> None:
        console = Console(stderr=True)
        self._has_bar = console.is_terminal
        self._progress = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            console=console,
            transient=True,
            disable=not self._has_bar,
        )
        self._task = self._progress.add_task("", total=None)

    def __enter__(self) -> "StudyProgress":
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def show(self, strategy: str, done: int, total: int, best: float | None) -> None:
        """Shows how many trials of a strategy are done, and the best objective so far."""
        so_far = "" if best is None else f", best valid ACC {best:.3f}"
        self._progress.update(
            self._task, description=printable(strategy) + so_far, completed=done, total=total
        )

    def trial(self, strategy: str, number: int, total: int, end: str, values: Mapping[str, Any]) -> None:
        """Says how a trial has ended."""
        if self._has_bar:
            return
        shown = " ".join(f"{key.rpartition('.')[2]}={_short(value)}" for key, value in values.items())
        line = f"{strategy} trial {number} of 0..{total - 1}: {end}  {shown}"
        print(printable(line), flush=True)  # noqa: T201


def _short(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else text(value)
