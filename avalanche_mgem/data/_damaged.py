"""Finds the damaged file of a data set. Of MNIST torchvision looks only whether the files are there."""

from math import prod
from pathlib import Path

import numpy as np
from torchvision.datasets import CIFAR100
from torchvision.datasets.utils import check_integrity

from avalanche_mgem.data._missing import FILES

_CLASSES = 10  # of MNIST and Fashion-MNIST
_SIDE = 28  # their images have so many rows and columns

_CHECKSUMS = {
    f"{CIFAR100.base_folder}/{name}": md5
    for name, md5 in (
        *CIFAR100.train_list,
        *CIFAR100.test_list,
        (CIFAR100.meta["filename"], CIFAR100.meta["md5"]),
    )
}


def damaged_file(benchmark: str, dataset_root: str | Path, *, checksums: bool = True) -> str | None:
    """What is wrong with the first damaged file of a data set that Avalanche downloads.

    Args:
        benchmark: name of the function that makes the benchmark, such as ``"SplitMNIST"``.
        dataset_root: the folder that the function would read.
        checksums: whether to read whole files for their MD5. Without, headers, sizes and labels are read.

    Returns:
        One line that begins with the path of the file. None if nothing is wrong with the files that are
        there, or if the function's files are not known here.

    Example:
        >>> damaged_file("SplitMNIST", "nowhere")  # missing files are missing_file's
    """
    labels: dict[str, int] = {}
    images: dict[str, int] = {}
    for name in FILES.get(benchmark, ()):
        path = Path(dataset_root) / name
        if not path.is_file():
            continue
        if name in _CHECKSUMS:
            if checksums and not check_integrity(path, _CHECKSUMS[name]):
                return f"{path}: it is damaged: its MD5 is not that of the published file"
        elif name.endswith("-ubyte"):
            found = _idx(path)
            if isinstance(found, str):
                return f"{path}: {found}"
            (labels if "labels" in name else images)[name.partition("-")[0]] = found
            counted = name.partition("-")[0]
            if labels.get(counted, found) != images.get(counted, found):
                return f"{path}: it has {labels[counted]} labels for {images[counted]} images"
    return None


def _idx(path: Path) -> int | str:
    """How many images or labels a file in MNIST's format has, or what is wrong with it."""
    shape_of_one = (_SIDE, _SIDE) if "images" in path.name else ()
    numbers = 2 + len(shape_of_one)
    with path.open("rb") as file:
        header = file.read(4 * numbers)
        if len(header) < 4 * numbers:
            return "it is cut off in its header"
        magic, n, *shape = np.frombuffer(header, dtype=">u4").tolist()
        if magic != 0x0800 + numbers - 1:
            return f"its magic number is {magic}; it must be {0x0800 + numbers - 1}"
        if tuple(shape) != shape_of_one:
            return f"its images are {' x '.join(map(str, shape))}; they must be {_SIDE} x {_SIDE}"
        size, wanted = path.stat().st_size, 4 * numbers + n * prod(shape_of_one)
        if size != wanted:
            return f"it has {size} bytes, but by its header {wanted}"
        if n == 0:
            return "it is empty"
        if not shape_of_one:
            highest = int(np.frombuffer(file.read(), dtype=np.uint8).max())
            if highest >= _CLASSES:
                return f"it has the label {highest}; labels are from 0 to {_CLASSES - 1}"
    return int(n)
