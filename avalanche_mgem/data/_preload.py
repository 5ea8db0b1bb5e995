"""Makes whole minibatches from images in memory, for any benchmark whose transforms allow it."""

import copy
import warnings
from collections.abc import Callable
from typing import Any

import torch
from avalanche.benchmarks import CLScenario
from avalanche.benchmarks.scenarios.deprecated.dataset_scenario import DatasetScenario, StreamDef
from avalanche.benchmarks.scenarios.generic_scenario import EagerCLStream, SequenceCLStream
from avalanche.benchmarks.utils.data import _FlatDataWithTransform
from torch import Tensor
from torch.utils.data import default_collate

from avalanche_mgem.data._batches import batched
from avalanche_mgem.data._datasets import ImageFileError
from avalanche_mgem.data._images import Source, UnknownError

_GROUPS = ("train", "eval")


def preload(benchmark: CLScenario, device: str | torch.device | None = None) -> CLScenario:
    """The same benchmark, many times faster to read.

    Avalanche turns one image after the other into a tensor. Here each data set is held once, as one tensor
    that all experiences share, and transforms work on whole minibatches. This serves training, evaluation and
    the filling of a memory. The minibatches are equal bit for bit.

    - Known data sets: torchvision's MNIST and its relatives, CIFAR-10, CIFAR-100, ``TensorDataset``, and this
      package's digits and image folders.
    - Known transforms: ``Compose``, ``ToTensor``, ``Normalize``, Avalanche's permutation of pixels, and
      rotations by a fixed angle.
    - Anything else, such as a random crop, is left to Avalanche, and a warning names it. Training and
      evaluation are judged separately: if only the training transforms are random, evaluation and memory are
      still fast.

    A sample that is accessed by itself, as in ``dataset[0][0]``, is read by Avalanche. One thing differs for
    rotated images: Avalanche draws from torch's global generator even for a fixed angle; the minibatches here
    do not.

    Args:
        benchmark: any benchmark of Avalanche's datasets. It is not changed.
        device: where images are held and transformed; None (default) is the CPU. Minibatches are on that
            device, so with a CUDA device pass ``pin_memory=False`` and no ``num_workers`` to a strategy's
            ``train`` and ``eval``.

    Returns:
        A benchmark with the same streams, experiences, classes and task labels.

    Raises:
        ValueError: if a stream makes its experiences while it is read, as ``split_online_stream`` does, or
            if a data set or an image file is damaged, which the message names.

    Warns:
        UserWarning: names what is still read sample by sample.

    Example:
        >>> from avalanche_mgem.benchmarks import PermutedDigits
        >>> benchmark = preload(PermutedDigits(2, seed=0))
        >>> dataset = benchmark.train_stream[0].dataset
        >>> x, y, task_labels = dataset.collate_fn(dataset.__getitems__([0, 1, 2]))
        >>> x.shape, y.shape
        (torch.Size([3, 1, 8, 8]), torch.Size([3]))
    """
    result, note = preload_with_note(benchmark, device)
    if note:
        warnings.warn(note, stacklevel=2)
    return result


def preload_with_note(
    benchmark: CLScenario, device: str | torch.device | None = None
) -> tuple[CLScenario, str | None]:
    """Does what :func:`preload` does, but returns the text of the warning, or None, instead of warning."""
    loader = _Preloader(torch.device("cpu" if device is None else device))
    result = copy.copy(benchmark)
    if isinstance(benchmark, DatasetScenario):
        definitions = benchmark.stream_definitions.items()
        result.stream_definitions = {name: _definition(old, loader.dataset) for name, old in definitions}
        streams = [benchmark.stream_factory(name, result) for name in result.stream_definitions]
    else:
        streams = [_stream(stream, result, loader.dataset) for stream in benchmark.streams.values()]
    CLScenario.__init__(result, streams)
    return result, loader.note()


def _definition(definition: StreamDef, convert: Callable[[Any], Any]) -> StreamDef:
    """Converts a stream of a benchmark that makes its experiences from a list of datasets."""
    definition.exps_data.load_all_experiences()
    result = copy.copy(definition)
    # It is copied, because a new object would read each sample for its class.
    result.exps_data = copy.copy(definition.exps_data)
    old = definition.exps_data._loaded_experiences.items()
    result.exps_data._loaded_experiences = {number: convert(dataset) for number, dataset in old}
    return result


def _stream(stream: Any, benchmark: CLScenario, convert: Callable[[Any], Any]) -> EagerCLStream:
    """Converts a stream that is a list of experiences."""
    if not isinstance(stream, SequenceCLStream):
        raise ValueError(
            f"stream {stream.name!r} is a {type(stream).__name__}, not a list of experiences; preload the "
            "benchmark first, and split its streams then."
        )
    experiences = [copy.copy(experience) for experience in stream]
    for experience in experiences:
        experience._dataset = convert(experience._dataset)
    return EagerCLStream(stream.name, experiences, benchmark)


class _Preloader:
    """Replaces datasets, and keeps the names of everything that it cannot replace."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        # The old node and the new one, by the id of the old one, which must stay alive.
        self._nodes: dict[int, tuple[Any, Any]] = {}
        self._left: dict[str, list[str]] = {}  # name of what is left to Avalanche: groups

    def dataset(self, dataset: Any) -> Any:
        """A dataset that makes whole minibatches. The same dataset if none of its groups allows that."""
        try:
            result = batched(dataset, self._tree(dataset._flat_data))
        except UnknownError as error:
            self._leave(str(error), _GROUPS)
            return dataset
        is_worth_it = False
        for group in _groups(dataset._flat_data):
            try:
                view = result.with_transforms(group)
            except AssertionError:  # only a part of the tree has this group
                continue
            for name in view.plan.unknown:
                self._leave(name, (group,))
            some = view.plan.some()
            if some and not _is_equal(view, some):
                self._leave("a result that differs", _GROUPS)
                return dataset
            is_worth_it |= bool(some)
        return result if is_worth_it else dataset

    def note(self) -> str | None:
        """One line that names what is still read sample by sample; None if there is nothing."""
        if not self._left:
            return None
        parts = [f"{name} ({', '.join(groups)})" for name, groups in self._left.items()]
        return "preload: left to Avalanche, sample by sample: " + "; ".join(parts)

    def _leave(self, name: str, groups: tuple[str, ...]) -> None:
        known = self._left.setdefault(name, [])
        known += [group for group in groups if group not in known]

    def _tree(self, node: Any) -> Any:
        """The same tree with sources as leaves. A node that several trees share is converted once."""
        if id(node) not in self._nodes:
            self._nodes[id(node)] = node, self._new(node)
        return self._nodes[id(node)][1]

    def _new(self, node: Any) -> Any:
        if type(node) is _FlatDataWithTransform:
            result = copy.copy(node)
            result._datasets = [self._tree(child) for child in node._datasets]
            return result
        try:
            return Source(node.dataset if type(node) is Source else node, self.device)
        except UnknownError:
            return node


def _groups(node: Any) -> list[str]:
    """Names of the groups of transforms in a tree; the first two are those that Avalanche uses."""
    names = dict.fromkeys(_GROUPS)
    nodes = [node]
    while nodes:
        node = nodes.pop()
        if type(node) is _FlatDataWithTransform:
            for groups in (node._frozen_transform_groups, node._transform_groups):
                names |= dict.fromkeys(groups.transform_groups)
            nodes += node._datasets
    return list(names)


def _is_equal(dataset: Any, indices: list[int]) -> bool:
    """Whether the minibatch is exactly the one that Avalanche makes of the same samples."""
    with torch.random.fork_rng(devices=[]):
        try:
            expected = default_collate([dataset.read(index) for index in indices])
            found = dataset.plan(indices)
        except ImageFileError:
            raise
        except Exception:  # then the user shall see Avalanche's own error, when the samples are read
            return False
    return len(expected) == len(found) and all(map(_is_same, expected, found))


def _is_same(a: Any, b: Tensor) -> bool:
    return isinstance(a, Tensor) and a.dtype == b.dtype and a.shape == b.shape and torch.equal(a, b.cpu())
