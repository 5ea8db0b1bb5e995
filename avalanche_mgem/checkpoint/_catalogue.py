"""The data of a benchmark by name, so that a checkpoint need not hold them."""

import weakref
from collections.abc import Iterator
from hashlib import sha256
from typing import Any

from avalanche.benchmarks.utils.data import AvalancheDataset
from avalanche.benchmarks.utils.flat_data import FlatData

from avalanche_mgem.checkpoint._file import CheckpointError
from avalanche_mgem.memory import fingerprint

_made: "weakref.WeakKeyDictionary[Any, Catalogue]" = weakref.WeakKeyDictionary()


class Catalogue:
    """The data sets, and the lists of labels and indices, behind all experiences of a benchmark.

    Replay's memory is a subset of them; so is what cumulative training keeps. The same call makes the same
    benchmark in another process, and there the same names stand for the same data.

    Args:
        benchmark: of Avalanche, with its streams.

    Attributes:
        known: the data by name.
        digest: a text that two benchmarks share if their experiences have the same samples.
    """

    def __init__(self, benchmark: Any) -> None:
        streams = getattr(benchmark, "streams", None)
        if not isinstance(streams, dict):
            raise CheckpointError(
                f"benchmark is a {type(benchmark).__name__}; it must be one of Avalanche's, with streams."
            )
        digest = sha256()
        self.known: dict[str, Any] = {}
        found: set[int] = set()
        for name, stream in sorted(streams.items()):
            for place, experience in enumerate(stream):
                dataset = experience.dataset
                digest.update(f"{name} {place} {fingerprint(dataset.eval())}".encode())
                for number, leaf in enumerate(_leaves(dataset)):
                    if id(leaf) not in found:
                        found.add(id(leaf))
                        self.known[f"data set {number} of experience {place} of the {name} stream"] = leaf
        self.digest = digest.hexdigest()

    @classmethod
    def of(cls, benchmark: Any) -> "Catalogue":
        """The benchmark's, which is made once: it reads a few samples of each experience."""
        if benchmark not in _made:
            _made[benchmark] = cls(benchmark)
        return _made[benchmark]


def _leaves(node: Any) -> Iterator[Any]:
    """What lies under subsets and concatenations, and their indices: subsets of these share it with them."""
    if isinstance(node, AvalancheDataset):
        yield from _leaves(node._flat_data)
        for attribute in node._data_attributes.values():
            yield from _leaves(attribute.data)
    elif isinstance(node, FlatData):
        if node._indices is not None:
            yield node._indices
        for inner in node._datasets:
            yield from _leaves(inner)
    else:
        yield node
