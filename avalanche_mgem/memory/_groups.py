"""The samples behind the reference gradients: a memory group for each constraint."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import overload

import torch
from torch import Tensor

from avalanche_mgem.memory._draws import Draw


@dataclass(frozen=True)
class MemoryGroup:
    """The samples behind one row of G: a group of one past experience's memory.

    Attributes:
        experience: index of the past experience in its stream.
        group: index of the group, ``0..num_groups-1``.
        x: inputs ``[n, ...]``.
        y: targets ``[n, ...]``.
        task_labels: ``[n]``, or None without tasks.
    """

    experience: int
    group: int
    x: Tensor
    y: Tensor
    task_labels: Tensor | None


@dataclass(frozen=True, eq=False)
class MemoryGroups(Sequence[MemoryGroup]):
    """All memory groups of a step, one after another in the same tensors.

    Attributes:
        x: inputs ``[N, ...]``.
        y: targets ``[N, ...]``.
        task_labels: ``[N]``, or None without tasks.
        sizes: number of samples of each of the K groups; their sum is N.
        origins: experience and group of each, as :class:`MemoryGroup` has them.
        tasks: the task label that all samples of a group have; None where they have several, or none.
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
    def __getitem__(self, index: int) -> MemoryGroup: ...
    @overload
    def __getitem__(self, index: slice) -> "MemoryGroups": ...
    def __getitem__(self, index: int | slice) -> "MemoryGroup | MemoryGroups":
        """One group, or a run of them; the tensors are views."""
        if isinstance(index, slice):
            first, last, step = index.indices(len(self))
            if step != 1:
                raise ValueError(f"memory groups are taken in runs; got the step {step}.")
            samples = slice(sum(self.sizes[:first]), sum(self.sizes[:last]))
            labels = None if self.task_labels is None else self.task_labels[samples]
            x, y = self.x[samples], self.y[samples]
            return MemoryGroups(x, y, labels, self.sizes[index], self.origins[index], self.tasks[index])
        k = range(len(self))[index]
        one = self[k : k + 1]
        return MemoryGroup(*self.origins[k], one.x, one.y, one.task_labels)

    def __iter__(self) -> Iterator[MemoryGroup]:
        sizes = list(self.sizes)
        labels: Sequence[Tensor | None] = [None] * len(sizes)
        if self.task_labels is not None:
            labels = torch.split(self.task_labels, sizes)
        for origin, x, y, t in zip(
            self.origins, torch.split(self.x, sizes), torch.split(self.y, sizes), labels, strict=True
        ):
            yield MemoryGroup(*origin, x, y, t)

    def to(self, device: torch.device) -> "MemoryGroups":
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

    def pin(self) -> "MemoryGroups":
        """The same in page-locked host memory, from which copies to a GPU are fast."""
        labels = None if self.task_labels is None else self.task_labels.pin_memory()
        return replace(self, x=self.x.pin_memory(), y=self.y.pin_memory(), task_labels=labels)

    def take(self, draw: Draw) -> "MemoryGroups":
        """The samples of a draw."""
        rows = torch.from_numpy(draw.positions).to(self.x.device)
        labels = None if self.task_labels is None else self.task_labels.index_select(0, rows)
        return self.with_samples(draw, self.x.index_select(0, rows), self.y.index_select(0, rows), labels)

    def with_samples(self, draw: Draw, x: Tensor, y: Tensor, task_labels: Tensor | None) -> "MemoryGroups":
        """The groups of a draw, with these samples."""
        origins, tasks = self.origins, self.tasks
        if len(draw.kept) < len(self):
            origins = tuple(origins[k] for k in draw.kept)
            tasks = tuple(tasks[k] for k in draw.kept)
        return MemoryGroups(x, y, task_labels, draw.sizes, origins, tasks)


@lru_cache(maxsize=16)
def owners(sizes: tuple[int, ...], device: torch.device) -> Tensor:
    """The group that each sample belongs to, ``[N]``; the same tensor in every step of equal sizes."""
    return torch.repeat_interleave(torch.tensor(sizes)).to(device)
