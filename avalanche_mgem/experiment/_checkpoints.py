"""The checkpoints of one run: found in its folder, and written to it after each experience."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from avalanche_mgem.checkpoint import Checkpoint, CheckpointError, find_checkpoint, save_checkpoint
from avalanche_mgem.experiment.errors import say
from avalanche_mgem.experiment.progress import experience_of
from avalanche_mgem.runs import (
    CHECKPOINT_FILE,
    UserError,
    clear_attempt,
    clear_checkpoints,
    differences,
    differing_keys,
    has_checkpoint,
    one_line,
    written,
)


class Checkpoints:
    """The checkpoints of one run.

    Args:
        folder: of the run, claimed; None for a run that writes nothing.
        cfg: its complete configuration.
        benchmark: its benchmark.

    Attributes:
        found: the checkpoint with which the run goes on; None to begin.

    Raises:
        UserError: if the folder has a checkpoint of another configuration, or of another version.
    """

    def __init__(self, folder: Path | None, cfg: DictConfig, benchmark: Any) -> None:
        self.found: Checkpoint | None = None
        self._folder = folder
        self._is_refused = False
        self._config = written(cfg)
        self._benchmark = benchmark
        self._is_on = folder is not None and bool(cfg.checkpoint)
        if folder is not None and has_checkpoint(folder):
            self.found = self._find(folder, cfg)

    def restore(self, strategy: Any) -> Mapping[str, Any]:
        """Puts the found checkpoint into a new strategy, and says so in a line.

        Returns:
            what was given to :meth:`save` beside the strategy.

        Raises:
            UserError: if it does not fit.
        """
        assert self.found is not None
        try:
            trained = self.found.restore(strategy, self._benchmark)
        except CheckpointError as error:
            self._is_refused = True
            raise UserError(f"{_line(error)}; {self._way_out()}") from error
        done = experience_of(trained - 1, len(self._benchmark.train_stream))
        self._say(f"goes on after {done}")
        return self.found.notes

    def save(self, strategy: Any, notes: Mapping[str, Any]) -> None:
        """Writes a checkpoint. If that fails, a line says so, and the run goes on."""
        if not self._is_on:
            return
        assert self._folder is not None
        try:
            save_checkpoint(
                strategy,
                self._folder / CHECKPOINT_FILE,
                benchmark=self._benchmark,
                notes={**notes, "config": self._config},
            )
        except (CheckpointError, OSError) as error:
            reason = f"{error.filename}: {error.strerror}" if isinstance(error, OSError) else _line(error)
            number = strategy.clock.train_exp_counter - 1
            done = experience_of(number, len(self._benchmark.train_stream))
            self._say(f"there is no checkpoint after {done}: {reason}; the run goes on")
            # One that cannot be pickled now cannot be later; a disk may have room again.
            self._is_on = isinstance(error, OSError)

    @contextmanager
    def cleared_by_mistakes(self) -> Iterator[None]:
        """Removes all when a run fails by itself: it would fail again, and its repair is another run."""
        try:
            yield
        except (ValueError, FloatingPointError):
            if self._folder is not None and not self._is_refused:
                clear_checkpoints(self._folder)
            raise

    def _find(self, folder: Path, cfg: DictConfig) -> Checkpoint | None:
        if not cfg.checkpoint:
            self._say("begins anew, because checkpoint=false; the checkpoint in its folder is removed")
            clear_attempt(folder)
            return None
        path = folder / CHECKPOINT_FILE
        try:
            found, damages = find_checkpoint(path)
        except CheckpointError as error:
            raise UserError(f"{_line(error)}; {self._way_out()}") from error
        for damage in damages:
            self._say(f"{damage}; " + ("the one before is taken" if found else "the run begins anew"))
        if found is None:
            clear_attempt(folder)
            return None
        saved = found.notes.get("config")
        if saved is None:
            raise UserError(f"{found.path} is no run's checkpoint; {self._way_out()}")
        different = differences(saved, cfg)
        if bool(saved.get("logger")) != bool(cfg.get("logger")):  # with loggers more is measured
            there, here = ({"logger": ",".join(made.get("logger") or {}) or "none"} for made in (saved, cfg))
            different += differing_keys(there, here)
        if different:
            raise UserError(
                f"{found.path} is of a run with another {', '.join(different)}; nothing is overwritten: "
                f"{self._way_out()}"
            )
        if found.path != path:  # the newest is damaged or gone; the next one saved becomes the newest
            path.unlink(missing_ok=True)
        return found

    def _way_out(self) -> str:
        return "give another folder, or checkpoint=false to begin anew in this one"

    def _say(self, message: str) -> None:
        assert self._folder is not None
        say(f"{self._folder.name}: {message}")


def _line(error: BaseException) -> str:
    return one_line(error).rstrip(".")
