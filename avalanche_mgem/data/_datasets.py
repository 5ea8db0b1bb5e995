"""Data sets of images: those in memory, and files or arrays that are read when they are needed."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset
from torchvision.transforms.functional import pil_to_tensor


class ImageFileError(ValueError):
    """A file that cannot be read as an image; the message begins with its path."""


class LabelledTensors(Dataset[tuple[Tensor, int]]):
    """Images in memory. Classes are integers, in samples and in ``targets``, where Avalanche looks for them.

    Args:
        images: tensor ``[n, ...]``.
        targets: the class of each image, int64 ``[n]``.

    Example:
        >>> LabelledTensors(torch.zeros(2, 1, 8, 8), torch.tensor([7, 3]))[0][1]
        7
    """

    def __init__(self, images: Tensor, targets: Tensor) -> None:
        self.images = images
        self.targets: list[int] = targets.tolist()

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        """The image and its class."""
        return self.images[index], self.targets[index]


class RGBImages(Dataset[tuple[Image.Image, int]]):
    """Images in files or arrays, read as square PIL images in RGB.

    An image is stretched to the square, not cropped. So nothing of it is lost, and training and test images
    are treated alike. Pillow's bilinear filter resizes it; the filter smooths an image that gets smaller.

    Args:
        images: paths of files, or arrays of pixels uint8 ``[height, width]`` or ``[height, width, 3]``.
        targets: the class of each image.
        image_size: height and width of the result in pixels.

    Raises:
        ValueError: if ``image_size`` is below 1.

    Example:
        >>> pixels = np.zeros((28, 28), dtype=np.uint8)
        >>> image, target = RGBImages([pixels], [7], image_size=32)[0]
        >>> image.mode, image.size, target
        ('RGB', (32, 32), 7)
    """

    def __init__(
        self, images: Sequence[str | npt.NDArray[np.uint8]], targets: Sequence[int], image_size: int
    ) -> None:
        if image_size < 1:
            raise ValueError(f"image_size is {image_size}; it must be at least 1.")
        self.images = images
        self.targets = list(targets)  # Avalanche looks for the classes under this name
        self.image_size = image_size

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, index: int) -> tuple[Image.Image, int]:
        """The image and its class.

        Raises:
            ImageFileError: if the file cannot be read as an image; it is a ValueError and names the file.
        """
        image = self.images[index]
        if not isinstance(image, str):
            return self._resized(Image.fromarray(image)), self.targets[index]
        try:
            with Image.open(image) as file:
                # A large JPEG is decoded at an eighth to a half of its size, if that is still at least twice
                # image_size. This is twice as fast, and a smooth image differs by 2 of 255 at most.
                file.draft("RGB", (2 * self.image_size, 2 * self.image_size))
                return self._resized(file), self.targets[index]
        except Exception as error:  # Pillow's decoders raise many kinds of errors for a damaged file
            raise ImageFileError(f"{image} cannot be read as an image: {error}") from error

    def _resized(self, image: Image.Image) -> Image.Image:
        if image.mode in ("I", "F") or image.mode.startswith("I;16"):
            raise ValueError(f"its mode {image.mode!r} has more than 8 bits, which would be cut off")
        size = (self.image_size, self.image_size)
        return image.convert("RGB").resize(size, Image.Resampling.BILINEAR)


class DecodedImages:
    """The images of a data set as bytes. An image is decoded on its first use and then kept.

    :func:`~avalanche_mgem.data.preload` uses it in place of a tensor uint8 ``[N, 3, size, size]``, because it
    reads nothing but rows. Images that are never read take neither time nor memory: the operating system
    hands out a page of memory when it is first written.

    Args:
        dataset: the images.
        device: the device of the returned rows; None (default) is the CPU. The bytes are always in the CPU's
            memory.
    """

    def __init__(self, dataset: RGBImages, device: torch.device | None = None) -> None:
        self._dataset = dataset
        self._device = device
        size = dataset.image_size
        self._pixels = torch.empty((len(dataset), 3, size, size), dtype=torch.uint8)
        self._is_decoded = torch.zeros(len(dataset), dtype=torch.bool)

    def to(self, device: torch.device) -> "DecodedImages":
        """The same images, with rows returned on this device."""
        return DecodedImages(self._dataset, device)

    def index_select(self, dim: int, rows: Tensor) -> Tensor:
        """Rows ``[n]`` of dimension 0, as a new tensor uint8 ``[n, 3, size, size]``."""
        rows = rows.cpu()
        for row in sorted(set(rows[~self._is_decoded[rows]].tolist())):
            self._pixels[row] = pil_to_tensor(self._dataset[row][0])
            self._is_decoded[row] = True
        return self._pixels.index_select(dim, rows).to(self._device)
