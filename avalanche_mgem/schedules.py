r"""Memory strength over time.

The memory strength :math:`\gamma` pulls the update along the old gradients, and the pull grows with the
number of constraints; so it may have to change as experiences accumulate. Experiences are numbered from 0,
and no constraint exists in the first.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np


class Schedule(ABC):
    """Memory strength as a function of the index of the experience that is being trained on."""

    @abstractmethod
    def at(self, experience: int) -> float:
        """The memory strength while training on ``experience`` (from 0)."""


@dataclass(frozen=True)
class _Ramp(Schedule):
    """From ``start`` at experience 0 to ``end`` at experience ``n_experiences - 1``, then constant."""

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
        return self.start + (self.end - self.start) * self._curve(progress)

    @abstractmethod
    def _curve(self, progress: float) -> float:
        """Share of the way from start to end, both in 0..1."""


class Linear(_Ramp):
    """From ``start`` at experience 0 to ``end`` at experience ``n_experiences - 1``, then constant."""

    def _curve(self, progress: float) -> float:
        return progress


class Cosine(_Ramp):
    """Like :class:`Linear`, along half a cosine: slow at both ends."""

    def _curve(self, progress: float) -> float:
        return (1 - math.cos(math.pi * progress)) / 2


@dataclass(frozen=True)
class PerExperience(Schedule):
    """One value for each experience."""

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


MemoryStrength = float | Sequence[float] | Schedule | Callable[[Any], float]


def check_memory_strength(spec: MemoryStrength) -> MemoryStrength:
    """Checks what can be checked before training; a list becomes :class:`PerExperience`.

    Raises:
        ValueError: if ``spec`` is not a number of at least 0, a list of such, a schedule or a function.
    """
    if isinstance(spec, Schedule) or (callable(spec) and not isinstance(spec, type)):
        return spec
    if isinstance(spec, list | tuple) and len(spec) > 0:
        return PerExperience(spec)
    return _checked(spec)


def memory_strength_at(spec: MemoryStrength, experience: int, clock: Any) -> float:
    """The memory strength now.

    Args:
        spec: as returned by :func:`check_memory_strength`.
        experience: index of the experience that is being trained on.
        clock: Avalanche's clock (``train_iterations``, ``train_exp_iterations``, ...), which a function gets.

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
