"""Avalanche's datasets, which make a whole minibatch at once instead of sample by sample."""

from collections.abc import MutableSequence, Sequence
from typing import Any

import numpy as np
import torch
from avalanche.benchmarks.utils.classification_dataset import (
    ClassificationDataset,
    TaskAwareClassificationDataset,
    TaskAwareSupervisedClassificationDataset,
)
from avalanche.benchmarks.utils.data import AvalancheDataset
from torch import Tensor
from torch.utils.data import default_collate

from avalanche_mgem.data._images import UnknownError
from avalanche_mgem.data._plans import Plan


class Sample(MutableSequence[Any]):
    """One sample as the list that Avalanche's dataset returns.

    The list is read on the first access. :func:`collate` does not access it, so a sample that goes straight
    into a minibatch is never read by itself.
    """

    __slots__ = ("dataset", "place", "read")

    def __init__(self, dataset: Any, place: int) -> None:
        self.dataset = dataset
        self.place = place
        self.read: list[Any] | None = None

    def _list(self) -> list[Any]:
        if self.read is None:
            self.read = self.dataset.read(self.place)
        return self.read

    def __getitem__(self, item: Any) -> Any:
        return self._list()[item]

    def __setitem__(self, item: Any, value: Any) -> None:
        self._list()[item] = value

    def __delitem__(self, item: Any) -> None:
        del self._list()[item]

    def __len__(self) -> int:
        return len(self._list())

    def insert(self, index: int, value: Any) -> None:
        """Inserts as ``list.insert`` does."""
        self._list().insert(index, value)

    def __repr__(self) -> str:
        return repr(self._list())

    def __reduce__(self) -> Any:
        return list, (self._list(),)  # copies and unpickled samples are plain lists


class Samples(Sequence[Any]):
    """The samples at these indices. :func:`collate` makes their minibatch without making any of them."""

    def __init__(self, dataset: Any, indices: Sequence[int]) -> None:
        self.dataset = dataset
        self.indices = indices

    def __getitem__(self, item: Any) -> Any:
        return self.dataset[self.indices[item]]

    def __len__(self) -> int:
        return len(self.indices)


def collate(samples: Sequence[Any]) -> Any:
    """Returns what ``default_collate`` returns.

    Samples that nobody has read yet need only a few operations for the whole minibatch.
    """
    if type(samples) is Samples:
        return samples.dataset.plan(samples.indices)
    if type(samples[0]) is Sample:
        dataset = samples[0].dataset
        indices = [s.place for s in samples if type(s) is Sample and s.dataset is dataset and s.read is None]
        if len(indices) == len(samples):
            return dataset.plan(indices)
    return _collate_mixed(samples)


def _collate_mixed(samples: Sequence[Any]) -> Any:
    """Collates samples of several datasets, such as new samples together with those of a replay buffer."""
    groups: dict[int, list[int]] = {}
    for place, sample in enumerate(samples):
        unread = type(sample) is Sample and sample.read is None
        groups.setdefault(id(sample.dataset) if unread else 0, []).append(place)
    ordinary = [samples[place] for place in groups.pop(0, [])]
    if not groups:
        return default_collate(ordinary)
    batches = [samples[ps[0]].dataset.plan([samples[p].place for p in ps]) for ps in groups.values()]
    order = [place for places in groups.values() for place in places]
    if ordinary:
        batches.append(default_collate(ordinary))
        order += [place for place in range(len(samples)) if place not in set(order)]
    if len({_form(batch) for batch in batches}) > 1:
        return default_collate([list(sample) for sample in samples])  # it names what does not fit
    device = batches[0][0].device
    back = torch.tensor(order).argsort().to(device)
    return [
        torch.cat([values.to(device) for values in column])[back] for column in zip(*batches, strict=True)
    ]


def _form(batch: Any) -> Any:
    if isinstance(batch, list) and all(isinstance(values, Tensor) for values in batch):
        return tuple((values.dtype, values.shape[1:]) for values in batch)
    return type(batch)


class _Batches:
    """A mixin before one of Avalanche's dataset classes. It changes how samples are read and nothing else."""

    _flat_data: Any
    _plans: dict[str, Plan] | None = None  # by group of transforms

    @property
    def plan(self) -> Plan:
        """The plan by which this dataset makes minibatches. It is made on first use.

        Copies that differ in their group of transforms alone share their plans: Avalanche makes such a copy
        for each evaluation.
        """
        plans, group = self._shared_plans(), self._flat_data._transform_groups.current_group
        if group not in plans:
            plans[group] = Plan(self)
        return plans[group]

    def _shared_plans(self) -> dict[str, Plan]:
        if self._plans is None:
            self._plans = {}
        return self._plans

    def with_transforms(self, group_name: str) -> Any:
        """The copy that Avalanche's class makes."""
        result = super().with_transforms(group_name)  # type: ignore[misc]
        result._plans = self._shared_plans()
        return result

    def read(self, index: Any) -> Any:
        """Reads the sample as Avalanche's class does."""
        return super().__getitem__(index)  # type: ignore[misc]

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, np.integer):
            index = int(index)
        if type(index) is int and index in self.plan.known:
            return Sample(self, index)
        return self.read(index)

    def __getitems__(self, indices: Sequence[int]) -> Sequence[Any]:
        """The samples at these indices. Torch's loader asks for a whole minibatch by this method."""
        # A random sample must be read exactly once, so it cannot wait in Samples.
        return [self[index] for index in indices] if self.plan.unknown else Samples(self, indices)

    def __getstate__(self) -> dict[str, Any]:
        # Avalanche also copies a dataset to give it other transforms: the copy needs plans of its own.
        return self.__dict__ | {"_plans": None}


class BatchedAvalancheDataset(_Batches, AvalancheDataset):  # type: ignore[misc]
    """A plain ``AvalancheDataset``."""


class BatchedClassificationDataset(_Batches, ClassificationDataset):  # type: ignore[misc]
    """A ``ClassificationDataset``."""


class BatchedTaskAwareDataset(_Batches, TaskAwareClassificationDataset):  # type: ignore[misc]
    """A ``TaskAwareClassificationDataset``."""


class BatchedSupervisedDataset(_Batches, TaskAwareSupervisedClassificationDataset):  # type: ignore[misc]
    """A ``TaskAwareSupervisedClassificationDataset``, which most of Avalanche's benchmarks have."""


_CLASSES: dict[type[Any], type[Any]] = {
    AvalancheDataset: BatchedAvalancheDataset,
    ClassificationDataset: BatchedClassificationDataset,
    TaskAwareClassificationDataset: BatchedTaskAwareDataset,
    TaskAwareSupervisedClassificationDataset: BatchedSupervisedDataset,
}


def batched(dataset: Any, tree: Any) -> Any:
    """A dataset like this one that makes whole minibatches from ``tree``.

    Args:
        dataset: one of Avalanche's datasets.
        tree: its tree of subsets and concatenations, with :class:`~avalanche_mgem.data._images.Source` as
            leaves.

    Raises:
        UnknownError: if the dataset's class is not one of Avalanche's four for classification, or if its
            ``collate_fn`` is not torch's ``default_collate``.
    """
    kind = type(dataset)
    if kind not in _CLASSES and kind not in _CLASSES.values():
        raise UnknownError(f"dataset {kind.__name__}")
    if dataset.collate_fn not in (default_collate, collate):
        raise UnknownError(f"collate_fn {getattr(dataset.collate_fn, '__name__', dataset.collate_fn)}")
    kind = _CLASSES.get(kind, kind)
    result: Any = object.__new__(kind)
    result.__dict__.update(dataset.__dict__, _flat_data=tree, collate_fn=collate, _plans=None)
    return result
