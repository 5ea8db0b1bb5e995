"""A row of the table, and the result of measuring it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median, quantiles
from typing import Literal

from avalanche_mgem.timing import now
from bench.progress import Reporter

Unit = Literal["s", "bytes"]


@dataclass(frozen=True)
class Options:
    """The options of the command line, which hold for every row.

    Attributes:
        dataset_root: the folder that holds MNIST and CIFAR-100.
        seed: of weights, permutations, subsets, minibatches and memories.
        quick: whether to use tiny sizes and made-up data, to see that the harness works.
        report: shows the progress.
        device: where both sides compute; that of the row.
    """

    dataset_root: Path
    seed: int
    quick: bool
    report: Reporter
    device: str = "cpu"

    def size(self, full: int, quick: int) -> int:
        """``quick`` if the option of that name is set, else ``full``."""
        return quick if self.quick else full

    def clock(self) -> float:
        """Seconds, once the device has done its work."""
        return now(self.device)


@dataclass(frozen=True)
class Agreement:
    """Whether both sides computed the same.

    Attributes:
        ok: whether the difference is within the tolerance.
        text: what was compared, with the numbers.
    """

    ok: bool
    text: str


@dataclass(frozen=True)
class Measured:
    """Repeated measurements of both sides.

    Attributes:
        ours: one value a repetition.
        other: the same for the other side, in the same turns.
        agreement: whether both sides computed the same; None if they are not meant to.
        settings: the sizes that were used.
        record: further ratios by their description. They have no floor.
        unit: of all values.
    """

    ours: list[float]
    other: list[float]
    agreement: Agreement | None
    settings: Mapping[str, object]
    record: Mapping[str, float] = field(default_factory=dict)
    unit: Unit = "s"


@dataclass(frozen=True)
class Row:
    """One line of the table.

    Attributes:
        name: name of the row on the command line and of its JSON file.
        what: what is measured on our side.
        against: what it is compared with.
        at_least: True if the ratio is a speed-up (other / ours; larger is better), False if it is a cost
            (ours / other; smaller is better).
        floor: the run fails if the ratio is on the wrong side of it.
        goal: the ratio that we aim at.
        measure: the function that measures the row.
        threads: of torch, for this row; None (default) takes those of the command line.
        device: where both sides compute. Rows of a device that the machine lacks are left out.
    """

    name: str
    what: str
    against: str
    at_least: bool
    floor: float
    goal: float
    measure: Callable[[Options], Measured]
    threads: int | None = None
    device: str = "cpu"

    def ratio(self, ours: float, other: float) -> float:
        """The ratio that floor and goal judge."""
        return other / ours if self.at_least else ours / other

    def meets(self, ratio: float, limit: float) -> bool:
        """Whether a ratio is on the right side of a limit."""
        return ratio >= limit if self.at_least else ratio <= limit


def quartiles(values: list[float]) -> tuple[float, float]:
    """The first and third quartile. A single value is both."""
    if len(values) == 1:
        return values[0], values[0]
    first, _, third = quantiles(values, n=4, method="inclusive")
    return first, third


def headline(row: Row, measured: Measured) -> tuple[float, tuple[float, float]]:
    """The ratio of the medians, and the quartiles of the ratios of neighbouring repetitions."""
    pairs = [row.ratio(a, b) for a, b in zip(measured.ours, measured.other, strict=True)]
    return row.ratio(median(measured.ours), median(measured.other)), quartiles(pairs)
