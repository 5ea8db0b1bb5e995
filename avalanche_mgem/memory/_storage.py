"""How the samples of an experience rest in the memory: as tensors, or in their dataset to be read anew."""

import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import default_collate

from avalanche_mgem.memory._draws import Index

Batch = tuple[Tensor, Tensor, Tensor | None]
"""Inputs ``[n, ...]``, targets ``[n, ...]`` and task labels ``[n]``, which are None without tasks."""


class StoredSamples:
    """Samples that were read once.

    Args:
        batch: the samples.
    """

    def __init__(self, batch: Batch):
        self._batch = batch

    def take(self, places: Index) -> "StoredSamples":
        """The samples at these places."""
        x, y, task_labels = self._batch
        return StoredSamples((x[places], y[places], None if task_labels is None else task_labels[places]))

    def joined(self, other: "StoredSamples") -> "StoredSamples":
        """These samples and then the others."""
        (x, y, t), (other_x, other_y, other_t) = self._batch, other._batch
        labels = None if t is None or other_t is None else torch.cat([t, other_t])
        return StoredSamples((torch.cat([x, other_x]), torch.cat([y, other_y]), labels))

    def read(self, seed: int) -> Batch:
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

    def joined(self, other: "UnreadSamples") -> "UnreadSamples":
        """These samples and then the others."""
        return UnreadSamples(self._places + other._places)

    def read(self, seed: int) -> Batch:
        """The samples, with random transforms of this seed; the user's generators do not advance."""
        collate = getattr(self._places[0][0], "collate_fn", None) or default_collate
        with seeded(seed):
            batch = collate([dataset[index] for dataset, index in self._places])
        return batch[0], batch[1], batch[-1] if len(batch) > 2 else None


Samples = StoredSamples | UnreadSamples


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
