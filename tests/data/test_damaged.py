"""Damaged files of data sets are named, each in one line."""

import pickle
import shutil
from collections.abc import Callable
from pathlib import Path

import avalanche.benchmarks as ab
import pytest
from image_trees import write_classes
from PIL import Image
from torchvision.datasets import MNIST

from avalanche_mgem.benchmarks import DigitFive, DomainNet, ImageFolders, PermutedMNIST, RotatedMNIST
from avalanche_mgem.data import damaged_file, preload

IMAGES, LABELS = "MNIST/raw/train-images-idx3-ubyte", "MNIST/raw/t10k-labels-idx1-ubyte"


def cut(path: Path, end: int) -> None:
    path.write_bytes(path.read_bytes()[:end])


def patched(path: Path, place: int, value: bytes) -> None:
    data = bytearray(path.read_bytes())
    data[place : place + len(value)] = value
    path.write_bytes(data)


DAMAGES: dict[str, tuple[str, Callable[[Path], None], str]] = {
    "empty": (IMAGES, lambda path: cut(path, 0), "it is cut off in its header"),
    "half a number": (IMAGES, lambda path: cut(path, 6), "it is cut off in its header"),
    "cut off": (IMAGES, lambda path: cut(path, -100), "bytes, but by its header"),
    "longer": (IMAGES, lambda path: path.write_bytes(path.read_bytes() + b"x"), "bytes, but by its header"),
    "magic": (IMAGES, lambda path: patched(path, 0, b"\x1f\x8b"), "its magic number is"),
    "labels as images": (IMAGES, lambda path: patched(path, 3, b"\x01"), "its magic number is 2049"),
    "size": (IMAGES, lambda path: patched(path, 11, b"\x1b"), "its images are 27 x 28; they must be 28 x 28"),
    "labels cut off": (LABELS, lambda path: cut(path, -1), "it has 37 bytes, but by its header 38"),
    "a label": (
        LABELS,
        lambda path: patched(path, 9, b"\xc8"),
        "it has the label 200; labels are from 0 to 9",
    ),
    "fewer labels": (
        LABELS,
        lambda path: path.write_bytes(b"\0\0\x08\x01\0\0\0\x02\0\0"),
        "it has 2 labels for 30 images",
    ),
    "no labels": (LABELS, lambda path: path.write_bytes(b"\0\0\x08\x01\0\0\0\0"), "it is empty"),
}


@pytest.fixture
def root(mnist_root: Path, tmp_path: Path) -> Path:
    shutil.copytree(mnist_root, tmp_path / "data")
    return tmp_path / "data"


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_mnist_is_named(root: Path, damage: str) -> None:
    assert damaged_file("SplitMNIST", root) is None
    file, do, reason = DAMAGES[damage]
    do(root / file)
    for make in (lambda: PermutedMNIST(2, dataset_root=root), lambda: RotatedMNIST(2, dataset_root=root)):
        with pytest.raises(ValueError, match=reason) as error:
            make()
        assert str(error.value).startswith(f"{root / file}: ")
        assert "\n" not in str(error.value)


def test_the_mnist_of_digit_five_is_checked_too(root: Path) -> None:
    write_classes(root / "digit_five/mnist_m", 0, "0123456789")
    patched(root / LABELS, 9, b"\xc8")
    with pytest.raises(ValueError, match=f"{LABELS}: it has the label 200"):
        DigitFive(root, domains=["mnist_m", "mnist"])


def test_damaged_cifar_is_named(tmp_path: Path) -> None:
    (tmp_path / "cifar-100-python").mkdir()
    path = tmp_path / "cifar-100-python/train"
    path.write_bytes(pickle.dumps({"data": [1]})[:-3])
    assert damaged_file("SplitCIFAR100", tmp_path) == (
        f"{path}: it is damaged: its MD5 is not that of the published file"
    )
    assert damaged_file("SplitCIFAR100", tmp_path, checksums=False) is None


@pytest.mark.parametrize("ending", ["jpg", "png"])
def test_preload_names_a_damaged_image(tmp_path: Path, ending: str) -> None:
    write_classes(tmp_path / "day", 0, "ab", n_train=1, n_test=1)
    (path,) = (tmp_path / "day/train/a").iterdir()
    damaged = path.with_suffix(f".{ending}")
    Image.effect_noise((64, 64), 50).save(damaged)
    if damaged != path:
        path.unlink()
    cut(damaged, 900)
    benchmark = ImageFolders(tmp_path, image_size=8)
    with pytest.raises(ValueError, match=rf"{damaged.name} cannot be read as an image: ") as error:
        preload(benchmark)
    assert str(error.value).startswith(str(damaged))


def test_preload_names_a_data_set_whose_labels_are_too_few(root: Path) -> None:
    train = MNIST(root)
    benchmark = ab.ni_benchmark(train, MNIST(root, train=False), n_experiences=2, seed=0)
    train.targets = train.targets[:50]
    with pytest.raises(ValueError, match=rf"{root}: MNIST is damaged: it has 50 labels for 60 images"):
        preload(benchmark)


def test_a_list_that_is_no_text_is_named(tmp_path: Path) -> None:
    (tmp_path / "domainnet").mkdir()
    (tmp_path / "domainnet/clipart_train.txt").write_bytes(b"\xff\xfe")
    with pytest.raises(ValueError, match=r"clipart_train.txt cannot be read"):
        DomainNet(tmp_path, domains=["clipart"])
