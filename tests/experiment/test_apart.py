import faulthandler
import os
import signal
import sys
from pathlib import Path

import psutil
import pytest

from avalanche_mgem.experiment import _apart
from avalanche_mgem.experiment._apart import run_apart

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="other systems run in the same process"),
    pytest.mark.usefixtures("_signals"),
]


@pytest.fixture(autouse=True)
def _fork(monkeypatch: pytest.MonkeyPatch) -> None:
    """These functions use no torch, so that a fork is safe though the tests have used it."""
    monkeypatch.setattr(_apart, "_CAN_FORK", True)


def note_process(file: Path) -> None:
    file.write_text(str(os.getpid()))


def kill(number: int) -> None:
    faulthandler.disable()  # pytest's, which prints a page
    os.kill(os.getpid(), number)
    signal.pause()


def interrupt() -> None:
    raise KeyboardInterrupt


def test_it_runs_in_another_process(tmp_path: Path) -> None:
    assert run_apart(note_process, tmp_path / "pid") is None
    assert int((tmp_path / "pid").read_text()) != os.getpid()


@pytest.mark.parametrize("name", ["SIGKILL", "SIGSEGV", "SIGTERM"])
def test_a_killed_process_is_named(name: str) -> None:
    number = getattr(signal, name)
    assert run_apart(kill, number) == f"died: killed by signal {int(number)} ({name})"


def test_an_exit_is_a_death() -> None:
    assert run_apart(sys.exit, 3) == "died: exit status 3"
    assert run_apart(sys.exit, 0) is None


def test_an_interrupt_is_passed_on() -> None:
    with pytest.raises(KeyboardInterrupt):
        run_apart(interrupt)
    with pytest.raises(KeyboardInterrupt):
        run_apart(kill, signal.SIGINT)


def test_its_end_is_that_of_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    parents = iter([os.getppid(), 1])  # the launcher dies
    monkeypatch.setattr(os, "getppid", lambda: next(parents))
    with pytest.raises(_apart.Stopped):
        run_apart(signal.pause)
    assert psutil.Process().children() == []


def test_where_a_fork_is_not_safe_it_runs_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_apart, "_CAN_FORK", False)
    assert run_apart(note_process, tmp_path / "pid") is None
    assert int((tmp_path / "pid").read_text()) == os.getpid()
