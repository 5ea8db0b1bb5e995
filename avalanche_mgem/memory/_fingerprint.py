"""Recognises a dataset by its contents."""

from collections.abc import Mapping
from contextlib import suppress
from hashlib import sha256
from typing import Any

import numpy as np
import torch
from torch import Tensor

from avalanche_mgem.memory._storage import check_dataset, seeded

_SAMPLES = 16  # evenly spaced; enough to tell permutations, rotations and classes apart


def fingerprint(dataset: Any) -> str:
    """A text that two datasets share if they have the same length and the same samples.

    Reads 16 samples, evenly spaced. So it also recognises a dataset that was pickled, copied or made again.
    Random transforms draw from a fixed seed, and the user's generators do not advance.

    Args:
        dataset: of torch, with a length.

    Raises:
        ValueError: if its samples have no places, as those of a ``DataLoader``.

    Example:
        >>> fingerprint([(torch.zeros(2), 0)]) == fingerprint([(torch.zeros(2), 0)])
        True
        >>> fingerprint([(torch.zeros(2), 0)]) == fingerprint([(torch.ones(2), 0)])
        False
    """
    check_dataset(dataset)
    n = len(dataset)
    digest = sha256(str(n).encode())
    places = sorted({round(i * (n - 1) / (_SAMPLES - 1)) for i in range(_SAMPLES)}) if n else []
    collate = getattr(dataset, "collate_fn", None) or list
    with seeded(0):
        samples = [dataset[place] for place in places]
        with suppress(RuntimeError, TypeError):  # of different lengths: they are told apart one by one
            samples = collate(samples) if places else []
    for part in _parts(samples):
        digest.update(part)
    return digest.hexdigest()


def _parts(value: Any) -> list[bytes]:
    """The bytes of a sample: its tensors, arrays, images and numbers, in their order."""
    if isinstance(value, Tensor):
        dense = value.detach().to_dense().cpu().contiguous().reshape(-1)
        return [str((value.dtype, tuple(value.shape))).encode(), dense.view(torch.uint8).numpy().tobytes()]
    if isinstance(value, np.ndarray):
        return [str((value.dtype, value.shape)).encode(), value.tobytes()]
    if isinstance(value, Mapping):
        return [part for key, inner in value.items() for part in (str(key).encode(), *_parts(inner))]
    if hasattr(value, "tobytes"):  # an image
        return [value.tobytes()]
    if hasattr(value, "__iter__") and not isinstance(value, str | bytes):
        return [part for inner in value for part in _parts(inner)]
    return [repr(value).encode()]
