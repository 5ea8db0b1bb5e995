"""How far a run is: a bar on a terminal, and elsewhere a line for each experience."""

from collections.abc import Sequence
from itertools import pairwise
from statistics import linear_regression, mean
from typing import Any

from avalanche.core import SupervisedPlugin
from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn
from rich.text import Text

from avalanche_mgem.experiment._sweep import Place
from avalanche_mgem.experiment.errors import say


def experience_of(number: int, total: int) -> str:
    """An experience by its number, which counts from 0 as Avalanche's does.

    >>> experience_of(3, 20)
    'experience 3 of 0..19'
    """
    return f"experience {number} of 0..{total - 1}"


class ProgressBar(SupervisedPlugin):  # type: ignore[misc]
    """Shows what a run is at, how long it took and will take, and the mean accuracy so far.

    All of it goes to standard error: what the user keeps is on standard output. On a terminal it is a bar,
    which is gone at the end. Elsewhere it is a line after the test that follows each experience.

    Args:
        is_on: False (default) shows nothing.
        has_lines: whether there are lines where there is no terminal.
        place: of the run in a sweep. Where runs are made side by side, nothing is shown.
        console: for tests; None (default) is standard error.
    """

    def __init__(
        self,
        *,
        is_on: bool = False,
        has_lines: bool = True,
        place: Place | None = None,
        console: Console | None = None,
    ) -> None:
        super().__init__()
        console = console or Console(stderr=True)
        is_on = is_on and not (place and place.is_side_by_side)
        self._is_bar = is_on and console.is_terminal
        self._has_lines = is_on and has_lines and not console.is_terminal
        self._place = place
        self._progress = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=14),
            _Elapsed(),
            _Remaining(),
            TextColumn("{task.fields[accuracy]}"),
            console=console,
            transient=True,
            disable=not self._is_bar,
        )
        self._sweep = (
            None
            if place is None
            else self._progress.add_task(
                str(place),
                total=place.total,
                completed=place.complete,
                accuracy="",
                done_before=place.complete - place.made,
                before=place.seconds,
            )
        )
        self._run = self._progress.add_task("building the benchmark", total=None, accuracy="", before=0.0)
        self._experiences = 0
        self._number = 0
        self._minibatches = 0

    def __getstate__(self) -> dict[str, Any]:
        """A checkpoint holds nothing of it: the bar is this process's."""
        return {}

    def __enter__(self) -> "ProgressBar":
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def begin(self, parts: int, experiences: int, trained: int = 0) -> None:
        """Says how much there is to train.

        Args:
            parts: how often the strategy's ``train`` is called: once for each experience, or once for all.
            experiences: of the stream.
            trained: parts that are trained already, as in a run that goes on.
        """
        self._experiences = experiences
        task = self._progress.tasks[-1]
        began = task.elapsed or 0.0
        fields: dict[str, Any] = {"done_before": trained, "seconds_before": began, "ends": [began]}
        self._progress.update(self._run, description="testing", total=parts, completed=trained, **fields)

    def train(self, number: int) -> None:
        """Says that a part is trained now."""
        self._number = number
        self._progress.update(self._run, description=f"training {self._name()}")

    def tested(self, row: Sequence[float]) -> None:
        """Says that the part was trained, and the model tested.

        Args:
            row: the accuracy on each test experience.
        """
        task = self._progress.tasks[-1]
        total = int(task.total or 1)
        task.fields["ends"].append(task.elapsed or 0.0)
        self._advance_to(self._number + 1)
        accuracy = mean(row[: self._number + 1] if total == len(row) else row)
        self._progress.update(self._run, accuracy=f"mean accuracy {accuracy:.3f}")
        if self._has_lines:
            left = _remaining(task)
            end = "" if left is None or task.finished else f", about {_clock(left)} left"
            run = "" if self._place is None else f"{self._place}, "
            say(f"{run}{self._name()}: mean accuracy {accuracy:.3f} after {_clock(task.elapsed or 0.0)}{end}")

    def before_training_epoch(self, strategy: Any, **_: Any) -> None:
        """Only now the number of minibatches is known: a replay adds some."""
        self._minibatches = len(strategy.dataloader)

    def after_training_iteration(self, strategy: Any, **_: Any) -> None:
        """Counts a minibatch."""
        if self._is_bar:
            clock = strategy.clock
            epochs = clock.train_exp_epochs + clock.train_epoch_iterations / self._minibatches
            self._advance_to(self._number + min(epochs / strategy.train_epochs, 1))

    def before_eval(self, *_: Any, **__: Any) -> None:
        """Says that the model is tested."""
        self._progress.update(self._run, description="testing")

    def _advance_to(self, completed: float) -> None:
        self._progress.update(self._run, completed=completed)
        if self._sweep is not None and self._place is not None:
            share = completed / (self._progress.tasks[-1].total or 1)
            self._progress.update(self._sweep, completed=self._place.complete + share)

    def _name(self) -> str:
        if self._progress.tasks[-1].total == self._experiences:
            return experience_of(self._number, self._experiences)
        return f"all {self._experiences} experiences at once"


class _Elapsed(ProgressColumn):
    def render(self, task: Task) -> Text:
        return Text(_clock((task.elapsed or 0.0) + task.fields["before"]))


class _Remaining(ProgressColumn):
    max_refresh = 0.5

    def render(self, task: Task) -> Text:
        left = _remaining(task)
        return Text(f"ETA {'-:--' if left is None else _clock(left)}")


def _remaining(task: Task) -> float | None:
    """Seconds, if the rest is as fast as what was done; None before there is any.

    Constraints and replays make each part longer than the one before. From three parts on it is reckoned that
    they go on to grow by as much.
    """
    done: float = task.completed - task.fields.get("done_before", 0)
    spent: float = (task.elapsed or 0.0) - task.fields.get("seconds_before", 0.0) + task.fields["before"]
    if task.total is None or done <= 0:
        return None
    left = task.total - task.completed
    parts: list[float] = [end - begin for begin, end in pairwise(task.fields.get("ends", ()))]
    if len(parts) >= 3:
        growth, first = linear_regression(range(len(parts)), parts)
        if growth > 0:  # a part is the integral of a line over its number
            return (first - growth / 2) * left + growth / 2 * ((done + left) ** 2 - done**2)
    return spent / done * left


def _clock(seconds: float) -> str:
    """Seconds as a clock shows them.

    >>> _clock(5.4), _clock(3725)
    ('0:05', '1:02:05')
    """
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
