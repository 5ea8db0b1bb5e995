"""What is kept of one experience, and its groups."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from avalanche_mgem.memory._draws import Index
from avalanche_mgem.memory._grouping import Grouping, split
from avalanche_mgem.memory._groups import MemoryGroups
from avalanche_mgem.memory._storage import Batch, Samples, mapped


@dataclass(eq=False)
class Slot:
    """The memory of one experience.

    Attributes:
        key: the experience's fingerprint.
        experience: its number.
        priorities: of the samples, drawn at random; those with the least stay.
        samples: as many, read or unread.
        groups: the group of each sample, ``[n]``, drawn when first needed.
        split_by: the number of groups and the grouping that made them.
    """

    key: str
    experience: int
    priorities: npt.NDArray[np.float64]
    samples: Samples
    groups: Tensor | None = None
    split_by: tuple[int, str] | None = None

    @property
    def order(self) -> Index:
        """The places of its samples, ordered by group."""
        assert self.groups is not None
        return np.argsort(self.groups.numpy(), kind="stable")

    def cut(self, n: int) -> "Slot":
        """It with at most ``n`` of its samples; those of fewer are split into groups anew."""
        if len(self.priorities) <= n:
            return self
        keep = of_least_priority(self.priorities, n)
        return replace(self, priorities=self.priorities[keep], samples=self.samples.take(keep), groups=None)

    def split(
        self, batch: Batch, *, num_groups: int, grouping: Grouping, generator: np.random.Generator
    ) -> None:
        """Splits its samples into groups: once, and again where other groups are asked for.

        Args:
            batch: its samples, read.
            num_groups: as of the memory.
            grouping: as of the memory.
            generator: of the random groupings, and not used by a split that is there already.

        Raises:
            ValueError: if they cannot be split so.
        """
        split_by = num_groups, "a function" if callable(grouping) else grouping
        if self.groups is not None and self.split_by == split_by:
            return
        self.groups = split(
            batch[0],
            batch[1],
            len(self.priorities),
            num_groups=num_groups,
            grouping=grouping,
            generator=generator,
            where=f"the memory of experience {self.experience}",
        )
        self.split_by = split_by

    def grouped(self, batch: Batch) -> MemoryGroups:
        """Its samples, read, in the order of its groups."""
        assert self.groups is not None
        assert self.split_by is not None
        num_groups, _ = self.split_by
        rows = torch.from_numpy(self.order)
        x, y, labels = mapped(lambda part: part[rows], batch)
        sizes = tuple(torch.bincount(self.groups, minlength=num_groups).tolist())
        origins = tuple((self.experience, group) for group in range(num_groups))
        return MemoryGroups(x, y, labels, sizes, origins, only_tasks(labels, sizes))


def of_least_priority(priorities: npt.NDArray[np.float64], n: int) -> Index:
    """The places of at most ``n`` samples, in their order."""
    return np.sort(np.argsort(priorities)[:n])


def only_tasks(task_labels: Tensor | None, sizes: Sequence[int]) -> tuple[int | None, ...]:
    """The only task label of each group, or None."""
    if task_labels is None:
        return (None,) * len(sizes)
    found = [torch.unique(part).tolist() for part in torch.split(task_labels, list(sizes))]
    return tuple(labels[0] if len(labels) == 1 else None for labels in found)
