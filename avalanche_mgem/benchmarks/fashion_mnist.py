"""Permuted Fashion-MNIST, which Avalanche lacks beside its ``PermutedMNIST``."""

from pathlib import Path

from avalanche.benchmarks import GenericCLScenario
from avalanche.benchmarks.classic.cfashion_mnist import _default_fmnist_eval_transform
from avalanche.benchmarks.datasets.external_datasets.fmnist import get_fmnist_dataset

from avalanche_mgem.benchmarks.domains import Transform, domain_incremental
from avalanche_mgem.benchmarks.mnist import checked_root, pixel_permutations

_NORMALIZE: Transform = _default_fmnist_eval_transform  # the training transform is the same


def PermutedFashionMNIST(  # noqa: N802 (Avalanche's benchmarks are spelt as classes)
    n_experiences: int,
    *,
    return_task_id: bool = False,
    seed: int | None = None,
    train_transform: Transform | None = _NORMALIZE,
    eval_transform: Transform | None = _NORMALIZE,
    dataset_root: str | Path | None = None,
) -> GenericCLScenario:
    """All ten kinds of clothes in each experience. Each experience has its own permutation of the 784 pixels.

    Args:
        n_experiences: number of experiences, at least 1. The first one is permuted too, as in
            ``PermutedMNIST``.
        return_task_id: whether experience i has the task label i. By default all experiences have label 0.
        seed: of the permutations; None draws new ones in every call. At one seed they are those of
            ``PermutedMNIST``.
        train_transform: transform of the permuted training images, PIL images of 28 x 28 grey pixels. The
            default is that of Avalanche's ``SplitFMNIST``.
        eval_transform: transform of the permuted test images.
        dataset_root: the folder of Fashion-MNIST, which is downloaded if missing. None is Avalanche's folder.

    Returns:
        A benchmark with a train and a test stream.

    Raises:
        ValueError: if ``n_experiences`` is below 1, or a file of Fashion-MNIST is damaged.
    """
    changes = pixel_permutations(n_experiences, seed)
    train, test = get_fmnist_dataset(checked_root("PermutedFashionMNIST", "fashionmnist", dataset_root))
    return domain_incremental(
        [train] * n_experiences,
        [test] * n_experiences,
        changes=changes,
        return_task_id=return_task_id,
        train_transform=train_transform,
        eval_transform=eval_transform,
    )
