"""Fixtures of all tests, among them small data sets of random images in the form of well-known ones."""

import gc
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import settings
from torch import Tensor
from torchvision.datasets import CIFAR100, MNIST

from avalanche_mgem import timing

# A test fails for what it finds, never for its time: two workers share two cores.
settings.register_profile("no deadline", deadline=None)
settings.load_profile("no deadline")


def pytest_collection_finish() -> None:
    """Keeps the garbage collector from what was imported: that took an eighth of the tests' time."""
    gc.collect()
    gc.freeze()


@pytest.fixture
def pass_time(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """The package's clock stands still unless this is called, so that a busy machine changes nothing."""
    seconds = 0.0

    def advance(more: float) -> None:
        nonlocal seconds
        seconds += more

    monkeypatch.setattr(timing, "time", SimpleNamespace(perf_counter=lambda: seconds))
    return advance


@pytest.fixture(autouse=True)
def _one_thread_and_a_seed():
    """Two workers share two cores; a test that draws without a seed of its own is still repeatable."""
    torch.set_num_threads(1)
    torch.manual_seed(0)


def _idx(values: Tensor) -> bytes:
    """The file format of MNIST."""
    header = [0x0800 + values.dim(), *values.shape]
    return b"".join(number.to_bytes(4, "big") for number in header) + values.to(torch.uint8).numpy().tobytes()


def _images(n: int, *shape: int) -> tuple[Tensor, Tensor]:
    """Images of all 256 values and their classes, not sorted; each of ten classes is there."""
    generator = torch.Generator().manual_seed(n)
    images = torch.randint(0, 256, (n, *shape), generator=generator, dtype=torch.uint8)
    return images, torch.arange(n)[torch.randperm(n, generator=generator)] % 10


@pytest.fixture(scope="session")
def mnist_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with files like those of MNIST: 60 images for training and 30 for testing."""
    root = tmp_path_factory.mktemp("data")
    raw = root / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for name, n in (("train", 60), ("t10k", 30)):
        images, targets = _images(n, 28, 28)
        (raw / f"{name}-images-idx3-ubyte").write_bytes(_idx(images))
        (raw / f"{name}-labels-idx1-ubyte").write_bytes(_idx(targets))
    return root


@pytest.fixture
def pil_mnist() -> MNIST:
    """torchvision's MNIST, which gives PIL images, with 40 images and no transform."""
    dataset = MNIST.__new__(MNIST)
    dataset.data, dataset.targets = _images(40, 28, 28)
    dataset.transform = dataset.target_transform = None
    return dataset


@pytest.fixture
def cifar() -> CIFAR100:
    """torchvision's CIFAR-100 with 40 images of ten classes."""
    dataset = CIFAR100.__new__(CIFAR100)
    images, targets = _images(40, 32, 32, 3)
    dataset.data, dataset.targets = np.asarray(images), targets.tolist()
    dataset.transform = dataset.target_transform = None
    return dataset
