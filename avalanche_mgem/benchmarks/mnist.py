"""Permuted and rotated MNIST with exactly the samples of Avalanche's, built in a few seconds.

Avalanche asks each of the 70,000 images of every experience for its class, several times. Here an experience
is MNIST itself under a frozen transform.
"""

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from avalanche.benchmarks import GenericCLScenario
from avalanche.benchmarks.classic.cmnist import PixelsPermutation, _default_mnist_eval_transform
from avalanche.benchmarks.datasets import default_dataset_location
from avalanche.benchmarks.datasets.external_datasets.mnist import get_mnist_dataset
from avalanche.benchmarks.utils.classification_dataset import ClassificationDataset
from avalanche.benchmarks.utils.data_attribute import DataAttribute
from torch import Tensor
from torchvision.transforms import RandomRotation

from avalanche_mgem.benchmarks.domains import Transform, domain_incremental
from avalanche_mgem.data import damaged_file

_NORMALIZE: Transform = _default_mnist_eval_transform  # the training transform is the same


def PermutedMNIST(  # noqa: N802 (Avalanche's benchmarks are spelt as classes)
    n_experiences: int,
    *,
    return_task_id: bool = False,
    seed: int | None = None,
    train_transform: Transform | None = _NORMALIZE,
    eval_transform: Transform | None = _NORMALIZE,
    dataset_root: str | Path | None = None,
) -> GenericCLScenario:
    """Avalanche's ``PermutedMNIST``: all ten digits in each experience, each with its own permutation.

    Args:
        n_experiences: number of experiences, at least 1. The first one is permuted too.
        return_task_id: whether experience i has the task label i. By default all experiences have label 0.
        seed: of the permutations; None draws new ones in every call. At one seed they are Avalanche's.
        train_transform: transform of the permuted training images [1, 28, 28], whose pixels are in 0..1.
        eval_transform: transform of the permuted test images.
        dataset_root: the folder of MNIST, which is downloaded if missing. None is Avalanche's folder.

    Returns:
        A benchmark with a train and a test stream.

    Raises:
        ValueError: if ``n_experiences`` is below 1, or a file of MNIST is damaged.
    """
    return _mnist(
        pixel_permutations(n_experiences, seed), return_task_id, train_transform, eval_transform, dataset_root
    )


def pixel_permutations(n_experiences: int, seed: int | None = None) -> list[PixelsPermutation]:
    """Avalanche's permutations of the 784 pixels, one for each experience.

    Args:
        n_experiences: number of permutations, at least 1.
        seed: of the draw; None draws new ones in every call.

    Raises:
        ValueError: if ``n_experiences`` is below 1.
    """
    if n_experiences < 1:
        raise ValueError(f"n_experiences is {n_experiences}; it must be at least 1.")
    draw = np.random.RandomState(seed)
    return [PixelsPermutation(torch.from_numpy(draw.permutation(784))) for _ in range(n_experiences)]


def rotation_angles(n_experiences: int, seed: int | None = None) -> list[float]:
    """The angles of the GEM paper's MNIST rotations.

    The range from 0 to 180 degrees is cut into ``n_experiences`` equal intervals. Experience i gets a random
    angle of the i-th interval.

    Args:
        n_experiences: number of angles.
        seed: of the draw; None draws new ones in every call.

    Returns:
        Increasing angles in degrees, one for each experience.

    Example:
        >>> [round(angle, 1) for angle in rotation_angles(3, seed=0)]
        [50.7, 105.5, 145.2]
    """
    draw = random.Random(seed)
    return [180.0 * (i + draw.random()) / n_experiences for i in range(n_experiences)]


def RotatedMNIST(  # noqa: N802 (Avalanche's benchmarks are spelt as classes)
    n_experiences: int,
    *,
    return_task_id: bool = False,
    seed: int | None = None,
    rotations_list: Sequence[float] | None = None,
    train_transform: Transform | None = _NORMALIZE,
    eval_transform: Transform | None = _NORMALIZE,
    dataset_root: str | Path | None = None,
) -> GenericCLScenario:
    """Avalanche's ``RotatedMNIST`` with the angles of GEM. Avalanche draws each angle from -180 to 180.

    Args:
        n_experiences: number of experiences, at least 1.
        return_task_id: whether experience i has the task label i. By default all experiences have label 0.
        seed: of the angles.
        rotations_list: angles in degrees, one for each experience. None takes :func:`rotation_angles`.
        train_transform: transform of the rotated training images [1, 28, 28], whose pixels are in 0..1.
        eval_transform: transform of the rotated test images.
        dataset_root: the folder of MNIST, which is downloaded if missing. None is Avalanche's folder.

    Returns:
        A benchmark with a train and a test stream.

    Raises:
        ValueError: if ``n_experiences`` is below 1, the number of angles is another, or a file of MNIST
            is damaged.
    """
    if n_experiences < 1:
        raise ValueError(f"n_experiences is {n_experiences}; it must be at least 1.")
    angles = rotation_angles(n_experiences, seed) if rotations_list is None else rotations_list
    if len(angles) != n_experiences:
        raise ValueError(
            f"rotations_list has {len(angles)} angles; the number of rotations should match "
            f"n_experiences={n_experiences}."
        )
    changes = [RandomRotation(degrees=(angle, angle)) for angle in angles]
    return _mnist(changes, return_task_id, train_transform, eval_transform, dataset_root)


def _mnist(
    changes: Sequence[Transform],
    return_task_id: bool,
    train_transform: Transform | None,
    eval_transform: Transform | None,
    dataset_root: str | Path | None,
) -> GenericCLScenario:
    """A benchmark in which experience i is MNIST under the i-th change."""
    root = checked_root("PermutedMNIST", "mnist", dataset_root)
    train, test = (
        [_labelled(mnist).subset(order) for order in _orders(mnist.targets, len(changes))]
        for mnist in get_mnist_dataset(root)
    )
    return domain_incremental(
        train,
        test,
        return_task_id=return_task_id,
        train_transform=train_transform,
        eval_transform=eval_transform,
        changes=changes,
    )


def checked_root(benchmark: str, name: str, dataset_root: str | Path | None) -> Path:
    """The folder of a data set in the format of MNIST, none of whose files is damaged.

    Args:
        benchmark: name of a function whose data set it is.
        name: by which Avalanche knows the data set.
        dataset_root: the folder; None is Avalanche's.

    Raises:
        ValueError: in one line that begins with the path of a damaged file.
    """
    root = Path(default_dataset_location(name) if dataset_root is None else dataset_root)
    if problem := damaged_file(benchmark, root):
        raise ValueError(problem)
    return root


def _labelled(mnist: Any) -> ClassificationDataset:
    return ClassificationDataset([mnist], data_attributes=[DataAttribute(mnist.targets.tolist(), "targets")])


def _orders(targets: Tensor, n_experiences: int) -> list[list[int]]:
    """The images of each experience in Avalanche's order.

    Avalanche numbers the classes of experience i from 10 i to 10 i + 9. It orders images by class, and
    classes in the order in which a Python set of their numbers is iterated.
    """
    of_class = [(targets == digit).nonzero().squeeze(1).tolist() for digit in range(10)]
    class_sets = [set(range(10 * number, 10 * number + 10)) for number in range(n_experiences)]
    return [[index for class_id in ids for index in of_class[class_id % 10]] for ids in class_sets]
