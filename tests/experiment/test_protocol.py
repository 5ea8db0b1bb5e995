"""The pixels, permutations and classes that a named experiment trains on."""

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from avalanche.benchmarks import SplitCIFAR100
from hydra.utils import instantiate
from torch import Tensor
from torchvision.datasets import CIFAR100, MNIST

from avalanche_mgem.benchmarks import rotation_angles
from avalanche_mgem.experiment import compose
from avalanche_mgem.experiment._prepare import prepare
from avalanche_mgem.experiment.progress import ProgressBar

DATA = Path(__file__).resolve().parents[3] / "shared" / "data"
Mgem = Callable[..., Any]


def first_minibatches(
    mgem: Mgem, monkeypatch: pytest.MonkeyPatch, experiment: str, *words: str
) -> dict[int, tuple[Tensor, Tensor]]:
    """What the model is first trained on in each experience."""
    seen: dict[int, tuple[Tensor, Tensor]] = {}

    def keep(_: Any, strategy: Any, **__: Any) -> None:
        number = strategy.experience.current_experience
        seen.setdefault(number, (strategy.mb_x.clone(), strategy.mb_y.clone()))

    monkeypatch.setattr(ProgressBar, "after_training_iteration", keep)
    result = mgem(f"experiment={experiment}", "strategy=naive", *words)
    assert (result.status, result.err) == (0, "")
    return seen


def test_permuted_mnist_has_gems_pixels(
    mgem: Mgem, monkeypatch: pytest.MonkeyPatch, mnist_root: Path
) -> None:
    words = (f"dataset_root={mnist_root}", "benchmark.n_experiences=3", "seed=5")
    seen = first_minibatches(mgem, monkeypatch, "gem_protocol/permuted_mnist", *words)
    mnist = MNIST(mnist_root)
    stored = mnist.data.flatten(1).float() / 255
    draw = np.random.RandomState(5)
    for number in range(3):
        permutation = torch.from_numpy(draw.permutation(784))
        x, y = seen[number]
        assert x.shape == (10, 1, 28, 28)
        for image, target in zip(x.flatten(1), y, strict=True):
            (row,) = (stored[:, permutation] == image).all(dim=1).nonzero().flatten().tolist()
            assert mnist.targets[row] == target


def test_rotated_mnist_has_gems_pixels(mgem: Mgem, monkeypatch: pytest.MonkeyPatch, mnist_root: Path) -> None:
    words = (f"dataset_root={mnist_root}", "benchmark.n_experiences=2", "seed=5")
    seen = first_minibatches(mgem, monkeypatch, "gem_protocol/rotated_mnist", *words)
    cfg, _ = prepare(compose("experiment=gem_protocol/rotated_mnist", *words))
    assert cfg.benchmark.rotations_list is None
    assert rotation_angles(2, seed=5)[0] > 0
    values = set((torch.arange(256).float() / 255).tolist())
    for x, _ in seen.values():
        assert set(x.flatten().tolist()) <= values
        assert float(x.max()) > 0.9


@pytest.mark.parametrize("benchmark", ["permuted_mnist", "rotated_mnist"])
def test_the_normalised_form_is_avalanches(mnist_root: Path, benchmark: str) -> None:
    words = (f"dataset_root={mnist_root}", "benchmark.n_experiences=2")
    named = prepare(compose(f"experiment=gem_protocol_normalized/{benchmark}", *words))[1]
    plain = prepare(compose(f"benchmark={benchmark}", *words))[1]
    unit = prepare(compose(f"experiment=gem_protocol/{benchmark}", *words))[1]
    for stream in ("train", "test"):
        for a, b, c in zip(*(x.streams[stream] for x in (named, plain, unit)), strict=True):
            for i in range(len(a.dataset)):
                assert torch.equal(a.dataset[i][0], b.dataset[i][0])
                torch.testing.assert_close(a.dataset[i][0], (c.dataset[i][0] - 0.1307) / 0.3081)


@pytest.mark.slow
@pytest.mark.skipif(not (DATA / "cifar-100-python").is_dir(), reason="CIFAR-100 is not in ../shared/data")
def test_split_cifar100_has_gems_pixels_and_order_of_classes() -> None:
    words = (f"dataset_root={DATA}", "seed=7", "samples_per_experience=30", "test_samples_per_experience=10")
    cfg, benchmark = prepare(compose("experiment=gem_protocol/split_cifar100", *words))
    assert cfg.benchmark.n_experiences == 20
    for name, is_train in (("train", True), ("test", False)):
        stored = CIFAR100(DATA, train=is_train)
        classes = {image.tobytes(): target for image, target in zip(stored.data, stored.targets, strict=True)}
        for number, experience in enumerate(benchmark.streams[name]):
            for x, y, task in experience.dataset:
                pixels = (x * 255).round()
                assert torch.equal(pixels / 255, x)
                image = pixels.permute(1, 2, 0).to(torch.uint8).contiguous().numpy().tobytes()
                assert (classes[image], task) == (5 * number + y, number)


def test_the_normalised_split_cifar100_is_avalanches() -> None:
    cfg = compose("experiment=gem_protocol_normalized/split_cifar100").benchmark
    stock = inspect.signature(SplitCIFAR100).parameters
    for key in ("train_transform", "eval_transform"):
        ours = repr(instantiate(cfg[key], _convert_="all")).replace("[", "(").replace("]", ")")
        assert ours == repr(stock[key].default)
    assert cfg.shuffle is stock["shuffle"].default
