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
    """Says what is being done: a bar on a terminal, a line for each phase elsewhere."""

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
        """A new row begins."""
        self._row = name

    def phase(self, text: str, steps: int | None = None) -> None:
        """A new phase of the row begins, of so many steps (None: not known)."""
        self._progress.reset(self._task, description=f"{self._row}: {text}", total=steps)
        if not self._console.is_terminal:
            self.say(f"{self._row}: {text}")

    def advance(self) -> None:
        """One step of the phase is done."""
        self._progress.advance(self._task)

    def say(self, text: str) -> None:
        """A line that stays."""
        self._console.print(text, markup=False, highlight=False, soft_wrap=True)
