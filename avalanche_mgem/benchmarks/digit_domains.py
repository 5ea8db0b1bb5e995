"""The ten digits in changing domains, with no download but MNIST: a stand-in for Digit-Five."""

from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import numpy.typing as npt
from avalanche.benchmarks import GenericCLScenario
from avalanche.benchmarks.datasets.external_datasets.mnist import get_mnist_dataset
from PIL import Image, ImageDraw, ImageFont
from sklearn.datasets import load_sample_image

from avalanche_mgem.benchmarks.digits import optical_digits
from avalanche_mgem.benchmarks.domains import (
    HALF,
    Transform,
    checked_names,
    domain_incremental,
    image_transforms,
)
from avalanche_mgem.data import RGBImages

Pixels = npt.NDArray[np.uint8]

DIGIT_DOMAINS = ("mnist", "mnist_m", "optical", "printed", "printed_on_photos")

_IMAGE_SIZE = 32  # that of Digit-Five
_PRINTED = (20_000, 5_000)  # training and test images of a printed domain, equally many of each digit
_PHOTOS = ("china.jpg", "flower.jpg")  # 427 x 640 pixels, in scikit-learn
# Columns of the photographs: no test image shows what a training image shows, and both show all their parts.
_STRIPES = (((0, 128), (192, 448), (512, 640)), ((128, 192), (448, 512)))
# The upright and slanted text fonts in matplotlib that have digits.
_FONTS = (
    *(
        f"DejaVu{kind}{face}"
        for kind in ("Sans", "SansMono")
        for face in ("", "-Bold", "-Oblique", "-BoldOblique")
    ),
    *(f"DejaVuSerif{face}" for face in ("", "-Bold", "-Italic", "-BoldItalic")),
    *(f"STIXGeneral{face}" for face in ("", "Bol", "Italic", "BolIta")),
    *("cmr10", "cmb10", "cmss10", "cmtt10"),
)


def DigitDomains(  # noqa: N802 (Avalanche's benchmarks are spelt as classes)
    dataset_root: str | Path | None = None,
    *,
    domains: Sequence[str] = DIGIT_DOMAINS,
    return_task_id: bool = False,
    seed: int | None = None,
    mean: Sequence[float] = HALF,
    std: Sequence[float] = HALF,
    train_transform: Transform | None = None,
    eval_transform: Transform | None = None,
) -> GenericCLScenario:
    """The ten digits as RGB images of 32 x 32 pixels, one kind of images an experience.

    It stands in for Digit-Five where that cannot be downloaded. Its numbers are not those of Digit-Five.

    - ``mnist``: MNIST.
    - ``mnist_m``: MNIST by the recipe of MNIST-M (Ganin and Lempitsky, 2015), ``|photograph - digit|`` with a
      random patch of a photograph for each digit. Their photographs are BSDS500; these are the two of
      scikit-learn.
    - ``optical``: scikit-learn's handwritten digits of 8 x 8 pixels, enlarged.
    - ``printed``: dark digits on light paper in the 20 text fonts of matplotlib, turned and moved.
    - ``printed_on_photos``: the same in colours on patches of photographs, in the manner of SynthDigits.

    Images are made when they are read, each from its number and the seed.

    Args:
        dataset_root: the folder of MNIST, which is downloaded if missing. None is Avalanche's folder. The
            last three domains do not need it.
        domains: names of the domains in the order of training.
        return_task_id: whether experience i has the task label i. By default all experiences have label 0.
        seed: of patches, fonts, places and colours; None draws new ones in every call. The global generators
            are not used.
        mean: of each channel, used where a transform is None: it is subtracted from pixels in 0..1. The
            default, with that of ``std``, maps pixels to -1..1.
        std: of each channel; the difference is divided by it.
        train_transform: transform of the training images, PIL images in RGB. None makes normalised tensors
            ``[3, 32, 32]``.
        eval_transform: the same for the test images.

    Returns:
        A benchmark with a train and a test stream.

    Raises:
        ValueError: if an argument is not allowed.

    Example:
        >>> benchmark = DigitDomains(domains=["optical", "printed"], seed=0)
        >>> [len(experience.dataset) for experience in benchmark.train_stream]
        [1437, 20000]
    """
    domains = checked_names("domains", domains, DIGIT_DOMAINS)
    transforms = image_transforms(train_transform, eval_transform, mean, std)
    entropy = np.random.SeedSequence(seed).entropy
    mnist = get_mnist_dataset(dataset_root) if {"mnist", "mnist_m"} & {*domains} else ()
    pairs = [_domain(name, mnist, [entropy, DIGIT_DOMAINS.index(name)]) for name in domains]
    return domain_incremental(
        [train for train, _ in pairs],
        [test for _, test in pairs],
        return_task_id=return_task_id,
        train_transform=transforms[0],
        eval_transform=transforms[1],
    )


def _domain(name: str, mnist: Sequence[Any], seed: list[Any]) -> tuple[RGBImages, RGBImages]:
    """Training and test images of a domain."""
    parts = []
    for number in (0, 1):
        images: Sequence[Pixels]
        if name in ("mnist", "mnist_m"):
            images, targets = mnist[number].data.numpy(), mnist[number].targets.tolist()
        elif name == "optical":
            x, y = optical_digits()[number]
            images, targets = np.rint(x.reshape(-1, 8, 8) * (255 / 16)).astype(np.uint8), y.tolist()
        else:
            targets = [place % 10 for place in range(_PRINTED[number])]
            images = _Made(_printed, targets, [*seed, number], None)
        if name in ("mnist_m", "printed_on_photos"):
            photos = [photo[:, left:right] for photo in _photos() for left, right in _STRIPES[number]]
            make, sources = (_blended, images) if name == "mnist_m" else (_printed, targets)
            images = _Made(make, sources, [*seed, number], photos)
        parts.append(RGBImages(images, targets, _IMAGE_SIZE))
    return parts[0], parts[1]


class _Made(Sequence[Pixels]):
    """Images that are made when they are asked for, each from its source and a generator of its own."""

    def __init__(
        self,
        make: Callable[..., Pixels],
        sources: Sequence[Any],
        seed: list[Any],
        photos: list[Pixels] | None,
    ) -> None:
        self._make, self._sources, self._seed, self._photos = make, sources, seed, photos

    def __len__(self) -> int:
        return len(self._sources)

    def __getitem__(self, index: Any) -> Any:
        draw = np.random.default_rng([*self._seed, index])
        return self._make(self._sources[index], self._photos, draw)


def _blended(digit: Pixels, photos: list[Pixels], draw: np.random.Generator) -> Pixels:
    """MNIST-M: the absolute difference of a patch and a grey image [28, 28]."""
    patch = _patch(photos, len(digit), draw).astype(np.int16)
    difference: npt.NDArray[np.int16] = np.abs(patch - digit[:, :, None])
    return difference.astype(np.uint8)


def _printed(digit: int, photos: list[Pixels] | None, draw: np.random.Generator) -> Pixels:
    """A digit in a random font, place, size and slant: dark on light, or in a colour on a photograph."""
    size = _IMAGE_SIZE
    font = _font(_FONTS[draw.integers(len(_FONTS))], int(draw.integers(22, 31)))
    left, top = size / 2 + draw.uniform(-3, 3, 2)
    mask = Image.new("L", (size, size))
    ImageDraw.Draw(mask).text((left, top), str(digit), fill=255, font=font, anchor="mm")
    turned = mask.rotate(draw.uniform(-20, 20), Image.Resampling.BILINEAR)
    opaque = np.asarray(turned, dtype=np.float32)[:, :, None] / 255
    if photos is None:
        paper, ink = draw.uniform(200, 255), draw.uniform(0, 80)
        pixels = np.repeat(paper + opaque * (ink - paper), 3, axis=2)
    else:
        patch = _patch(photos, size, draw)
        # Half of the range away from the mean of each channel, so that it can be seen.
        ink = (patch.mean(axis=(0, 1)) + 128 + draw.uniform(-32, 32, 3)) % 256
        pixels = patch + opaque * (ink - patch)
    return np.rint(pixels).astype(np.uint8)


def _patch(photos: list[Pixels], size: int, draw: np.random.Generator) -> Pixels:
    photo = photos[draw.integers(len(photos))]
    top, left = draw.integers(0, np.array(photo.shape[:2]) - size + 1)
    return photo[top : top + size, left : left + size]


def _photos() -> list[Pixels]:
    return [load_sample_image(name) for name in _PHOTOS]


@cache
def _font(name: str, size: int) -> ImageFont.FreeTypeFont:
    path = Path(matplotlib.get_data_path(), "fonts", "ttf", f"{name}.ttf")
    # Pillow's own layout: another one may be installed, and would place digits differently.
    return ImageFont.truetype(str(path), size, layout_engine=ImageFont.Layout.BASIC)
