"""The end of a command whose output nobody reads any more, as in ``mgem ... | head``."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

READER_GONE = 141
"""The status of a program that SIGPIPE has ended. Python ignores that signal, because of its sockets."""


@contextmanager
def ending_with_its_reader() -> Iterator[None]:
    """Ends the program without a word at the first write that nobody can read."""
    try:
        try:
            yield
        finally:
            sys.stdout.flush()  # else Python does, after everything else, and complains
    except BrokenPipeError:
        let_go()
        raise SystemExit(READER_GONE) from None


def let_go() -> None:
    """Turns both standard outputs away, so that what is written there later fails no more."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (sys.stdout, sys.stderr):
        os.dup2(nowhere, stream.fileno())
    os.close(nowhere)
