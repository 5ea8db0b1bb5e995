"""A run in a process of its own, so that its death is that of no other run."""

import os
import signal
import sys
import threading
import warnings
from collections.abc import Callable
from multiprocessing import get_context, parent_process
from multiprocessing.context import ForkProcess
from typing import Any

from avalanche_mgem.experiment._signals import Stopped, stopping
from avalanche_mgem.runs import READER_GONE, let_go

# A process that has used torch must not be forked: its threads would be missing, and so would CUDA.
_CAN_FORK = sys.platform == "linux" and "torch" not in sys.modules
_GRACE = 10.0  # seconds that a run has to put its folder in order


def run_apart(function: Callable[..., None], *arguments: Any) -> str | None:
    """Calls a function in a process of its own, which ends with this one.

    On other systems than Linux, and where torch was in use before, it is called in this process.

    Returns:
        How the process died; None if it ended by itself.

    Raises:
        KeyboardInterrupt: if it was interrupted.
        BrokenPipeError: if nobody reads what it writes.
    """
    if not _CAN_FORK:
        function(*arguments)
        return None
    launcher = os.getppid()
    process = get_context("fork").Process(target=_call, args=(function, arguments))
    try:
        with (
            warnings.catch_warnings()
        ):  # Python 3.12 warns where a launcher has threads; none of them holds torch
            warnings.simplefilter("ignore", DeprecationWarning)
            process.start()
        while process.is_alive():
            process.join(1)
            if os.getppid() != launcher:
                raise Stopped(signal.SIGTERM)
    finally:
        _end(process)
    if process.exitcode == _status(KeyboardInterrupt()):
        raise KeyboardInterrupt
    if process.exitcode == READER_GONE:
        raise BrokenPipeError
    return _death(process.exitcode or 0)


def _call(function: Callable[..., None], arguments: tuple[Any, ...]) -> None:
    for number in signal.valid_signals() - {signal.SIGINT, signal.SIGTERM}:
        if callable(signal.getsignal(number)):  # a launcher's, such as submitit's to submit its job anew
            signal.signal(number, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        with stopping(signal.SIGINT, signal.SIGTERM):
            function(*arguments)
    except KeyboardInterrupt as interrupt:
        raise SystemExit(_status(interrupt)) from None
    except BrokenPipeError:
        let_go()
        raise SystemExit(READER_GONE) from None


def _end_with_parent() -> None:
    parent = parent_process()
    assert parent is not None
    parent.join()
    os.kill(os.getpid(), signal.SIGTERM)
    threading.Event().wait(_GRACE)
    os._exit(1)


def _end(process: ForkProcess) -> None:
    """Ends a run that is still there because this process is to end."""
    if process.pid is None or not process.is_alive():
        return
    try:
        process.terminate()
        process.join(_GRACE)
    finally:
        process.kill()
        process.join()


def _status(interrupt: KeyboardInterrupt) -> int:
    return interrupt.status if isinstance(interrupt, Stopped) else 128 + signal.SIGINT


def _death(exitcode: int) -> str | None:
    if exitcode == 0:
        return None
    number = -exitcode if exitcode < 0 else exitcode - 128
    try:
        return f"died: killed by signal {number} ({signal.Signals(number).name})"
    except ValueError:
        return f"died: exit status {exitcode}"
