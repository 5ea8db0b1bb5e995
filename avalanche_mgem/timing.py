"""Where time goes: phases that the library names, and a timeline that adds them up where one is asked for."""

import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field

import torch

_timeline: "Timeline | None" = None
_OFF = nullcontext()


def wait_for(device: str | torch.device) -> None:
    """Waits until a device has done its work: a GPU works behind the program's back. The CPU does not."""
    kind = torch.device(device).type
    if kind == "mps":  # it is one device, and takes no argument
        torch.mps.synchronize()
    elif kind != "cpu":
        getattr(torch, kind).synchronize(device)  # torch.accelerator would do, from torch 2.6 on


def now(device: str | torch.device) -> float:
    """The time in seconds once a device has done its work; only differences mean something.

    >>> start = now("cpu")
    >>> now("cpu") >= start
    True
    """
    wait_for(device)
    return time.perf_counter()


def phase(name: str) -> AbstractContextManager[None]:
    """Names what a ``with`` block does. Costs a fraction of a microsecond while nothing is measured."""
    return _OFF if _timeline is None else _timeline.phase(name)


@dataclass
class Times:
    """What a timeline has measured.

    Attributes:
        seconds: of each phase, without those of a phase inside it.
        calls: how often a ``with`` block of this name was entered.
    """

    seconds: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    calls: Counter[str] = field(default_factory=Counter)


class Timeline:
    """Gives every moment to exactly one phase, so that the phases add up to the whole.

    Every :func:`phase` of the program reports to it inside ``with timeline:``.

    Not torch.profiler: with that, a step of 3.5 ms takes half as long again.

    Args:
        wait: called at the end of each phase; for a GPU, which works behind the program's back.
    """

    def __init__(self, wait: Callable[[], object] | None = None) -> None:
        self._wait = wait
        self._name = "other"
        self._since = time.perf_counter()
        self._times = Times()

    def __enter__(self) -> "Timeline":
        global _timeline
        _timeline = self
        return self

    def __exit__(self, *_: object) -> None:
        global _timeline
        _timeline = None

    def switch(self, name: str) -> str:
        """Ends the current phase, begins another, and returns the name of the one that ended."""
        if self._wait is not None:
            self._wait()
        moment = time.perf_counter()
        before, self._name = self._name, name
        self._times.seconds[before] += moment - self._since
        self._since = moment
        return before

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """A phase inside the current one, which goes on after it."""
        before = self.switch(name)
        self._times.calls[name] += 1
        try:
            yield
        finally:
            self.switch(before)

    def take(self) -> Times:
        """What was measured since the last call."""
        self.switch(self._name)
        taken, self._times = self._times, Times()
        return taken
