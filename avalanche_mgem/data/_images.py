"""All images of a data set as one tensor, and a chain of transforms as a few operations on a minibatch."""

from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from avalanche.benchmarks.classic.cmnist import PixelsPermutation
from avalanche.benchmarks.datasets.external_datasets.mnist import TensorMNIST
from avalanche.benchmarks.utils.classification_dataset import lookup
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset, TensorDataset
from torchvision.datasets import CIFAR10, MNIST
from torchvision.transforms import Compose, InterpolationMode, Normalize, RandomRotation, ToTensor

from avalanche_mgem.data._datasets import DecodedImages, LabelledTensors, RGBImages


class UnknownError(Exception):
    """Raised for what must be read sample by sample: it is random, or this package does not know it.

    The message is its name.
    """


@dataclass(frozen=True)
class Recipe:
    """The operations that turn stored images into a minibatch.

    Their order is fixed: move pixels, scale to 0..1, normalise.

    Attributes:
        is_pil: whether the result is a PIL image. PIL images cannot form a minibatch.
        shape: of the result; for a PIL image its channels, height and width.
        dtype: of the result.
        index: for each number of the flattened result, its place in the flattened stored image; None if no
            pixel moves.
        outside: the numbers of the result that are 0, because they come from outside of the stored image.
        white: the stored value that becomes 1 when 0..255 is scaled to 0..1; None for no scaling. It is a
            tensor because CUDA multiplies by the reciprocal of a plain number, which rounds differently.
        statistics: means and standard deviations of each normalisation.
    """

    is_pil: bool
    shape: tuple[int, ...]
    dtype: torch.dtype
    index: Tensor | None = None
    outside: Tensor | None = None
    white: Tensor | None = None
    statistics: tuple[tuple[Tensor, Tensor], ...] = ()

    def __call__(self, stored: Tensor) -> Tensor:
        """Makes the minibatch from stored images ``[n, ...]``, which it may overwrite."""
        x = stored
        if self.index is not None:
            x = x.flatten(1)
            x = x.gather(1, self.index.expand(len(x), -1))
        x = x.view(-1, *self.shape)
        if self.outside is not None:
            x.masked_fill_(self.outside, 0)
        if self.white is not None:
            x = x.to(self.dtype).div_(self.white)
        for mean, std in self.statistics:
            x.sub_(mean).div_(std)
        return x

    def to(self, device: torch.device) -> "Recipe":
        """The recipe for images on this device."""
        moved = (
            None if tensor is None else tensor.to(device) for tensor in (self.index, self.outside, self.white)
        )
        index, outside, white = moved
        statistics = tuple((mean.to(device), std.to(device)) for mean, std in self.statistics)
        return replace(self, index=index, outside=outside, white=white, statistics=statistics)

    def then(self, transform: Any) -> "Recipe":
        """This recipe followed by a transform.

        Raises:
            UnknownError: if the transform is random, or this package does not know it.
        """
        # Types are compared exactly, because a subclass may do anything.
        kind = type(transform)
        if transform is None:
            return self
        if kind is Compose:
            recipe = self
            for part in transform.transforms:
                recipe = recipe.then(part)
            return recipe
        if kind is ToTensor and self.is_pil:
            dtype = torch.get_default_dtype()
            return replace(self, is_pil=False, dtype=dtype, white=torch.tensor(255, dtype=dtype))
        if kind is Normalize and not self.is_pil and self.dtype.is_floating_point and not transform.inplace:
            mean, std = (
                torch.as_tensor(values, dtype=self.dtype) for values in (transform.mean, transform.std)
            )
            if mean.dim() == std.dim() == 1:
                return replace(self, statistics=(*self.statistics, (mean.view(-1, 1, 1), std.view(-1, 1, 1))))
        if kind is PixelsPermutation and not self.statistics:
            return self._moved(_permutation(transform, self))
        if kind is RandomRotation and not self.statistics:
            return self._moved(_rotation(transform, self))
        raise UnknownError(kind.__name__ if kind.__name__ != "function" else transform.__name__)

    def _moved(self, index: Tensor) -> "Recipe":
        """Takes each number of the result from a place of the result so far; the place -1 gives 0."""
        outside, index = index < 0, index.clamp(min=0)
        if self.outside is not None:
            outside |= self.outside.flatten()[index]
        if self.index is not None:
            index = self.index[index]
        return replace(self, index=index, outside=outside.view(self.shape) if outside.any() else None)


class Source(Dataset[Any]):
    """A data set together with its images and targets as tensors.

    A single sample is read as the data set reads it.

    Attributes:
        dataset: the data set.
        device: of the tensors.
        images: all images ``[N, ...]`` as they are stored. Image files are read when their rows are taken.
        targets: all targets ``[N, ...]``.
        recipe: what a data set of this type does with a stored image.
        steps: the data set's own transforms of image and target.

    Raises:
        UnknownError: if the type of the data set is not known.
    """

    def __init__(self, dataset: Any, device: torch.device) -> None:
        self.dataset = dataset
        self.device = device
        images, targets, recipe = _stored(dataset)
        self.images, self.targets, self.recipe = images.to(device), targets.to(device), recipe
        is_vision = isinstance(dataset, MNIST | CIFAR10)
        self.steps = [(dataset.transform, dataset.target_transform)] if is_vision else []

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> Any:
        return self.dataset[index]

    def __reduce__(self) -> Any:
        return Source, (self.dataset, self.device)  # the data set already holds the tensors


def map_targets(targets: Tensor, transform: Any) -> Tensor:
    """Applies a target transform. The only known one is Avalanche's lookup in a table of classes.

    Raises:
        UnknownError: for any other transform.
    """
    if transform is None:
        return targets
    if type(transform) is partial and transform.func is lookup and not transform.keywords:
        table = torch.as_tensor(transform.args[0])
        if table.dtype == targets.dtype == torch.int64:
            return table.to(targets.device)[targets]
    raise UnknownError(f"target transform {type(transform).__name__}")


def _stored(dataset: Any) -> tuple[Tensor | DecodedImages, Tensor, Recipe]:
    """Images and targets as the data set stores them, and the recipe for its samples."""
    if type(dataset) is RGBImages:
        shape = (3, dataset.image_size, dataset.image_size)
        return DecodedImages(dataset), torch.tensor(dataset.targets), Recipe(True, shape, torch.uint8)
    if type(dataset) is LabelledTensors:
        images = dataset.images
        return images, torch.tensor(dataset.targets), Recipe(False, tuple(images.shape[1:]), images.dtype)
    # A subclass is known too, if it inherits the __getitem__ of its parent.
    read = getattr(type(dataset), "__getitem__", None)
    if read is TensorDataset.__getitem__ and len(dataset.tensors) == 2:
        images, targets = dataset.tensors
        return images, targets, Recipe(False, tuple(images.shape[1:]), images.dtype)
    if read not in (MNIST.__getitem__, TensorMNIST.__getitem__, CIFAR10.__getitem__):
        raise UnknownError(f"data set {type(dataset).__name__}")
    images, targets = torch.as_tensor(dataset.data), torch.as_tensor(dataset.targets)
    if len(images) != len(targets):
        where = f"{dataset.root}: {type(dataset).__name__}"
        raise ValueError(f"{where} is damaged: it has {len(targets)} labels for {len(images)} images")
    if images.dtype != torch.uint8 or targets.dtype != torch.int64:
        raise UnknownError(f"data set {type(dataset).__name__} of {images.dtype} and {targets.dtype}")
    if read is CIFAR10.__getitem__:
        size, channels = images.shape[1:3], images.shape[3]
        index = torch.arange(images[0].numel()).view(*size, channels).permute(2, 0, 1).flatten()
        return images, targets, Recipe(True, (channels, *size), images.dtype, index)
    recipe = Recipe(True, (1, *images.shape[1:]), images.dtype)
    if read is TensorMNIST.__getitem__:  # Avalanche's class returns a tensor, as ToTensor makes it
        recipe = replace(recipe, is_pil=False, dtype=torch.float32, white=torch.tensor(255.0))
    return images, targets, recipe


def _permutation(transform: Any, recipe: Recipe) -> Tensor:
    """Where each number of the image comes from."""
    index = torch.as_tensor(transform.permutation)
    size = int(np.prod(recipe.shape))
    if index.shape != (size,) or index.dtype != torch.int64 or index.min() < 0:
        raise UnknownError(f"PixelsPermutation of other than {size} pixels")
    if recipe.is_pil:
        # The transform converts the image to a tensor and back. All 256 values must survive that.
        values = np.arange(256, dtype=np.uint8).reshape(16, 16)
        back = np.asarray(transform._to_image(transform._to_tensor(Image.fromarray(values))))
        if not np.array_equal(back, values):
            raise UnknownError("PixelsPermutation")
    return index


def _rotation(transform: Any, recipe: Recipe) -> Tensor:
    """Where each number of the rotated image comes from.

    It is found by rotating an image whose pixels are their own places.
    """
    if (
        transform.degrees[0] != transform.degrees[1]
        or transform.interpolation is not InterpolationMode.NEAREST
        or transform.expand
        or transform.fill != 0
        or len(recipe.shape) != 3
    ):
        raise UnknownError("RandomRotation")
    channels, height, width = recipe.shape
    places = torch.arange(1, height * width + 1).view(1, height, width)  # 0 stands for outside
    with torch.random.fork_rng(devices=[]):
        if recipe.is_pil:  # a place needs up to three bytes, and a PIL image has one
            layers = [(places[0] >> shift & 255).to(torch.uint8).numpy() for shift in (0, 8, 16)]
            low, middle, high = (
                torch.as_tensor(np.array(transform(Image.fromarray(layer)))).long() for layer in layers
            )
            rotated = (low + (middle << 8) + (high << 16)).unsqueeze(0)
        else:
            rotated = transform(places.to(recipe.dtype)).long()
    index = rotated - 1 + height * width * torch.arange(channels).view(-1, 1, 1)
    return torch.where(rotated > 0, index, -1).flatten()
