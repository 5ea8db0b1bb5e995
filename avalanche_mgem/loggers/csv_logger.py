"""Avalanche's CSV logger, which here closes its files, and goes on with them after a checkpoint."""

import weakref
from pathlib import Path
from typing import Any

from avalanche.logging import CSVLogger as AvalancheCSVLogger

_FILES = {"training_file": "training_results.csv", "eval_file": "eval_results.csv"}


class CSVLogger(AvalancheCSVLogger):  # type: ignore[misc]
    """Writes ``training_results.csv`` and ``eval_results.csv``, as Avalanche's ``CSVLogger`` does.

    Avalanche's logger leaves both files open when a run ends, and a sweep has many runs in one process. This
    logger closes them when it is deleted, or by ``close()``. A checkpoint holds what was written so far. A
    logger that gets its state back writes that again, and then goes on.

    Args:
        log_folder: folder of the two files; None (default) is ``csvlogs`` in the current folder.
    """

    def __init__(self, log_folder: str | None = None) -> None:
        super().__init__(log_folder)
        self._close_at_the_end()

    def __getstate__(self) -> dict[str, Any]:
        state = dict(vars(self))
        written = {name: Path(state.pop(name).name).read_text() for name in _FILES}
        return {**state, "written": written}

    def __setstate__(self, state: dict[str, Any]) -> None:
        here = self.__dict__
        if "log_folder" in here:  # this one's folder, and no other
            state = {**state, "log_folder": here["log_folder"]}
            self.close()
        folder = Path(state["log_folder"])
        folder.mkdir(parents=True, exist_ok=True)
        here.update({name: value for name, value in state.items() if name != "written"})
        for name, written in state["written"].items():
            here[name] = (folder / _FILES[name]).open("w")
            print(written, end="", file=here[name], flush=True)
        self._close_at_the_end()

    def _close_at_the_end(self) -> None:
        for name in _FILES:
            weakref.finalize(self, vars(self)[name].close)
