"""Evaluation with torch's loader in place of Avalanche's, and with minibatches that are kept."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any
from weakref import WeakKeyDictionary

import torch
from avalanche.benchmarks.utils.data_loader import SingleDatasetDataLoader
from avalanche.core import SupervisedPlugin
from torch import Tensor
from torch.utils.data import DataLoader, SequentialSampler

from avalanche_mgem.data._batches import collate
from avalanche_mgem.data._plans import Plan

KEPT_BYTES = 640 * 2**20  # twenty times the test images of MNIST have 598 MiB


class BatchedEvaluation(SupervisedPlugin):  # type: ignore[misc]
    """Evaluates preloaded benchmarks with torch's own loader. The minibatches stay the same.

    Avalanche's loader first follows each sample through the subsets and concatenations of its dataset, to
    find a faster way. Then it asks for one sample after the other. Both take longer than a small network
    takes to evaluate the samples.

    An experience is tested again after each one that is learnt. So its minibatches are kept, up to a number
    of bytes in all. A minibatch that an operation of torch has changed in place, as a model may do with its
    input, is made anew.

    Args:
        keep_bytes: of minibatches that are kept, on the device of the benchmark; the default of 640 MiB holds
            twenty times the test images of MNIST. 0 keeps none. Experiences that do not fit are made anew in
            each evaluation.

    Example:
        >>> import torch
        >>> from avalanche.training import Naive
        >>> from avalanche_mgem.benchmarks import SplitDigits
        >>> from avalanche_mgem.data import preload
        >>> model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10))
        >>> sgd = torch.optim.SGD(model.parameters(), lr=0.1)
        >>> strategy = Naive(model=model, optimizer=sgd, plugins=[BatchedEvaluation()], evaluator=None)
        >>> results = strategy.eval(preload(SplitDigits(5, seed=0)).test_stream)
    """

    def __init__(self, keep_bytes: int = KEPT_BYTES) -> None:
        super().__init__()
        self.keep_bytes = keep_bytes
        self._kept: WeakKeyDictionary[Plan, _Kept] = WeakKeyDictionary()

    def __getstate__(self) -> dict[str, Any]:
        """A checkpoint holds no minibatches."""
        return {name: value for name, value in self.__dict__.items() if name != "_kept"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _kept=WeakKeyDictionary())

    def before_eval_exp(self, strategy: Any, *_: Any, **__: Any) -> None:
        """Replaces the loader of a preloaded dataset."""
        loader = strategy.dataloader
        is_plain = type(loader) is SingleDatasetDataLoader and not loader.distributed_sampling
        if is_plain and loader.loader_kwargs.get("collate_fn") is collate:
            (dataset,), (size,) = loader.datasets, loader.batch_sizes
            options = {"batch_size": size, **loader.loader_kwargs}
            strategy.dataloader = self._minibatches(dataset, options)

    def _minibatches(self, dataset: Any, options: dict[str, Any]) -> Any:
        """Torch's loader, which keeps the minibatches where that is possible."""
        loader, plan = DataLoader(dataset, **options), getattr(dataset, "plan", None)
        if (
            plan is None  # a dataset of Avalanche's around a preloaded one
            or plan.unknown  # random transforms
            or type(loader.sampler) is not SequentialSampler
            or loader.num_workers  # what comes from a process of a loader holds an open file
            or torch.is_inference_mode_enabled()  # nothing tells whether such a tensor was changed
        ):
            return loader
        kept = self._kept.pop(plan, None)
        if kept is None or kept.options != options:
            kept = _Kept(options, plan.nbytes)
        if kept.nbytes + sum(other.nbytes for other in self._kept.values()) > self.keep_bytes:
            return loader
        self._kept[plan] = kept
        return _KeepingLoader(loader, kept)


@dataclass
class _Kept:
    """The minibatches of one experience, from the first time that they are asked for."""

    options: dict[str, Any]
    nbytes: int
    minibatches: list[list[Tensor]] = field(default_factory=list)
    versions: list[int] = field(default_factory=list)

    def read_versions(self) -> list[int]:
        """How often each tensor was changed in place: torch counts it."""
        return [values._version for minibatch in self.minibatches for values in minibatch]


class _KeepingLoader:
    """A loader that makes its minibatches the first time, and when one of them was changed in place."""

    def __init__(self, loader: Any, kept: _Kept) -> None:
        self._loader, self._kept = loader, kept

    def __len__(self) -> int:
        return len(self._loader)

    def __iter__(self) -> Iterator[list[Tensor]]:
        kept, made = self._kept, iter(self._loader)  # torch's loader draws a number here, each time
        if not kept.minibatches or kept.read_versions() != kept.versions:
            kept.minibatches = list(made)
            kept.versions = kept.read_versions()
        return map(list, kept.minibatches)  # a strategy changes the list that it gets
