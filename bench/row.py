"""What a row of the table is, and what measuring one gives."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median, quantiles
from typing import Literal

from bench.progress import Reporter

Unit = Literal["s", "bytes"]


@dataclass(frozen=True)
class Options:
    """What the command line says about every row.

    Attributes:
        dataset_root: where MNIST and CIFAR-100 lie.
        seed: of weights, permutations, subsets, minibatches and memories.
        quick: tiny sizes on made-up data, to see that the harness works.
        report: where progress goes.
    """

    dataset_root: Path
    seed: int
    quick: bool
    report: Reporter

    def size(self, full: int, quick: int) -> int:
        """The first, or the second where ``quick`` asks for it."""
        return quick if self.quick else full


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
        other: the same of the other side, at the same places of the alternation.
        agreement: None where the two sides do not compute the same thing on purpose.
        settings: sizes, as they were used.
        record: further ratios that no floor judges, by what they are.
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
        name: on the command line, and of the JSON file.
        what: is measured of ours.
        against: what it is compared with.
        at_least: whether the ratio is a speed-up (other / ours, the larger the better) or a cost
            (ours / other, the smaller the better).
        floor: a ratio on the wrong side of it fails the run.
        goal: the ratio aimed at.
        measure: does the work.
    """

    name: str
    what: str
    against: str
    at_least: bool
    floor: float
    goal: float
    measure: Callable[[Options], Measured]

    def ratio(self, ours: float, other: float) -> float:
        """The figure that floor and goal are about."""
        return other / ours if self.at_least else ours / other

    def meets(self, ratio: float, limit: float) -> bool:
        """Whether a ratio is on the right side of a limit."""
        return ratio >= limit if self.at_least else ratio <= limit


def quartiles(values: list[float]) -> tuple[float, float]:
    """The first and third quartile; of a single value, itself twice."""
    if len(values) == 1:
        return values[0], values[0]
    first, _, third = quantiles(values, n=4, method="inclusive")
    return first, third


def headline(row: Row, measured: Measured) -> tuple[float, tuple[float, float]]:
    """The ratio of the medians, and the quartiles of the ratios of neighbouring repetitions."""
    pairs = [row.ratio(a, b) for a, b in zip(measured.ours, measured.other, strict=True)]
    return row.ratio(median(measured.ours), median(measured.other)), quartiles(pairs)
