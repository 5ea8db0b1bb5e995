"""Which file of a data set is missing, for an error that says so."""

from pathlib import Path

_MNIST = tuple(f"MNIST/raw/{part}-ubyte" for part in (
    "train-images-idx3", "train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1"
))  # fmt: skip
_CIFAR100 = tuple(f"cifar-100-python/{part}" for part in ("train", "test", "meta"))

# By the name of Avalanche's function.
_FILES = {
    "SplitMNIST": _MNIST,
    "PermutedMNIST": _MNIST,
    "RotatedMNIST": _MNIST,
    "SplitCIFAR100": _CIFAR100,
}


def missing_file(benchmark: str, dataset_root: str | Path) -> Path | None:
    """The first file that a benchmark of Avalanche reads and that is not there.

    Args:
        benchmark: name of the function, such as ``"SplitMNIST"``.
        dataset_root: the folder given to it.

    Returns:
        The file's path, or None if all are there or the benchmark is not one of those known here.
    """
    paths = (Path(dataset_root) / name for name in _FILES.get(benchmark, ()))
    return next((path for path in paths if not path.is_file()), None)
