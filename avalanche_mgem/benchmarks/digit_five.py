"""Digit-Five: the ten digits in five kinds of images. Each experience has one kind."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from avalanche.benchmarks import GenericCLScenario
from torchvision.datasets import MNIST, SVHN, USPS

from avalanche_mgem.benchmarks.domains import (
    HALF,
    Transform,
    checked_names,
    domain_incremental,
    image_transforms,
)
from avalanche_mgem.benchmarks.trees import images_of, subfolders
from avalanche_mgem.data import MNIST_FILES, RGBImages, damaged_file

DIGIT_FIVE = ("mnist", "mnist_m", "svhn", "usps", "synth_digits")

_IMAGE_SIZE = 32  # SVHN's; the smaller images of MNIST and USPS are enlarged
_IDS = {str(digit): digit for digit in range(10)}


def _mnist(root: Path, is_train: bool) -> tuple[Any, Any]:
    mnist = MNIST(root, is_train)
    return mnist.data.numpy(), mnist.targets.tolist()


def _svhn(root: Path, is_train: bool) -> tuple[Any, Any]:
    svhn = SVHN(root, "train" if is_train else "test")
    return svhn.data.transpose(0, 2, 3, 1), svhn.labels.tolist()


def _usps(root: Path, is_train: bool) -> tuple[Any, Any]:
    usps = USPS(root, is_train)
    return usps.data, usps.targets


# Torchvision reads these domains from the files in which they were published.
_PUBLISHED: dict[str, tuple[tuple[str, ...], Callable[[Path, bool], tuple[Any, Any]]]] = {
    "mnist": (MNIST_FILES, _mnist),
    "svhn": (("train_32x32.mat", "test_32x32.mat"), _svhn),
    "usps": (("usps.bz2", "usps.t.bz2"), _usps),
}


def DigitFive(  # noqa: N802 (Avalanche's benchmarks are spelt as classes)
    dataset_root: str | Path,
    *,
    domains: Sequence[str] = DIGIT_FIVE,
    return_task_id: bool = False,
    mean: Sequence[float] = HALF,
    std: Sequence[float] = HALF,
    train_transform: Transform | None = None,
    eval_transform: Transform | None = None,
) -> GenericCLScenario:
    """MNIST, MNIST-M, SVHN, USPS and SynthDigits as RGB images of 32 x 32 pixels, one data set an experience.

    Peng et al. (2019, arXiv 1812.01754) made the collection. The layout of the files is
    ``<dataset_root>/digit_five/<domain>/{train,test}/<digit>/<image files>``. If MNIST, SVHN or USPS has no
    folder there, it is read from the files that torchvision's data set keeps in ``dataset_root``. Nothing is
    downloaded.

    Args:
        dataset_root: the folder that holds ``digit_five``.
        domains: names of the domains in the order of training: any of ``mnist``, ``mnist_m``, ``svhn``,
            ``usps`` and ``synth_digits``. The order of the default is this project's own choice.
        return_task_id: whether experience i has the task label i. By default all experiences have label 0.
        mean: of each channel, used where a transform is None: it is subtracted from pixels in 0..1. The
            default, with that of ``std``, maps pixels to -1..1. It needs no data of later experiences.
        std: of each channel; the difference is divided by it.
        train_transform: transform of the training images, PIL images in RGB. None makes normalised tensors
            ``[3, 32, 32]``.
        eval_transform: the same for the test images.

    Returns:
        A benchmark with a train and a test stream.

    Raises:
        ValueError: if a domain or one of its digits is missing, or if an argument is not allowed. Also later,
            when a file is read that is not an image.
    """
    domains = checked_names("domains", domains, DIGIT_FIVE)
    transforms = image_transforms(train_transform, eval_transform, mean, std)
    pairs = [_domain(Path(dataset_root), name) for name in domains]
    return domain_incremental(
        [train for train, _ in pairs],
        [test for _, test in pairs],
        return_task_id=return_task_id,
        train_transform=transforms[0],
        eval_transform=transforms[1],
    )


def _domain(root: Path, name: str) -> tuple[RGBImages, RGBImages]:
    """Training and test images of a domain."""
    folder = root / "digit_five" / name
    if folder.is_dir():
        return _from_folder(folder / "train"), _from_folder(folder / "test")
    problem = f"domain {name!r} is missing: there is no folder {folder}"
    if name not in _PUBLISHED:
        raise ValueError(f"{problem}.")
    files, read = _PUBLISHED[name]
    for file in files:
        if not (root / file).is_file():
            raise ValueError(f"{problem}, and no file {root / file}, which torchvision would read.")
    if name == "mnist" and (damage := damaged_file("PermutedMNIST", root)):
        raise ValueError(damage)
    try:
        parts = read(root, True), read(root, False)
    except Exception as error:  # torchvision, SciPy and bz2 raise many kinds for a damaged file
        raise ValueError(f"torchvision cannot read {' and '.join(files)} in {root}: {error}") from error
    train, test = (RGBImages(images, targets, _IMAGE_SIZE) for images, targets in parts)
    return train, test


def _from_folder(folder: Path) -> RGBImages:
    names = subfolders(folder, "the ten folders 0 to 9")
    if names != list(_IDS):
        raise ValueError(f"the folder {folder} must hold the ten folders 0 to 9; it has {', '.join(names)}.")
    return images_of(folder, _IDS, _IMAGE_SIZE)
