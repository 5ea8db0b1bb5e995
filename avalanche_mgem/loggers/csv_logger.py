"""Avalanche's CSV logger, which here closes its files."""

import weakref

from avalanche.logging import CSVLogger as AvalancheCSVLogger


class CSVLogger(AvalancheCSVLogger):  # type: ignore[misc]
    """Writes ``training_results.csv`` and ``eval_results.csv``, as Avalanche's ``CSVLogger`` does.

    Avalanche's logger leaves both files open when a run ends, and a sweep has many runs in one process. This
    logger closes them when it is deleted, or by ``close()``.

    Args:
        log_folder: folder of the two files; None (default) is ``csvlogs`` in the current folder.
    """

    def __init__(self, log_folder: str | None = None) -> None:
        super().__init__(log_folder)
        for file in (self.training_file, self.eval_file):
            weakref.finalize(self, file.close)
