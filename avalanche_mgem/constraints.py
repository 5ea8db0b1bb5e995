"""The samples behind the reference gradients: one constraint for each memory group. Tensors only."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import overload

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

Index = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Constraint:
    """The samples behind one row of G: a group of one past experience's memory.

    Attributes:
        experience: index of the past experience in its stream.
        group: index of the group, ``0..num_groups-1``.
        x: inputs ``[n, ...]``.
        y: targets ``[n, ...]``.
        task_labels: ``[n]``, or None if the benchmark has none.
    """

    experience: int
    group: int
    x: Tensor
    y: Tensor
    task_labels: Tensor | None


@dataclass(frozen=True, eq=False)
class Constraints(Sequence[Constraint]):
    """All constraints of a step, one after another in the same tensors.

    Attributes:
        x: inputs ``[N, ...]``.
        y: targets ``[N, ...]``.
        task_labels: ``[N]``, or None if the benchmark has none.
        sizes: number of samples of each of the K constraints; their sum is N.
        origins: experience and group of each constraint.
        tasks: the task label that all samples of a constraint have; None where they have several, or none.
    """

    x: Tensor
    y: Tensor
    task_labels: Tensor | None
    sizes: tuple[int, ...]
    origins: tuple[tuple[int, int], ...]
    tasks: tuple[int | None, ...]

    def __len__(self) -> int:
        return len(self.sizes)

    @overload
    def __getitem__(self, index: int) -> Constraint: ...
    @overload
    def __getitem__(self, index: slice) -> "Constraints": ...
    def __getitem__(self, index: int | slice) -> "Constraint | Constraints":
        """One constraint, or a run of them; its tensors are views."""
        if isinstance(index, slice):
            first, last, step = index.indices(len(self))
            if step != 1:
                raise ValueError(f"constraints are taken in runs; got the step {step}.")
            samples = slice(sum(self.sizes[:first]), sum(self.sizes[:last]))
            labels = None if self.task_labels is None else self.task_labels[samples]
            x, y = self.x[samples], self.y[samples]
            return Constraints(x, y, labels, self.sizes[index], self.origins[index], self.tasks[index])
        k = range(len(self))[index]
        one = self[k : k + 1]
        return Constraint(*self.origins[k], one.x, one.y, one.task_labels)

    def __iter__(self) -> Iterator[Constraint]:
        sizes = list(self.sizes)
        labels: Sequence[Tensor | None] = [None] * len(sizes)
        if self.task_labels is not None:
            labels = torch.split(self.task_labels, sizes)
        for origin, x, y, t in zip(
            self.origins, torch.split(self.x, sizes), torch.split(self.y, sizes), labels, strict=True
        ):
            yield Constraint(*origin, x, y, t)

    def to(self, device: torch.device) -> "Constraints":
        """The same on a device; from pinned memory without waiting for the copy."""
        if self.x.device == device:
            return self
        x, y, t = (
            None if part is None else part.to(device, non_blocking=True)
            for part in (self.x, self.y, self.task_labels)
        )
        assert x is not None
        assert y is not None
        return replace(self, x=x, y=y, task_labels=t)

    def pin(self) -> "Constraints":
        """The same in page-locked host memory, from which copies to a GPU are fast."""
        labels = None if self.task_labels is None else self.task_labels.pin_memory()
        return replace(self, x=self.x.pin_memory(), y=self.y.pin_memory(), task_labels=labels)

    def take(self, draw: "Draw") -> "Constraints":
        """The samples of a draw."""
        rows = torch.from_numpy(draw.positions).to(self.x.device)
        labels = None if self.task_labels is None else self.task_labels.index_select(0, rows)
        return self.of(draw, self.x.index_select(0, rows), self.y.index_select(0, rows), labels)

    def of(self, draw: "Draw", x: Tensor, y: Tensor, task_labels: Tensor | None) -> "Constraints":
        """The constraints of a draw, with these samples."""
        origins, tasks = self.origins, self.tasks
        if len(draw.kept) < len(self):
            origins = tuple(origins[k] for k in draw.kept)
            tasks = tuple(tasks[k] for k in draw.kept)
        return Constraints(x, y, task_labels, draw.sizes, origins, tasks)


@lru_cache(maxsize=16)
def owners(sizes: tuple[int, ...], device: torch.device) -> Tensor:
    """The constraint that each sample belongs to, ``[N]``; the same tensor in every step of equal sizes."""
    return torch.repeat_interleave(torch.tensor(sizes)).to(device)


@dataclass(frozen=True)
class Draw:
    """Which samples a step uses.

    Attributes:
        positions: of the samples among all N.
        sizes: number of samples of each drawn constraint.
        kept: the drawn constraints.
    """

    positions: Index
    sizes: tuple[int, ...]
    kept: tuple[int, ...]


class Draws:
    """Draws the samples of one step after another.

    Every constraint's samples are walked through in random order, and shuffled again once they are used up,
    as minibatches of an epoch are.

    Args:
        sizes: number of samples of each constraint.
        origins: experience and group of each constraint.
        patterns_per_step: samples of a step, shared evenly among its constraints and at least one for each;
            None takes all.
        experiences_per_step: experiences whose constraints a step uses, drawn uniformly; None takes all.
        generator: of all draws.
    """

    def __init__(
        self,
        sizes: Sequence[int],
        origins: Sequence[tuple[int, int]],
        *,
        patterns_per_step: int | None,
        experiences_per_step: int | None,
        generator: np.random.Generator,
    ):
        self._sizes = np.asarray(sizes, dtype=np.int64)
        self._starts = np.cumsum(self._sizes) - self._sizes
        # By their place, not their number: two benchmarks may use the same numbers.
        is_new = [k == 0 or origin[1] <= origins[k - 1][1] for k, origin in enumerate(origins)]
        self._owners = np.cumsum(is_new) - 1
        self._patterns_per_step = patterns_per_step
        self._experiences_per_step = experiences_per_step
        self._generator = generator
        self._order: Index | None = None
        self._cursor = 0
        self._coming: Iterator[Draw] = iter(())

    def next(self) -> Draw:
        """Draws the samples of the next step."""
        draw = next(self._coming, None)
        if draw is None:
            self._coming = iter(self._drawn())
            draw = next(self._coming)
        return draw

    def _drawn(self) -> list[Draw]:
        """The draws of the coming steps: of several at once, where they use the same constraints."""
        kept = self._kept()
        sizes = self._sizes[kept]
        longest = int(sizes.max())
        share = longest if self._patterns_per_step is None else max(1, self._patterns_per_step // len(kept))
        width = min(share, longest)
        columns = np.arange(width)
        if share >= longest:
            places = np.broadcast_to(columns, (1, len(kept), width))
        else:
            number = longest // width if len(kept) == len(self._sizes) else 1
            places = self._walk(kept, sizes, width, number)
        taken = np.minimum(sizes, width)
        positions, is_taken = self._starts[kept][:, None] + places, columns < taken[:, None]
        drawn_sizes, drawn = tuple(taken.tolist()), tuple(kept.tolist())
        return [Draw(of_step[is_taken], drawn_sizes, drawn) for of_step in positions]

    def _kept(self) -> Index:
        """The constraints of this step, in their order."""
        number = 1 + int(self._owners[-1])
        if self._experiences_per_step is None or self._experiences_per_step >= number:
            return np.arange(len(self._sizes))
        drawn = self._generator.choice(number, self._experiences_per_step, replace=False)
        return np.flatnonzero(np.isin(self._owners, drawn))

    def _walk(self, kept: Index, sizes: Index, width: int, number: int) -> Index:
        """The next samples of each constraint in its random order; a small one begins again sooner.

        Returns:
            places in the constraints ``[number, len(kept), width]``, for so many steps.
        """
        longest = int(self._sizes.max())
        if self._order is None or self._cursor + number * width > longest:
            keys = self._generator.random((len(self._sizes), longest))
            keys[np.arange(longest) >= self._sizes[:, None]] = 2.0  # no sample: behind all others
            self._order, self._cursor = np.argsort(keys, axis=1), 0
        steps = self._cursor + np.arange(number * width)
        self._cursor += number * width
        places: Index = np.take_along_axis(self._order[kept], steps % sizes[:, None], axis=1)
        return places.reshape(len(kept), number, width).swapaxes(0, 1)
