"""A word on a terminal while torch and Avalanche are imported, which takes seconds."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.control import Control
from rich.segment import ControlType


@contextmanager
def loading(console: Console | None = None, *, is_on: bool = True) -> Iterator[None]:
    """Says so on standard error, if that is a terminal, and takes it back at the end.

    Args:
        console: for tests; None (default) is standard error.
        is_on: False says nothing, as where several processes share a terminal.
    """
    console = console or Console(stderr=True)
    if not (is_on and console.is_terminal) or "avalanche" in sys.modules:
        yield
        return
    console.print("loading torch and Avalanche ...", end="\r")
    try:
        yield
    finally:
        console.control(Control((ControlType.ERASE_IN_LINE, 2)))
