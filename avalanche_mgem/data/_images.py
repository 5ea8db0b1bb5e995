"""All images of a data set as one tensor, and a chain of transforms as a few operations on a batch."""

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

from avalanche_mgem.data._files import DecodedImages, RGBImages


class UnknownError(Exception):
    """Something that must be read sample by sample, because it is random or not known here; names it."""


@dataclass(frozen=True)
class Recipe:
    """What is done with stored images, in the one order that is known: move pixels, scale, normalize.

    Attributes:
        is_pil: whether the result is a PIL image, which has no batches.
        shape: of the result; channels, height and width of a PIL image.
        dtype: of the result.
        index: for each number of the flattened result its place in the flattened stored image; None if all
            stay.
        outside: which numbers of the result are 0 instead.
        white: the number that becomes 1, if 0..255 becomes 0..1. A tensor: CUDA would multiply by the
            reciprocal of a plain number, which rounds otherwise.
        statistics: means and standard deviations.
    """

    is_pil: bool
    shape: tuple[int, ...]
    dtype: torch.dtype
    index: Tensor | None = None
    outside: Tensor | None = None
    white: Tensor | None = None
    statistics: tuple[tuple[Tensor, Tensor], ...] = ()

    def __call__(self, stored: Tensor) -> Tensor:
        """The batch, of stored images ``[n, ...]`` which it may overwrite."""
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
        """This recipe and a transform after it.

        Raises:
            UnknownError: if the transform is not one that is known here and without chance.
        """
        # Exactly these types: a subclass may do anything.
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
        """Each number of the result from this place of the result so far, 0 for the place -1."""
        outside, index = index < 0, index.clamp(min=0)
        if self.outside is not None:
            outside |= self.outside.flatten()[index]
        if self.index is not None:
            index = self.index[index]
        return replace(self, index=index, outside=outside.view(self.shape) if outside.any() else None)


class Source(Dataset[Any]):
    """A data set that is also at hand as tensors. A sample of it is read as ever.

    Attributes:
        dataset: the data set.
        device: of the tensors.
        images: all images ``[N, ...]`` as they are stored; those in files are read when rows are taken.
        targets: all targets ``[N, ...]``.
        recipe: what the type of the data set does with the images.
        steps: the data set's own transforms, of image and target.

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
        return Source, (self.dataset, self.device)  # the tensors are in the data set already


def map_targets(targets: Tensor, transform: Any) -> Tensor:
    """Targets after a target transform, of which Avalanche's table of classes is known.

    Raises:
        UnknownError: if the transform is another one.
    """
    if transform is None:
        return targets
    if type(transform) is partial and transform.func is lookup and not transform.keywords:
        table = torch.as_tensor(transform.args[0])
        if table.dtype == targets.dtype == torch.int64:
            return table.to(targets.device)[targets]
    raise UnknownError(f"target transform {type(transform).__name__}")


def _stored(dataset: Any) -> tuple[Tensor | DecodedImages, Tensor, Recipe]:
    """Images and targets of a data set as it stores them, and what it makes of them."""
    if type(dataset) is RGBImages:
        shape = (3, dataset.image_size, dataset.image_size)
        return DecodedImages(dataset), torch.tensor(dataset.targets), Recipe(True, shape, torch.uint8)
    read = getattr(type(dataset), "__getitem__", None)  # a subclass that reads as its parent does is fine
    if read is TensorDataset.__getitem__ and len(dataset.tensors) == 2:
        images, targets = dataset.tensors
        return images, targets, Recipe(False, tuple(images.shape[1:]), images.dtype)
    if read not in (MNIST.__getitem__, TensorMNIST.__getitem__, CIFAR10.__getitem__):
        raise UnknownError(f"data set {type(dataset).__name__}")
    images, targets = torch.as_tensor(dataset.data), torch.as_tensor(dataset.targets)
    if images.dtype != torch.uint8 or targets.dtype != torch.int64:
        raise UnknownError(f"data set {type(dataset).__name__} of {images.dtype} and {targets.dtype}")
    if read is CIFAR10.__getitem__:
        size, channels = images.shape[1:3], images.shape[3]
        index = torch.arange(images[0].numel()).view(*size, channels).permute(2, 0, 1).flatten()
        return images, targets, Recipe(True, (channels, *size), images.dtype, index)
    recipe = Recipe(True, (1, *images.shape[1:]), images.dtype)
    if read is TensorMNIST.__getitem__:  # Avalanche's: not a PIL image, but what ToTensor makes of it
        recipe = replace(recipe, is_pil=False, dtype=torch.float32, white=torch.tensor(255.0))
    return images, targets, recipe


def _permutation(transform: Any, recipe: Recipe) -> Tensor:
    """Where each number of the image comes from."""
    index = torch.as_tensor(transform.permutation)
    size = int(np.prod(recipe.shape))
    if index.shape != (size,) or index.dtype != torch.int64 or index.min() < 0:
        raise UnknownError(f"PixelsPermutation of other than {size} pixels")
    if recipe.is_pil:
        # It goes through a tensor and back: do all 256 values survive that?
        values = np.arange(256, dtype=np.uint8).reshape(16, 16)
        back = np.asarray(transform._to_image(transform._to_tensor(Image.fromarray(values))))
        if not np.array_equal(back, values):
            raise UnknownError("PixelsPermutation")
    return index


def _rotation(transform: Any, recipe: Recipe) -> Tensor:
    """Where each number of the rotated image comes from: the same code, on an image of the places."""
    if (
        transform.degrees[0] != transform.degrees[1]
        or transform.interpolation is not InterpolationMode.NEAREST
        or transform.expand
        or transform.fill != 0
        or len(recipe.shape) != 3
    ):
        raise UnknownError("RandomRotation")
    channels, height, width = recipe.shape
    places = torch.arange(1, height * width + 1).view(1, height, width)  # 0 is outside
    with torch.random.fork_rng(devices=[]):
        if recipe.is_pil:  # a byte at a time
            layers = [(places[0] >> shift & 255).to(torch.uint8).numpy() for shift in (0, 8, 16)]
            low, middle, high = (
                torch.as_tensor(np.array(transform(Image.fromarray(layer)))).long() for layer in layers
            )
            rotated = (low + (middle << 8) + (high << 16)).unsqueeze(0)
        else:
            rotated = transform(places.to(recipe.dtype)).long()
    index = rotated - 1 + height * width * torch.arange(channels).view(-1, 1, 1)
    return torch.where(rotated > 0, index, -1).flatten()
