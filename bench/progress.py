"""Progress on standard error."""

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
)


class Reporter:
    """Shows the progress: a bar on a terminal, one line for each phase elsewhere."""

    def __init__(self) -> None:
        self._console = Console(stderr=True)
        self._progress = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            console=self._console,
            transient=True,
            disable=not self._console.is_terminal,
        )
        self._task = self._progress.add_task("", total=None)
        self._row = ""

    def __enter__(self) -> "Reporter":
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def row(self, name: str) -> None:
        """Begins a row."""
        self._row = name

    def phase(self, text: str, steps: int | None = None) -> None:
        """Begins a phase of the row. ``steps`` is its number of steps, None if unknown."""
        self._progress.reset(self._task, description=f"{self._row}: {text}", total=steps)
        if not self._console.is_terminal:
            self.say(f"{self._row}: {text}")

    def advance(self) -> None:
        """Counts one step of the phase as done."""
        self._progress.advance(self._task)

    def say(self, text: str) -> None:
        """Prints a line that stays."""
        self._console.print(text, markup=False, highlight=False, soft_wrap=True)
