"""Finds the stored images behind the samples of an Avalanche dataset, and makes minibatches of them."""

from collections import defaultdict
from collections.abc import Container, Iterator, Sequence
from math import prod
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from avalanche.benchmarks.utils.data import _FlatDataWithTransform
from avalanche.benchmarks.utils.data_attribute import DataAttribute
from avalanche.benchmarks.utils.dataset_utils import SubSequence
from avalanche.benchmarks.utils.flat_data import ConstantSequence, FlatData
from avalanche.benchmarks.utils.transform_groups import (
    DefaultTransformGroups,
    EmptyTransformGroups,
    TransformGroups,
)
from avalanche.benchmarks.utils.transforms import MultiParamCompose, TupleTransform
from torch import Tensor

from avalanche_mgem.data._images import Recipe, Source, UnknownError, map_targets

Rows = npt.NDArray[np.int64]
Step = tuple[Any, Any]  # a transform of the image and one of the target; None if there is none


class Plan:
    """Makes minibatches of a dataset under its current group of transforms.

    A *part* is a set of samples with the same data set behind them and the same transforms.

    Attributes:
        unknown: names of the transforms and data sets that must be read sample by sample.
        known: the indices of the samples that can be read in a minibatch.
    """

    def __init__(self, dataset: Any) -> None:
        n = len(dataset)
        self.unknown: list[str] = []
        self.known: Container[int] = ()
        self._parts: list[tuple[Source, Recipe]] = []
        self._part = torch.full((n,), -1)  # number of each sample's part; -1 for none
        self._rows = torch.empty(n, dtype=torch.long)
        self._targets = torch.empty(0)
        self._labels: list[Tensor] = []
        try:
            for attribute in dataset._data_attributes.values():
                if attribute.use_in_getitem:
                    self._labels.append(torch.from_numpy(integers(attribute, np.arange(n))))
        except UnknownError as error:
            self.unknown.append(str(error))
            return
        self._follow(dataset._flat_data, np.arange(n))
        self._rows = self._rows.to(self._targets.device)
        self._labels = [label.to(self._targets.device) for label in self._labels]
        places = (self._part >= 0).nonzero().squeeze(1)
        self.known = frozenset(places.tolist()) if self.unknown else range(n)

    @property
    def nbytes(self) -> int:
        """Bytes of all minibatches together."""
        image = sum(prod(recipe.shape) * recipe.dtype.itemsize for _, recipe in self._parts[:1])
        return len(self._rows) * image + sum(values.nbytes for values in (self._targets, *self._labels))

    def some(self) -> list[int]:
        """The first, a middle and the last sample of each part."""
        places = [(self._part == number).nonzero().squeeze(1) for number in range(len(self._parts))]
        return sorted({int(place[i]) for place in places for i in (0, len(place) // 2, -1)})

    def __call__(self, indices: Sequence[int]) -> list[Tensor]:
        """The minibatch of these samples: images, targets, and the task labels if samples have them."""
        chosen = torch.as_tensor(indices, dtype=torch.long)
        part = self._part[chosen] if len(self._parts) > 1 else None
        chosen = chosen.to(self._rows.device)
        rows = self._rows.index_select(0, chosen)
        if part is None:
            x = self._images(0, rows)
        else:
            numbers = np.unique(part.numpy()).tolist()
            places = [(part == number).nonzero().squeeze(1).to(rows.device) for number in numbers]
            images = [self._images(n, rows[place]) for n, place in zip(numbers, places, strict=True)]
            x = images[0].new_empty((len(rows), *images[0].shape[1:]))
            for place, image in zip(places, images, strict=True):
                x[place] = image
        return [x, *(values.index_select(0, chosen) for values in (self._targets, *self._labels))]

    def _images(self, number: int, rows: Tensor) -> Tensor:
        source, recipe = self._parts[number]
        return recipe(source.images.index_select(0, rows))

    def _follow(self, tree: Any, everything: Rows) -> None:
        """Finds the part, the stored row and the target of each sample."""
        group = tree._transform_groups.current_group
        numbers: dict[tuple[int, ...], int] = {}
        first: tuple[Any, ...] | None = None
        for leaf, rows, places, nodes in _leaves(tree, everything, everything):
            try:
                source, steps = _chain(leaf, nodes, group)
                targets = source.targets[torch.from_numpy(rows)]
                for _, transform in steps:
                    targets = map_targets(targets, transform)
                # Subsets with the same source and transforms share one part.
                key = (id(source), *(id(transform) for transform, _ in steps))
                recipe = self._parts[numbers[key]][1] if key in numbers else _recipe(source, steps)
                form = source.device, recipe.shape, recipe.dtype, targets.dtype, targets.shape[1:]
                first = first or form
                if form != first:
                    raise UnknownError("samples of several shapes or types")
            except UnknownError as error:
                self.unknown += [] if str(error) in self.unknown else [str(error)]
                continue
            if key not in numbers:
                numbers[key] = len(self._parts)
                self._parts.append((source, recipe))
            if len(self._targets) == 0:
                self._targets = targets.new_empty((len(everything), *targets.shape[1:]))
            place = torch.from_numpy(places)
            self._part[place] = numbers[key]
            self._rows[place] = torch.from_numpy(rows)
            self._targets[place.to(targets.device)] = targets


def _recipe(source: Source, steps: list[Step]) -> Recipe:
    recipe = source.recipe
    for transform, _ in steps:
        recipe = recipe.then(transform)
    if recipe.is_pil:
        raise UnknownError("PIL images")
    return recipe.to(source.device)


def _chain(leaf: Any, nodes: Sequence[Any], group: str) -> tuple[Source, list[Step]]:
    """The data set under a leaf, and the transforms up to its samples, in the order of application."""
    if type(leaf) is not Source:
        raise UnknownError(f"data set {type(leaf).__name__}")
    steps = list(leaf.steps)
    for node in nodes:
        for groups in (node._frozen_transform_groups, node._transform_groups):
            steps += _steps(groups, group)
    return leaf, steps


def _steps(groups: Any, group: str) -> Iterator[Step]:
    if type(groups) not in (TransformGroups, DefaultTransformGroups, EmptyTransformGroups):
        raise UnknownError(type(groups).__name__)
    table = groups.transform_groups
    if group not in table and not isinstance(table, defaultdict):
        raise UnknownError(f"no transforms {group!r}")
    transform = table[group]
    parts: list[Any] = transform.transforms if type(transform) is MultiParamCompose else [transform]
    for part in parts:
        if part is None:
            continue
        if type(part) is not TupleTransform or any(extra is not None for extra in part.transforms[2:]):
            raise UnknownError(type(part).__name__)
        image, target = [*part.transforms, None, None][:2]
        yield image, target


def _leaves(
    node: Any, rows: Rows, places: Rows, above: tuple[Any, ...] = ()
) -> Iterator[tuple[Any, Rows, Rows, tuple[Any, ...]]]:
    """Follows rows from the root of a tree of subsets and concatenations to its leaves.

    Yields:
        A leaf, the chosen rows of it, their places among the rows at the root, and the nodes from the leaf up
        to the root.
    """
    if type(node) not in (FlatData, _FlatDataWithTransform):
        yield node, rows, places, above
        return
    if node._indices is not None:
        rows = _take(node._indices, rows)
    ends = np.asarray(node._cumulative_sizes)
    child = np.searchsorted(ends, rows, side="right")
    for number in np.unique(child).tolist():
        here = child == number
        start = ends[number - 1] if number else 0
        yield from _leaves(node._datasets[number], rows[here] - start, places[here], (node, *above))


def _take(values: Sequence[int], rows: Rows) -> Rows:
    if len(rows) * 8 < len(values):  # few rows: converting all values would cost more
        return np.array([values[row] for row in rows.tolist()], dtype=np.asarray(values[0]).dtype)
    return np.asarray(values)[rows]


def integers(values: Any, rows: Rows) -> Rows:
    """Rows of a data attribute of integers, such as the task labels.

    Raises:
        UnknownError: if the attribute is stored in another way, or has no integers of 64 bits.
    """
    if isinstance(values, DataAttribute):
        return integers(values.data, rows)
    if type(values) is FlatData:
        found = np.empty(len(rows), dtype=np.int64)
        for leaf, leaf_rows, places, _ in _leaves(values, rows, np.arange(len(rows))):
            found[places] = integers(leaf, leaf_rows)
        return found
    if isinstance(values, ConstantSequence):
        some = np.full(len(rows), values[0] if len(values) else 0)
    elif type(values) is SubSequence and values.converter is int and values.slice_ids is None:
        return integers(values._targets, rows)
    elif isinstance(values, list | tuple):
        some = _take(values, rows)
    else:
        raise UnknownError(f"attribute of {type(values).__name__}")
    if some.dtype != np.int64:
        raise UnknownError(f"attribute of {some.dtype}")
    return some
