"""DomainNet: 345 classes of objects in six kinds of images. Each experience has one kind."""

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
    """Clipart, infograph, painting, quickdraw, real and sketch, one domain an experience.

    Peng et al. (2019, arXiv 1812.01754) published the 586,575 images. Their layout is kept. The images lie in
    ``<dataset_root>/domainnet/<domain>/<class>/``. The official split is in the lists
    ``<dataset_root>/domainnet/<domain>_train.txt`` and ``<domain>_test.txt``; each line has the path of an
    image below ``domainnet`` and the number of its class. An image is read from its file when it is needed.
    Nothing is downloaded.

    Args:
        dataset_root: the folder that holds ``domainnet``.
        domains: names of the domains in the order of training. The default is all six in alphabetical order.
        image_size: height and width in pixels to which images are stretched. The default is the size of Tiny
            ImageNet, which has objects of 200 classes. At 32 pixels infographs and sketches are hard to
            recognise; at 224 a pass costs twelve times as much.
        return_task_id: whether experience i has the task label i. By default all experiences have label 0.
        mean: of each channel, used where a transform is None: it is subtracted from pixels in 0..1. The
            default, with that of ``std``, maps pixels to -1..1. It needs no data of later experiences.
        std: of each channel; the difference is divided by it.
        train_transform: transform of the training images, PIL images in RGB. None makes normalised tensors
            ``[3, image_size, image_size]``.
        eval_transform: the same for the test images.

    Returns:
        A benchmark with a train and a test stream. Its classes are the numbers in the lists.

    Raises:
        ValueError: if a list is missing, empty or has a line of another form, if an image of a list is
            missing, if a class is tested but trained in no domain, or if an argument is not allowed. Also
            later, when a file is read that is not an image.
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
    # The files of each folder: reading a folder once is cheaper than asking for each of its files.
    files: dict[str, set[str]] = {}
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"the list {path} cannot be read: {error}") from error
    for number, line in enumerate(lines, 1):
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
    """Refuses classes that are tested but trained in no domain.

    A single domain may lack a class: the published training list of the paintings has no t-shirts.
    """
    trained = {target for images in train for target in images.targets}
    for name, images in zip(domains, test, strict=True):
        if unknown := sorted(set(images.targets) - trained):
            raise ValueError(
                f"{name}_test.txt has class {unknown[0]}, which no training list of the chosen domains has."
            )
