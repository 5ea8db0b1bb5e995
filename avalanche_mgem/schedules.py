r"""Memory strength over time.

The memory strength :math:`\gamma` pulls the update along the old gradients. The pull grows with the number of
constraints, so it may have to change as experiences accumulate. Experiences are counted from 0, and nothing
constrains the first.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np


class Schedule(ABC):
    """Memory strength as a function of the experience that is being trained on."""

    @abstractmethod
    def at(self, experience: int) -> float:
        """The memory strength while training on ``experience``, counted from 0."""


@dataclass(frozen=True)
class Linear(Schedule):
    """From ``start`` at experience 0 to ``end`` at experience ``n_experiences - 1``, then constant.

    Raises:
        ValueError: if an end is negative or not finite, or ``n_experiences`` is no integer of at least 1.

    Example:
        >>> [round(Linear(0.0, 0.4, 5).at(experience), 2) for experience in range(6)]
        [0.0, 0.1, 0.2, 0.3, 0.4, 0.4]
    """

    start: float
    end: float
    n_experiences: int

    def __post_init__(self) -> None:
        _checked(self.start)
        _checked(self.end)
        if not isinstance(self.n_experiences, int) or self.n_experiences < 1:
            raise ValueError(f"n_experiences must be an integer of at least 1; got {self.n_experiences!r}.")

    def at(self, experience: int) -> float:
        """See :meth:`Schedule.at`."""
        progress = min(1.0, experience / max(1, self.n_experiences - 1))
        return self.start + (self.end - self.start) * self._share(progress)

    def _share(self, progress: float) -> float:
        """Share of the way from start to end after a share of the experiences."""
        return progress


class Cosine(Linear):
    """Like :class:`Linear`, along half a cosine: slow at both ends.

    Example:
        >>> [round(Cosine(0.0, 0.4, 5).at(experience), 2) for experience in range(6)]
        [0.0, 0.06, 0.2, 0.34, 0.4, 0.4]
    """

    def _share(self, progress: float) -> float:
        return (1 - math.cos(math.pi * progress)) / 2


@dataclass(frozen=True)
class PerExperience(Schedule):
    """One value for each experience.

    Raises:
        ValueError: if a value is negative or not finite.

    Example:
        >>> PerExperience([0.0, 0.5]).at(1)
        0.5
    """

    values: Sequence[float]

    def __post_init__(self) -> None:
        for value in self.values:
            _checked(value)

    def at(self, experience: int) -> float:
        """See :meth:`Schedule.at`.

        Raises:
            ValueError: if there is no value for this experience.
        """
        if experience >= len(self.values):
            raise ValueError(
                f"memory_strength lists {len(self.values)} values but experience {experience} is being "
                "trained; give one value for each experience."
            )
        return self.values[experience]


@dataclass(frozen=True)
class Shared(Schedule):
    """``total`` divided by the number of past experiences, so that their pulls together stay the same.

    A constant memory strength pulls the harder, the more experiences there were. This one is to GEM what a
    fixed share of old samples in each minibatch is to replay. It is this project's own, not the paper's.

    Raises:
        ValueError: if ``total`` is negative or not finite.

    Example:
        >>> [round(Shared(6.0).at(experience), 2) for experience in (0, 1, 2, 19)]
        [6.0, 6.0, 3.0, 0.32]
    """

    total: float

    def __post_init__(self) -> None:
        _checked(self.total)

    def at(self, experience: int) -> float:
        """See :meth:`Schedule.at`."""
        return self.total / max(experience, 1)


MemoryStrength = float | Sequence[float] | Schedule | Callable[[Any], float]


def check_memory_strength(spec: MemoryStrength) -> MemoryStrength:
    """Checks a memory strength as far as that is possible before training.

    Returns:
        a number, a schedule or a function; a list has become :class:`PerExperience`.

    Raises:
        ValueError: if ``spec`` is not a number of at least 0, a list of such, a schedule or a function.
    """
    if isinstance(spec, Schedule) or (callable(spec) and not isinstance(spec, type)):
        return spec
    if isinstance(spec, list | tuple) and len(spec) > 0:
        return PerExperience(spec)
    return _checked(spec)


def check_length(spec: MemoryStrength, n_experiences: int) -> None:
    """Checks that a list has a value for each experience of a stream.

    Args:
        spec: as returned by :func:`check_memory_strength`.
        n_experiences: length of the stream.

    Raises:
        ValueError: if a list is shorter.
    """
    if isinstance(spec, PerExperience) and len(spec.values) < n_experiences:
        raise ValueError(
            f"memory_strength lists {len(spec.values)} values but the stream has {n_experiences} "
            "experiences; give one value for each experience."
        )


def memory_strength_at(spec: MemoryStrength, experience: int, clock: Any) -> float:
    """The memory strength now.

    Args:
        spec: as returned by :func:`check_memory_strength`.
        experience: the experience that is being trained on, counted from 0.
        clock: passed to a function; Avalanche's has ``train_iterations``, ``train_exp_iterations`` and more.

    Raises:
        ValueError: if the value is negative or not finite.
    """
    if isinstance(spec, Schedule):
        return _checked(spec.at(experience))
    return _checked(spec(clock) if callable(spec) else spec)


def _checked(value: Any) -> float:
    is_number = isinstance(value, int | float | np.number) and not isinstance(value, bool)
    if not is_number or not (math.isfinite(value) and value >= 0):
        raise ValueError(
            f"memory_strength={value!r} is not allowed; it is a finite number of at least 0, a list with one "
            "for each experience, a Schedule, or a function of the clock that returns one."
        )
    return float(value)
