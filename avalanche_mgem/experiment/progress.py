"""A progress bar over the minibatches of training and evaluation."""

from typing import Any

from avalanche.core import SupervisedPlugin
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn


class ProgressBar(SupervisedPlugin):  # type: ignore[misc]
    """Shows which experience is trained or tested and how far it is.

    On a terminal only, on standard error, and gone at the end: what the user keeps is on standard output.

    Args:
        n_experiences: experiences of the stream.
    """

    def __init__(self, n_experiences: int) -> None:
        super().__init__()
        console = Console(stderr=True)
        self._n_experiences = n_experiences
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self._task = self._progress.add_task("", total=None)

    def __getstate__(self) -> dict[str, Any]:
        """A checkpoint holds nothing of it: the bar is this process's."""
        return {}

    def __enter__(self) -> "ProgressBar":
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def before_training_epoch(self, strategy: Any, **_: Any) -> None:
        """Restarts the bar: only now the number of minibatches is known (a replay adds some)."""
        number = strategy.experience.current_experience + 1
        self._restart(f"training {number}/{self._n_experiences}", len(strategy.dataloader))

    def before_eval(self, strategy: Any, **_: Any) -> None:
        """Restarts the bar, for the minibatches of all test experiences."""
        sizes = (len(experience.dataset) for experience in strategy.current_eval_stream)
        self._restart("testing", sum(-(-size // strategy.eval_mb_size) for size in sizes))

    def after_training_iteration(self, strategy: Any, **_: Any) -> None:
        """Counts a minibatch."""
        self._progress.advance(self._task)

    def after_eval_iteration(self, strategy: Any, **_: Any) -> None:
        """Counts a minibatch."""
        self._progress.advance(self._task)

    def _restart(self, description: str, total: int) -> None:
        self._progress.reset(self._task, description=description, total=total)
