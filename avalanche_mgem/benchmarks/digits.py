"""scikit-learn's handwritten digits as benchmarks: real images that need no download.

There are 1,797 images of 8 x 8 pixels in ten classes: 1,437 for training and 360 for testing. The split is
stratified and does not depend on the seed. The two functions mirror Avalanche's ``PermutedMNIST`` and
``SplitMNIST``.
"""

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import torch
from avalanche.benchmarks import GenericCLScenario, NCScenario, nc_benchmark
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import Tensor

from avalanche_mgem.benchmarks.domains import domain_incremental
from avalanche_mgem.data import LabelledTensors

Transform = Callable[[Tensor], Tensor]

_TEST_SIZE = 360  # a fifth

_load = cache(load_digits)  # it reads a text file; what is made of it below are copies


def optical_digits() -> list[tuple[Any, Any]]:
    """Training and test digits: pixels from 0 to 16, float32 [n, 64], and classes [n]."""
    images, labels = _load(return_X_y=True)
    train_x, test_x, train_y, test_y = train_test_split(
        images.astype("float32"), labels, test_size=_TEST_SIZE, random_state=0, stratify=labels
    )
    return [(train_x, train_y), (test_x, test_y)]


def _digits() -> list[tuple[Tensor, Tensor]]:
    """Training and test digits: images [n, 1, 8, 8] and classes [n], sorted by class as Avalanche does it.

    The images have the training set's mean 0 and standard deviation 1.
    """
    (train_x, train_y), (test_x, test_y) = optical_digits()
    mean, std = train_x.mean(), train_x.std()
    digits = []
    for x, y in ((train_x, train_y), (test_x, test_y)):
        order = y.argsort(kind="stable")
        images = torch.from_numpy((x[order] - mean) / std).reshape(-1, 1, 8, 8)
        digits.append((images, torch.from_numpy(y[order])))
    return digits


def PermutedDigits(  # noqa: N802 (Avalanche's benchmarks are spelt as classes)
    n_experiences: int,
    *,
    return_task_id: bool = False,
    seed: int | None = None,
    train_transform: Transform | None = None,
    eval_transform: Transform | None = None,
) -> GenericCLScenario:
    """All ten digits in each experience. Each experience has its own fixed permutation of the 64 pixels.

    The first experience is permuted too, as in Avalanche's ``PermutedMNIST``.

    Args:
        n_experiences: number of experiences, at least 1.
        return_task_id: whether experience i has the task label i. By default all experiences have label 0.
        seed: of the permutations; None draws new ones in every call. The global generators are not used.
        train_transform: transform of the permuted training images [1, 8, 8].
        eval_transform: transform of the permuted test images.

    Returns:
        A benchmark with a train and a test stream.

    Raises:
        ValueError: if ``n_experiences`` is below 1.

    Example:
        >>> benchmark = PermutedDigits(3, seed=0)
        >>> [len(experience.dataset) for experience in benchmark.train_stream]
        [1437, 1437, 1437]
    """
    if n_experiences < 1:
        raise ValueError(f"n_experiences is {n_experiences}; it must be at least 1.")
    digits = _digits()
    generator = torch.Generator()
    if seed is None:
        generator.seed()
    else:
        generator.manual_seed(seed)
    permutations = [torch.randperm(64, generator=generator) for _ in range(n_experiences)]
    train, test = (
        [LabelledTensors(x.flatten(1)[:, order].reshape(x.shape), y) for order in permutations]
        for x, y in digits
    )
    return domain_incremental(
        train,
        test,
        return_task_id=return_task_id,
        train_transform=train_transform,
        eval_transform=eval_transform,
    )


def SplitDigits(  # noqa: N802 (Avalanche's benchmarks are spelt as classes)
    n_experiences: int,
    *,
    return_task_id: bool = False,
    seed: int | None = None,
    fixed_class_order: Sequence[int] | None = None,
    shuffle: bool = True,
    class_ids_from_zero_in_each_exp: bool = False,
    class_ids_from_zero_from_first_exp: bool = False,
    train_transform: Transform | None = None,
    eval_transform: Transform | None = None,
) -> NCScenario:
    """New digits in each experience, the same number in each.

    Args:
        n_experiences: number of experiences, a divisor of 10.
        return_task_id: whether experience i has the task label i. By default all experiences have label 0.
        seed: of the order of the classes; None draws a new one in every call. The state of the global
            generator is restored.
        fixed_class_order: the order of the classes. If given, ``seed`` is ignored.
        shuffle: whether to shuffle the classes.
        class_ids_from_zero_in_each_exp: whether the labels count from 0 in each experience.
        class_ids_from_zero_from_first_exp: whether the labels count in order of appearance.
        train_transform: transform of the training images [1, 8, 8].
        eval_transform: transform of the test images.

    Returns:
        A benchmark with a train and a test stream.

    Raises:
        ValueError: if ``n_experiences`` does not divide 10, or both label options are set.

    Example:
        >>> benchmark = SplitDigits(5, seed=0)
        >>> [len(experience.classes_in_this_experience) for experience in benchmark.train_stream]
        [2, 2, 2, 2, 2]
    """
    if n_experiences < 1:
        raise ValueError(f"n_experiences is {n_experiences}; it must be at least 1.")
    train, test = (LabelledTensors(*digits) for digits in _digits())
    with torch.random.fork_rng():  # nc_benchmark seeds the global generator
        return nc_benchmark(
            train,
            test,
            n_experiences=n_experiences,
            task_labels=return_task_id,
            seed=torch.seed() if seed is None else seed,
            fixed_class_order=fixed_class_order,
            shuffle=shuffle,
            class_ids_from_zero_in_each_exp=class_ids_from_zero_in_each_exp,
            class_ids_from_zero_from_first_exp=class_ids_from_zero_from_first_exp,
            train_transform=train_transform,
            eval_transform=eval_transform,
        )
