from pathlib import Path

import numpy as np
import pytest
import torch
from torchvision.datasets import FashionMNIST

from avalanche_mgem.benchmarks import PermutedFashionMNIST, PermutedMNIST
from avalanche_mgem.data import missing_file, preload


@pytest.fixture
def root(tmp_path: Path, mnist_root: Path) -> Path:
    """Files like those of Fashion-MNIST, which has MNIST's form."""
    (tmp_path / "FashionMNIST").symlink_to(mnist_root / "MNIST")
    (tmp_path / "MNIST").symlink_to(mnist_root / "MNIST")
    return tmp_path


def images(dataset) -> torch.Tensor:  # type: ignore[no-untyped-def]
    return torch.stack([sample[0] for sample in dataset])


def test_each_experience_is_all_of_it_under_another_permutation(root: Path) -> None:
    benchmark = PermutedFashionMNIST(3, seed=4, return_task_id=True, dataset_root=root)
    draw = np.random.RandomState(4)
    permutations = [draw.permutation(784) for _ in range(3)]
    for is_train, stream in ((True, benchmark.train_stream), (False, benchmark.test_stream)):
        stored = FashionMNIST(root, is_train)
        pixels = (stored.data.flatten(1).double() / 255 - 0.2860) / 0.3530
        for number, (experience, permutation) in enumerate(zip(stream, permutations, strict=True)):
            x = images(experience.dataset)
            assert x.shape[1:] == (1, 28, 28)
            torch.testing.assert_close(x.flatten(1).double(), pixels[:, permutation], rtol=0, atol=1e-5)
            assert [y for _, y, _ in experience.dataset] == stored.targets.tolist()
            assert {t for _, _, t in experience.dataset} == {number}
            assert experience.task_labels == [number]
            assert set(experience.classes_in_this_experience) == set(range(10))


def test_the_permutations_are_those_of_permuted_mnist(root: Path) -> None:
    ours, mnist = (
        make(2, seed=7, train_transform=None, dataset_root=root).train_stream
        for make in (PermutedFashionMNIST, PermutedMNIST)
    )
    for a, b in zip(ours, mnist, strict=True):
        found = {tuple(np.asarray(x).flatten()) for x, *_ in a.dataset}
        assert found == {tuple((x.flatten() * 255).round().byte().tolist()) for x, *_ in b.dataset}


def test_transforms_are_of_their_stream(root: Path) -> None:
    benchmark = PermutedFashionMNIST(
        1, dataset_root=root, train_transform=lambda _: 1, eval_transform=lambda _: 0
    )
    assert benchmark.train_stream[0].dataset[0][0] == 1
    assert benchmark.test_stream[0].dataset[0][0] == 0
    assert benchmark.train_stream[0].dataset.eval()[0][0] == 0


def test_preloaded_it_is_the_same_bit_for_bit(root: Path) -> None:
    benchmark = PermutedFashionMNIST(2, seed=0, dataset_root=root)
    fast = preload(benchmark)
    for stream in ("train", "test"):
        for a, b in zip(fast.streams[stream], benchmark.streams[stream], strict=True):
            assert torch.equal(a.dataset.plan(range(len(a.dataset)))[0], images(b.dataset))


def test_seed_decides_and_the_global_generators_are_left_alone(root: Path) -> None:
    before, numpys = torch.get_rng_state(), np.random.get_state()[1].copy()
    a, b, c, d = (
        PermutedFashionMNIST(1, seed=seed, dataset_root=root).train_stream[0].dataset[0][0]
        for seed in (0, 0, 1, None)
    )
    assert torch.equal(a, b)
    assert not torch.equal(a, c)
    assert not torch.equal(a, d)
    assert torch.equal(torch.get_rng_state(), before)
    assert (np.random.get_state()[1] == numpys).all()


def test_no_experience_is_an_error() -> None:
    with pytest.raises(ValueError, match=r"n_experiences is 0; it must be at least 1"):
        PermutedFashionMNIST(0)


def test_the_missing_file_is_named(root: Path) -> None:
    assert missing_file("PermutedFashionMNIST", root) is None
    empty = root / "empty"
    assert missing_file("PermutedFashionMNIST", empty) == empty / "FashionMNIST/raw/train-images-idx3-ubyte"
    assert missing_file("SplitTinyImageNet", empty) == empty / "tiny-imagenet-200/wnids.txt"
    (empty / "tiny-imagenet-200").mkdir(parents=True)
    (empty / "tiny-imagenet-200/wnids.txt").touch()
    assert missing_file("SplitTinyImageNet", empty) == empty / "tiny-imagenet-200/train"
