"""Finds the missing file of a data set, so that an error can name it."""

from pathlib import Path

_PARTS = tuple(
    f"raw/{part}-ubyte"
    for part in ("train-images-idx3", "train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1")
)
MNIST_FILES = tuple(f"MNIST/{part}" for part in _PARTS)
_FASHION_MNIST = tuple(f"FashionMNIST/{part}" for part in _PARTS)
_CIFAR100 = tuple(f"cifar-100-python/{part}" for part in ("train", "test", "meta"))
_TINY_IMAGENET = tuple(
    f"tiny-imagenet-200/{part}" for part in ("wnids.txt", "train", "val/images", "val/val_annotations.txt")
)

# The key is the name of the function that makes the benchmark.
FILES = {
    "SplitMNIST": MNIST_FILES,
    "PermutedMNIST": MNIST_FILES,
    "RotatedMNIST": MNIST_FILES,
    "DigitDomains": MNIST_FILES,
    "PermutedFashionMNIST": _FASHION_MNIST,
    "SplitCIFAR100": _CIFAR100,
    "SplitTinyImageNet": _TINY_IMAGENET,
}


def missing_file(benchmark: str, dataset_root: str | Path) -> Path | None:
    """The first missing file or folder of a data set that Avalanche downloads.

    Args:
        benchmark: name of the function that makes the benchmark, such as ``"SplitMNIST"``.
        dataset_root: the folder that the function would read.

    Returns:
        Its path. None if nothing is missing, or if the function's files are not known here.

    Example:
        >>> missing_file("SplitCIFAR100", "nowhere").as_posix()
        'nowhere/cifar-100-python/train'
    """
    paths = (Path(dataset_root) / name for name in FILES.get(benchmark, ()))
    return next((path for path in paths if not path.exists()), None)
