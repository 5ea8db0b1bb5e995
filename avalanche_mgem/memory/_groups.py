"""The samples behind the reference gradients: a memory group for each constraint."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from itertools import accumulate, chain, groupby
from typing import Any, overload

import torch
from torch import Tensor

from avalanche_mgem.memory._draws import Draw
from avalanche_mgem.memory._storage import Batch, mapped
from avalanche_mgem.memory._tree import Tree, form_of, tensors_of, tree_split


@dataclass(frozen=True)
class MemoryGroup:
    """The samples behind one row of G: a group of one past experience's memory.

    Attributes:
        experience: index of the past experience in its stream.
        group: index of the group, ``0..num_groups-1``.
        x: inputs ``[n, ...]``: a tensor, or a tree of tensors.
        y: targets ``[n, ...]``, likewise.
        task_labels: ``[n]``, or None without tasks.
    """

    experience: int
    group: int
    x: Tree
    y: Tree
    task_labels: Tensor | None


@dataclass(frozen=True, eq=False)
class MemoryGroups(Sequence[MemoryGroup]):
    """Memory groups of a step, one after another in the same tensors.

    Attributes:
        x: inputs ``[N, ...]``: a tensor, or a tree of tensors.
        y: targets ``[N, ...]``, likewise.
        task_labels: ``[N]``, or None without tasks.
        sizes: number of samples of each of the K groups; their sum is N.
        origins: experience and group of each, as :class:`MemoryGroup` has them.
        tasks: the task label that all samples of a group have; None where they have several, or none.
    """

    x: Tree
    y: Tree
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
            first, last = _run(index, len(self))
            samples = slice(sum(self.sizes[:first]), sum(self.sizes[:last]))
            batch = mapped(lambda part: part[samples], self._batch)
            return MemoryGroups(*batch, self.sizes[index], self.origins[index], self.tasks[index])
        k = range(len(self))[index]
        one = self[k : k + 1]
        return MemoryGroup(*self.origins[k], one.x, one.y, one.task_labels)

    def __iter__(self) -> Iterator[MemoryGroup]:
        labels: Sequence[Tensor | None] = [None] * len(self)
        if self.task_labels is not None:
            labels = torch.split(self.task_labels, list(self.sizes))
        xs = tree_split(self.x, self.sizes)
        ys = xs if self.y is self.x else self.targets()
        for origin, x, y, t in zip(self.origins, xs, ys, labels, strict=True):
            yield MemoryGroup(*origin, x, y, t)

    @property
    def device(self) -> torch.device:
        """Where the samples are."""
        x = self.x if isinstance(self.x, Tensor) else tensors_of(self.x)[0]
        return x.device

    def targets(self) -> Sequence[Tree]:
        """Each group's targets."""
        return tree_split(self.y, self.sizes)

    def end_of_form(self, first: int) -> int:
        """The group after the last one whose samples are in the same tensors as those of ``first``."""
        return len(self)

    def without_tasks(self) -> "MemoryGroups":
        """The same for a model that takes no task labels."""
        return replace(self, task_labels=None, tasks=(None,) * len(self))

    def to(self, device: torch.device) -> "MemoryGroups":
        """The same on a device; from pinned memory without waiting for the copy."""
        if self.device == device:
            return self
        return self._with(mapped(lambda part: part.to(device, non_blocking=True), self._batch))

    def pin(self) -> "MemoryGroups":
        """The same in page-locked host memory, from which copies to a GPU are fast."""
        return self._with(mapped(Tensor.pin_memory, self._batch))

    def take(self, draw: Draw) -> "MemoryGroups":
        """The samples of a draw."""
        rows = torch.from_numpy(draw.positions).to(self.device, non_blocking=True)
        return self.with_samples(draw, mapped(lambda part: part.index_select(0, rows), self._batch))

    def with_samples(self, draw: Draw, batch: Batch) -> "MemoryGroups":
        """The groups of a draw, with these samples."""
        origins, tasks = self.origins, self.tasks
        if len(draw.kept) < len(self):
            origins = tuple(origins[k] for k in draw.kept)
            tasks = tuple(tasks[k] for k in draw.kept)
        return MemoryGroups(*batch, draw.sizes, origins, tasks)

    @property
    def _batch(self) -> Batch:
        return self.x, self.y, self.task_labels

    def _with(self, batch: Batch) -> "MemoryGroups":
        return MemoryGroups(*batch, self.sizes, self.origins, self.tasks)


@dataclass(frozen=True, eq=False)
class MixedGroups(Sequence[MemoryGroup]):
    """Memory groups of a step whose samples differ in form, such as images of several sizes.

    Attributes:
        parts: runs of groups of one form each, two or more.
    """

    parts: tuple[MemoryGroups, ...]

    def __len__(self) -> int:
        return len(self.sizes)

    @overload
    def __getitem__(self, index: int) -> MemoryGroup: ...
    @overload
    def __getitem__(self, index: slice) -> "MemoryGroups | MixedGroups": ...
    def __getitem__(self, index: int | slice) -> "MemoryGroup | MemoryGroups | MixedGroups":
        """One group, or a run of them; the tensors are views."""
        if not isinstance(index, slice):
            k = range(len(self))[index]
            return self[k : k + 1][0]
        first, last = _run(index, len(self))
        found = []
        for part, start in zip(self.parts, self._starts, strict=True):
            run = slice(max(first - start, 0), max(min(last - start, len(part)), 0))
            if run.start < run.stop:
                found.append(part[run])
        return _whole(found)

    def __iter__(self) -> Iterator[MemoryGroup]:
        return chain.from_iterable(self.parts)

    @cached_property
    def sizes(self) -> tuple[int, ...]:
        """See :class:`MemoryGroups`."""
        return tuple(size for part in self.parts for size in part.sizes)

    @cached_property
    def origins(self) -> tuple[tuple[int, int], ...]:
        """See :class:`MemoryGroups`."""
        return tuple(origin for part in self.parts for origin in part.origins)

    @cached_property
    def tasks(self) -> tuple[int | None, ...]:
        """See :class:`MemoryGroups`."""
        return tuple(task for part in self.parts for task in part.tasks)

    @cached_property
    def _starts(self) -> list[int]:
        """The first group of each part."""
        return [0, *accumulate(len(part) for part in self.parts)][:-1]

    @property
    def task_labels(self) -> Tensor | None:
        """Of all samples ``[N]``; None without tasks."""
        labels = [part.task_labels for part in self.parts if part.task_labels is not None]
        return torch.cat(labels) if len(labels) == len(self.parts) else None

    @property
    def device(self) -> torch.device:
        """Where the samples are."""
        return self.parts[0].device

    def end_of_form(self, first: int) -> int:
        """See :meth:`MemoryGroups.end_of_form`."""
        return next(
            start + len(part)
            for part, start in zip(self.parts, self._starts, strict=True)
            if first < start + len(part)
        )

    def without_tasks(self) -> "MixedGroups":
        """See :meth:`MemoryGroups.without_tasks`."""
        return MixedGroups(tuple(part.without_tasks() for part in self.parts))

    def to(self, device: torch.device) -> "MixedGroups":
        """See :meth:`MemoryGroups.to`."""
        return self if self.device == device else MixedGroups(tuple(part.to(device) for part in self.parts))

    def pin(self) -> "MixedGroups":
        """See :meth:`MemoryGroups.pin`."""
        return MixedGroups(tuple(part.pin() for part in self.parts))

    def take(self, draw: Draw) -> "MemoryGroups | MixedGroups":
        """See :meth:`MemoryGroups.take`."""
        taken, sample, first_sample = [], 0, 0
        for part, start in zip(self.parts, self._starts, strict=True):
            places = [i for i, k in enumerate(draw.kept) if start <= k < start + len(part)]
            sizes = tuple(draw.sizes[i] for i in places)
            positions = draw.positions[sample : sample + sum(sizes)] - first_sample
            if places:
                taken.append(part.take(Draw(positions, sizes, tuple(draw.kept[i] - start for i in places))))
            sample += sum(sizes)
            first_sample += sum(part.sizes)
        return _whole(taken)


StepGroups = MemoryGroups | MixedGroups
"""All memory groups of a step."""


def joined(groups: Sequence[MemoryGroups]) -> StepGroups:
    """Groups of several experiences; those of one form that are neighbours share tensors."""
    parts = []
    for _, run in groupby(groups, key=_form):
        first, *others = run
        if others:
            every = [first, *others]
            batch = mapped(lambda *tensors: torch.cat(tensors), *(one._batch for one in every))
            sizes, origins, tasks = (
                tuple(chain.from_iterable(of_one))
                for of_one in zip(*((one.sizes, one.origins, one.tasks) for one in every), strict=True)
            )
            first = MemoryGroups(*batch, sizes, origins, tasks)
        parts.append(first)
    return _whole(parts)


def _form(groups: MemoryGroups) -> Any:
    targets = None if groups.y is groups.x else form_of(groups.y)
    return form_of(groups.x), targets, groups.task_labels is None


def _whole(parts: Sequence[MemoryGroups]) -> StepGroups:
    return parts[0] if len(parts) == 1 else MixedGroups(tuple(parts))


def _run(index: slice, number: int) -> tuple[int, int]:
    """The first group of a slice, and the one after its last."""
    first, last, step = index.indices(number)
    if step != 1:
        raise ValueError(f"memory groups are taken in runs; got the step {step}.")
    return first, last


@lru_cache(maxsize=16)
def owners(sizes: tuple[int, ...], device: torch.device) -> Tensor:
    """The group that each sample belongs to, ``[N]``; the same tensor in every step of equal sizes."""
    return torch.repeat_interleave(torch.tensor(sizes)).to(device)
