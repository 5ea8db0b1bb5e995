import re
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from hydra._internal.hydra import Hydra
from hydra.core.global_hydra import GlobalHydra

from avalanche_mgem.experiment import _own_classes, _sweep
from avalanche_mgem.experiment.main import main

# What a run says after each experience, which is left out: tests/experiment/test_progress.py has it.
PROGRESS = re.compile(r"^mgem: .*\bmean accuracy \d.*\n", flags=re.MULTILINE)


_composed_mode = Hydra.get_mode


def _mode_of_words(self: Hydra, config_name: str | None, overrides: list[str]) -> Any:
    """What Hydra finds, without a tenth of a second to compose the configuration where no word sets it."""
    return _composed_mode(self, config_name, overrides) if "hydra.mode" in str(overrides) else None


class Outcome(NamedTuple):
    status: int
    out: str
    err: str


@pytest.fixture
def _signals() -> Iterator[None]:
    """Signals as in a terminal: a shell makes the processes ignore some that it starts in the background."""
    handlers = {signal.SIGINT: signal.default_int_handler, signal.SIGHUP: signal.SIG_DFL}
    before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture
def mgem(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Callable[..., Outcome]:
    """The command, in this process and an empty folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])  # the folders of the user's own classes join it
    monkeypatch.setattr(_own_classes, "_folders", [])
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setattr(Hydra, "get_mode", _mode_of_words)

    def call(*arguments: str) -> Outcome:
        GlobalHydra.instance().clear()
        # The command sets them for itself; the next call starts as a new process would.
        monkeypatch.delenv("HYDRA_FULL_ERROR", raising=False)
        monkeypatch.setattr(_sweep, "_command", _sweep._Command())
        monkeypatch.setattr(sys, "argv", ["mgem", *arguments])
        capfd.readouterr()
        status = 0
        try:
            main()
        except SystemExit as end:
            status = int(end.code or 0)
        out, err = capfd.readouterr()
        return Outcome(status, out, PROGRESS.sub("", err))

    return call
