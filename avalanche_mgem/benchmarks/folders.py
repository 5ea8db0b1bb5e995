"""Your own image folders as benchmarks, domain-incremental or class-incremental."""

from collections.abc import Sequence
from pathlib import Path

import torch
from avalanche.benchmarks import GenericCLScenario, NCScenario, nc_benchmark

from avalanche_mgem.benchmarks.domains import (
    HALF,
    Transform,
    checked_names,
    domain_incremental,
    image_transforms,
)
from avalanche_mgem.benchmarks.trees import class_names, images_of, numbered, subfolders


def ImageFolders(  # noqa: N802 (Avalanche's benchmarks are spelt as classes)
    dataset_root: str | Path,
    *,
    experiences: Sequence[str] | None = None,
    image_size: int = 64,
    return_task_id: bool = False,
    mean: Sequence[float] = HALF,
    std: Sequence[float] = HALF,
    train_transform: Transform | None = None,
    eval_transform: Transform | None = None,
) -> GenericCLScenario:
    """A domain-incremental benchmark: each folder is an experience, with the same classes in other images.

    The layout is ``<dataset_root>/<experience>/{train,test}/<class>/<image files>``. The names of all class
    folders are the classes, numbered in sorted order. An experience may lack a class. Files without the
    extension of an image are ignored, and so are files and folders whose names begin with a dot.

    Args:
        dataset_root: the folder that holds a folder for each experience.
        experiences: names of these folders in the order of training. None takes all, sorted by name.
        image_size: height and width in pixels to which images are stretched. The default is the size of Tiny
            ImageNet, at which most objects can be recognised.
        return_task_id: whether experience i has the task label i. By default all experiences have label 0.
        mean: of each channel, used where a transform is None: it is subtracted from pixels in 0..1. The
            default, with that of ``std``, maps pixels to -1..1. It needs no data of later experiences.
        std: of each channel; the difference is divided by it.
        train_transform: transform of the training images, PIL images in RGB. None makes normalised tensors
            ``[3, image_size, image_size]``.
        eval_transform: the same for the test images.

    Returns:
        A benchmark with a train and a test stream.

    Raises:
        ValueError: if a folder is missing or empty, if an experience tests a class that it does not train, or
            if an argument is not allowed. Also later, when a file is read that is not an image.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> from PIL import Image
        >>> with TemporaryDirectory() as root:
        ...     for path in ("day/train/cat", "day/test/cat", "night/train/cat", "night/test/cat"):
        ...         Path(root, path).mkdir(parents=True)
        ...         Image.new("RGB", (9, 9)).save(Path(root, path, "1.png"))
        ...     benchmark = ImageFolders(root, image_size=4)
        >>> [len(experience.dataset) for experience in benchmark.train_stream]
        [1, 1]
    """
    root = Path(dataset_root)
    known = subfolders(root, "a folder for each experience")
    names = checked_names("experiences", known if experiences is None else experiences, known)
    ids = numbered(class_name for name in names for class_name in class_names(root / name))
    train, evaluation = image_transforms(train_transform, eval_transform, mean, std)
    return domain_incremental(
        [images_of(root / name / "train", ids, image_size) for name in names],
        [images_of(root / name / "test", ids, image_size) for name in names],
        return_task_id=return_task_id,
        train_transform=train,
        eval_transform=evaluation,
    )


def SplitImageFolder(  # noqa: N802 (Avalanche's benchmarks are spelt as classes)
    n_experiences: int,
    *,
    dataset_root: str | Path,
    image_size: int = 64,
    return_task_id: bool = False,
    seed: int | None = None,
    fixed_class_order: Sequence[int] | None = None,
    class_ids_from_zero_in_each_exp: bool = False,
    mean: Sequence[float] = HALF,
    std: Sequence[float] = HALF,
    train_transform: Transform | None = None,
    eval_transform: Transform | None = None,
) -> NCScenario:
    """A class-incremental benchmark: new classes in each experience, the same number in each, from one tree.

    The layout is ``<dataset_root>/{train,test}/<class>/<image files>``, with the same classes in both. They
    are numbered in sorted order. The same files and folders are ignored as in :func:`ImageFolders`.

    Args:
        n_experiences: number of experiences, a divisor of the number of classes.
        dataset_root: the folder that holds ``train`` and ``test``.
        image_size: height and width in pixels to which images are stretched.
        return_task_id: whether experience i has the task label i. By default all experiences have label 0.
        seed: of the order of the classes; None draws a new one in every call. The state of the global
            generator is restored.
        fixed_class_order: the numbers of the classes in their order. If given, ``seed`` is ignored.
        class_ids_from_zero_in_each_exp: whether the labels count from 0 in each experience.
        mean: of each channel, see :func:`ImageFolders`.
        std: of each channel, see :func:`ImageFolders`.
        train_transform: transform of the training images. None makes normalised tensors.
        eval_transform: the same for the test images.

    Returns:
        A benchmark with a train and a test stream.

    Raises:
        ValueError: if a folder is missing or empty, if ``train`` and ``test`` do not have the same classes,
            if ``n_experiences`` does not divide their number, or if an argument is not allowed. Also later,
            when a file is read that is not an image.
    """
    root = Path(dataset_root)
    ids = numbered(class_names(root))
    train, test = (images_of(root / split, ids, image_size) for split in ("train", "test"))
    if untested := sorted(set(train.targets) - set(test.targets)):
        raise ValueError(f"{root / 'test'} has no folder for the class {list(ids)[untested[0]]!r} of train.")
    if n_experiences < 1 or len(ids) % n_experiences:
        raise ValueError(
            f"n_experiences is {n_experiences}; it must divide {len(ids)}, the number of classes."
        )
    if fixed_class_order is not None and sorted(fixed_class_order) != list(range(len(ids))):
        raise ValueError(
            f"fixed_class_order is {list(fixed_class_order)}; it must have each of 0 to {len(ids) - 1} once."
        )
    transforms = image_transforms(train_transform, eval_transform, mean, std)
    with torch.random.fork_rng():  # nc_benchmark seeds the global generator
        return nc_benchmark(
            train,
            test,
            n_experiences=n_experiences,
            task_labels=return_task_id,
            seed=torch.seed() if seed is None else seed,
            fixed_class_order=fixed_class_order,
            class_ids_from_zero_in_each_exp=class_ids_from_zero_in_each_exp,
            train_transform=transforms[0],
            eval_transform=transforms[1],
        )
