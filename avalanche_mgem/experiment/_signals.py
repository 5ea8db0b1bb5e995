"""Signals that end a program, as exceptions, so that what it holds is put in order."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

ENDING = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name))
"""What ends a program from outside: Slurm and ``timeout``, and the end of a terminal."""


class Stopped(KeyboardInterrupt):
    """A signal has ended the program, as Ctrl-C does.

    Attributes:
        status: with which the program ends.
    """

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.status = 128 + number


class KeptStudy(Exception):  # noqa: N818
    """The folder of a study that was interrupted; its trials are in it."""


@contextmanager
def stopping(*numbers: int) -> Iterator[None]:
    """Makes an exception of the first of these signals; the next ones do not disturb the end that it brings.

    A signal that is ignored stays so, as SIGHUP is under ``nohup``.
    """
    if threading.current_thread() is not threading.main_thread():  # only there Python has signals
        yield
        return
    before = {number: signal.getsignal(number) for number in numbers}
    handled = {number for number, handler in before.items() if handler is not signal.SIG_IGN}

    def stop(number: int, _: Any) -> None:
        for other in handled:
            signal.signal(other, signal.SIG_IGN)
        raise KeyboardInterrupt if number == signal.SIGINT else Stopped(number)

    for number in handled:
        signal.signal(number, stop)
    try:
        yield
    finally:
        for number in handled:
            signal.signal(number, before[number])
