"""DomainNet: 345 classes of objects in six kinds of images, one kind an experience."""

import os
from collections.abc import Sequence
from pathlib import Path

from avalanche.benchmarks import GenericCLScenario

from avalanche_mgem.benchmarks.domains import (
    HALF,
    Transform,
    checked_names,
    domain_incremental,
    image_transforms,
)
from avalanche_mgem.data import RGBImages

DOMAIN_NET = ("clipart", "infograph", "painting", "quickdraw", "real", "sketch")


def DomainNet(  # noqa: N802 (Avalanche's benchmarks are spelt as classes)
    dataset_root: str | Path,
    *,
    domains: Sequence[str] = DOMAIN_NET,
    image_size: int = 64,
    return_task_id: bool = False,
    mean: Sequence[float] = HALF,
    std: Sequence[float] = HALF,
    train_transform: Transform | None = None,
    eval_transform: Transform | None = None,
) -> GenericCLScenario:
    """Clipart, infograph, painting, quickdraw, real and sketch, one an experience.

    Peng et al. (2019, arXiv 1812.01754): 586,575 images. The layout is the published one: images in
    ``<dataset_root>/domainnet/<domain>/<class>/``, and the official split in the lists
    ``<dataset_root>/domainnet/<domain>_train.txt`` and ``<domain>_test.txt``, whose lines are the path of an
    image below ``domainnet`` and its class. Images are read from their files when they are needed. Nothing is
    downloaded.

    Args:
        dataset_root: the folder that holds ``domainnet``.
        domains: names of the domains in the order of training; the default is all six, by name.
        image_size: height and width in pixels to which images are stretched. The default is that of Tiny
            ImageNet, which has objects of 200 classes: at 32 pixels infographs and sketches are hardly to be
            recognised, and at 224 a pass costs twelve times as much.
        return_task_id: whether experience i has the task label i; otherwise all have 0.
        mean: of the channels, subtracted from pixels in 0..1 where a transform is None. The defaults map them
            to -1..1 and look at no data, so at none of later experiences either.
        std: of the channels, by which they are divided then.
        train_transform: transform of the training images, PIL images in RGB; None makes normalised tensors
            ``[3, image_size, image_size]``.
        eval_transform: the same of the test images.

    Returns:
        A benchmark with a train and a test stream. The classes are those of the lists.

    Raises:
        ValueError: if a list is missing, empty or not in that form, an image of a list is missing, a class is
            tested and nowhere trained, or an argument is not allowed; and when a file is read that is no
            image.
    """
    domains = checked_names("domains", domains, DOMAIN_NET)
    transforms = image_transforms(train_transform, eval_transform, mean, std)
    folder = Path(dataset_root) / "domainnet"
    train = [_listed(folder, f"{name}_train.txt", image_size) for name in domains]
    test = [_listed(folder, f"{name}_test.txt", image_size) for name in domains]
    _check_classes(train, test, domains)
    return domain_incremental(
        train,
        test,
        return_task_id=return_task_id,
        train_transform=transforms[0],
        eval_transform=transforms[1],
    )


def _listed(folder: Path, name: str, image_size: int) -> RGBImages:
    """The images of a list."""
    path = folder / name
    if not path.is_file():
        raise ValueError(f"the list {path} is missing.")
    images: list[str] = []
    targets: list[int] = []
    files: dict[
        str, set[str]
    ] = {}  # of each folder: reading a folder once is cheaper than asking for each file
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        image, _, target = line.rpartition(" ")
        if not image or not target.isdecimal():
            raise ValueError(
                f"{path}, line {number}, is {line!r}; it must be the path of an image and a class."
            )
        class_folder, _, file = image.rpartition("/")
        if class_folder not in files:
            files[class_folder] = _files(folder / class_folder)
        if file not in files[class_folder]:
            raise ValueError(f"{path}, line {number}: there is no image {folder / image}.")
        images.append(str(folder / image))
        targets.append(int(target))
    if not images:
        raise ValueError(f"the list {path} is empty.")
    return RGBImages(images, targets, image_size)


def _files(folder: Path) -> set[str]:
    return set(os.listdir(folder)) if folder.is_dir() else set()


def _check_classes(train: Sequence[RGBImages], test: Sequence[RGBImages], domains: Sequence[str]) -> None:
    """Not domain by domain: the published training list of the paintings lacks a class, the t-shirts."""
    trained = {target for images in train for target in images.targets}
    for name, images in zip(domains, test, strict=True):
        if unknown := sorted(set(images.targets) - trained):
            raise ValueError(
                f"{name}_test.txt has class {unknown[0]}, which no training list of the chosen domains has."
            )
