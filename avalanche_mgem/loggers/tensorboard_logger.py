"""Avalanche's TensorBoard logger, which here goes on after a checkpoint."""

import weakref
from pathlib import Path
from typing import Any

from avalanche.logging import TensorboardLogger as AvalancheTensorboardLogger
from torch.utils.tensorboard import SummaryWriter


class TensorboardLogger(AvalancheTensorboardLogger):  # type: ignore[misc]
    """Writes every metric for TensorBoard, as Avalanche's ``TensorboardLogger`` does.

    After a checkpoint Avalanche's logger shows twice what was logged between the checkpoint and the cut, and
    may have lost what came before it. This logger has all on disk at a checkpoint, and tells TensorBoard at
    which step it goes on.

    Args:
        tb_log_dir: folder of the files. Default ``"./tb_data"``.
        filename_suffix: of their names.
    """

    writer: SummaryWriter
    _next_step = 0

    def log_single_metric(self, name: str, value: Any, x_plot: int) -> None:
        """Writes a value."""
        self._next_step = max(self._next_step, x_plot + 1)
        super().log_single_metric(name, value, x_plot)

    def __getstate__(self) -> Any:
        self.writer.flush()
        return *super().__getstate__(), self._next_step

    def __setstate__(self, state: Any) -> None:
        *place, self._next_step = state
        if "writer" in vars(self):  # this one's folder, and no other
            place = super().__getstate__()
            self.writer.close()
        self.writer = self._make_writer(*place)

    def _make_writer(self, tb_log_dir: str | Path, filename_suffix: str) -> Any:
        step = self._next_step or None
        writer = SummaryWriter(tb_log_dir, purge_step=step, filename_suffix=filename_suffix)
        weakref.finalize(self, SummaryWriter.close, writer)
        return writer
