"""How the samples of an experience rest in the memory: as tensors, or in their dataset to be read anew."""

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, default_collate

from avalanche_mgem.memory._draws import Index
from avalanche_mgem.memory._tree import Tree, check_batch, form_of, tensors_of, tree_map

Batch = tuple[Tree, Tree, Tensor | None]
"""Inputs and targets, trees of tensors ``[n, ...]``, and task labels ``[n]`` or None."""

Collate = Callable[[list[Any]], Any]

Unpack = Callable[[Any], Batch]


def check_dataset(dataset: Any) -> None:
    """Checks that the samples have a number and can be read one by one.

    Raises:
        ValueError: saying what to give, such as the dataset of a loader.
    """
    if isinstance(dataset, DataLoader):
        raise ValueError("a DataLoader gives batches; the memory draws single samples: give loader.dataset.")
    has_places = hasattr(dataset, "__getitem__") and hasattr(dataset, "__len__")
    if isinstance(dataset, IterableDataset) or not has_places:
        raise ValueError(
            f"the samples of a {type(dataset).__name__} have no number and no places, and the memory draws "
            "some of all; give a dataset with __len__ and __getitem__, such as list(dataset)."
        )


def unpacked(batch: Any) -> Batch:
    """Inputs, targets and task labels of a batch ``(inputs, targets, ...)``.

    The last of three or more parts is the task labels if it holds an integer for each sample. Only a model
    that takes task labels reads them.

    Raises:
        ValueError: if the batch has another form.
    """
    if isinstance(batch, Mapping) or not hasattr(batch, "__getitem__") or isinstance(batch, Tensor):
        raise ValueError(
            f"a batch of the dataset is a {type(batch).__name__}, which does not tell inputs from targets; "
            "give a collate_fn that returns the two."
        )
    if len(batch) < 2:
        raise ValueError(f"a batch has inputs and targets; that of the dataset has {len(batch)} parts.")
    labels = batch[-1] if len(batch) > 2 else None
    return batch[0], batch[1], labels if _is_integers(labels) else None


def _is_integers(labels: Any) -> bool:
    """Whether it is an integer tensor with one for each sample."""
    if not isinstance(labels, Tensor) or labels.dim() != 1:
        return False
    return not labels.is_floating_point() and labels.dtype != torch.bool


@dataclass(frozen=True)
class Reading:
    """How samples become a batch.

    Attributes:
        collate_fn: in place of that of the dataset; None takes the dataset's, or torch's own.
        unpack: inputs, targets and task labels of what it returns.
    """

    collate_fn: Collate | None = None
    unpack: Unpack = unpacked

    def batch(self, places: Sequence[tuple[Any, int]], seed: int) -> Batch:
        """Reads samples, with random transforms of this seed; the user's generators do not advance.

        Args:
            places: dataset and index of each.
            seed: of the transforms.

        Raises:
            ValueError: if they make no batch that the memory can keep.
        """
        collate = self.collate_fn or getattr(places[0][0], "collate_fn", None) or default_collate
        with seeded(seed):
            samples = [dataset[index] for dataset, index in places]
            try:
                batch = collate(samples)
            except (RuntimeError, TypeError) as error:
                if collate is not default_collate:
                    raise
                reason = str(error).partition("\n")[0]
                raise ValueError(
                    f"the samples do not make a batch: {reason}; give a collate_fn, as a DataLoader has it."
                ) from error
        x, y, task_labels = self.unpack(batch)
        check_batch(x, len(places), "inputs")
        if y is not x:
            check_batch(y, len(places), "targets")
        if not tensors_of(x):
            raise ValueError("the inputs of a batch hold no tensor.")
        return x, y, task_labels if task_labels is None or len(task_labels) == len(places) else None


class StoredSamples:
    """Samples that were read once.

    Args:
        batch: the samples.
    """

    def __init__(self, batch: Batch):
        self._batch = batch

    def take(self, places: Index) -> "StoredSamples":
        """The samples at these places."""
        return StoredSamples(mapped(lambda part: part[places], self._batch))

    def fits(self, other: "StoredSamples") -> bool:
        """Whether the samples have one form, and can be in the same tensors."""
        return all(form_of(a) == form_of(b) for a, b in zip(self._batch[:2], other._batch[:2], strict=True))

    def joined(self, other: "StoredSamples") -> "StoredSamples":
        """These samples and then the others."""
        return StoredSamples(mapped(lambda *parts: torch.cat(parts), self._batch, other._batch))

    def read(self, seed: int, reading: Reading) -> Batch:
        """The samples."""
        return self._batch


class UnreadSamples:
    """Samples that stay in their datasets, whose random transforms are drawn anew at every use.

    Args:
        places: dataset and index of each sample.
    """

    def __init__(self, places: Sequence[tuple[Any, int]]):
        self._places = list(places)

    def take(self, places: Index) -> "UnreadSamples":
        """The samples at these places."""
        return UnreadSamples([self._places[place] for place in places])

    def fits(self, other: "UnreadSamples") -> bool:
        """Whether the samples can be read together; the collate function sees to that."""
        return True

    def joined(self, other: "UnreadSamples") -> "UnreadSamples":
        """These samples and then the others."""
        return UnreadSamples(self._places + other._places)

    def read(self, seed: int, reading: Reading) -> Batch:
        """The samples, with random transforms of this seed; the user's generators do not advance."""
        return reading.batch(self._places, seed)


Samples = StoredSamples | UnreadSamples


def mapped(function: Callable[..., Tensor], *batches: Batch) -> Batch:
    """A batch with ``function`` of the tensors of these; targets that are the inputs are so afterwards."""
    xs, ys, labels = zip(*batches, strict=True)
    x = tree_map(function, *xs)
    is_input = all(y is own for own, y in zip(xs, ys, strict=True))
    y = x if is_input else tree_map(function, *ys)
    return x, y, None if any(t is None for t in labels) else function(*labels)


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Lets random transforms draw from generators of this seed, and gives the user's back as they were."""
    states = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            random.seed(seed)
            np.random.seed(seed)
            yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
