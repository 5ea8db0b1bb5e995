from collections import Counter
from pathlib import Path

import pytest
import torch
from avalanche.benchmarks import CLScenario
from helpers import is_equal
from hypothesis import given, settings
from hypothesis import strategies as st

from avalanche_mgem.benchmarks import PermutedDigits, SplitDigits, rotation_angles
from avalanche_mgem.data import MNIST_FILES, missing_file, subsample

BENCHMARK = PermutedDigits(3, seed=0, return_task_id=True)
Content = list[list[tuple[float, int, int]]]


def content(benchmark: CLScenario, stream: str = "train") -> Content:
    return [[(x.sum().item(), y, t) for x, y, t in e.dataset] for e in benchmark.streams[stream]]


TRAIN, TEST = content(BENCHMARK), content(BENCHMARK, "test")


@settings(max_examples=10)
@given(n=st.integers(1, 2000), seed=st.integers(0, 2**31))
def test_a_subset_of_the_right_size_without_repetition(n: int, seed: int) -> None:
    small = subsample(BENCHMARK, n, seed=seed)
    for kept, whole in zip(content(small), TRAIN, strict=True):
        assert len(kept) == min(n, len(whole))
        assert Counter(kept) <= Counter(whole)
    assert is_equal(content(small, "test"), TEST)


def test_classes_keep_their_shares() -> None:
    # The datasets are sorted by class: the first 300 samples would have two or three classes.
    small = subsample(BENCHMARK, 300, seed=0)
    for experience in small.train_stream:
        counts = torch.bincount(torch.tensor([y for _, y, _ in experience.dataset]), minlength=10)
        assert counts.min() >= 15  # 30 expected, standard deviation below 5
        assert counts.max() <= 45


def test_experiences_get_different_samples_and_the_seed_decides() -> None:
    small, again, other = (subsample(BENCHMARK, 100, 50, seed=seed) for seed in (0, 0, 1))
    assert is_equal(content(small), content(again))
    assert not is_equal(content(small), content(other))
    sums = [[round(x, 3) for x, *_ in experience] for experience in content(small)]
    assert sums[0] != sums[1]  # a permutation of the pixels keeps the sums
    assert is_equal(content(subsample(BENCHMARK, 100, seed=0)), content(small))
    assert is_equal(content(subsample(BENCHMARK, None, 50, seed=0), "test"), content(small, "test"))


def test_the_samples_stay_in_the_order_of_the_benchmark() -> None:
    small = subsample(BENCHMARK, 200, seed=0)
    for kept, whole in zip(content(small), TRAIN, strict=True):
        places = iter(whole)
        assert all(sample in places for sample in kept)  # each behind the one before


def test_what_is_kept() -> None:
    small = subsample(BENCHMARK, 50, 20, seed=0)
    assert list(small.streams) == ["train", "test"]
    for number, (train, test) in enumerate(zip(small.train_stream, small.test_stream, strict=True)):
        assert train.current_experience == number
        assert train.task_labels == test.task_labels == [number]
        assert {t for *_, t in train.dataset} == {number}
        assert train.classes_in_this_experience == list(range(10))
        assert (len(train.dataset), len(test.dataset)) == (50, 20)


def test_class_order_and_transforms_stay() -> None:
    whole = SplitDigits(5, seed=3, train_transform=lambda x: x * 0 + 7, eval_transform=lambda x: x * 0 + 5)
    small = subsample(whole, 50, 50, seed=0)
    for name, value in (("train", 7), ("test", 5)):
        for kept, experience in zip(small.streams[name], whole.streams[name], strict=True):
            assert set(kept.classes_in_this_experience) == set(experience.classes_in_this_experience)
            assert all(x.eq(value).all() for x, *_ in kept.dataset)


def test_the_global_generator_is_left_alone() -> None:
    before = torch.get_rng_state()
    subsample(BENCHMARK, 10, 10, seed=0)
    assert torch.equal(torch.get_rng_state(), before)


def test_nothing_to_drop_is_the_benchmark_itself() -> None:
    assert subsample(BENCHMARK, None, None) is BENCHMARK


@given(n=st.integers(1, 30), seed=st.integers(0, 1000))
def test_one_angle_in_each_interval(n: int, seed: int) -> None:
    angles = rotation_angles(n, seed)
    assert [int(angle * n // 180) for angle in angles] == list(range(n))
    assert angles == rotation_angles(n, seed)
    assert angles != rotation_angles(n, seed + 1)


MNISTS = [name.removeprefix("MNIST/") for name in MNIST_FILES]
FILES = {
    "SplitMNIST": [f"MNIST/{name}" for name in MNISTS],
    "PermutedMNIST": [f"MNIST/{name}" for name in MNISTS],
    "RotatedMNIST": [f"MNIST/{name}" for name in MNISTS],
    "PermutedFashionMNIST": [f"FashionMNIST/{name}" for name in MNISTS],
    "SplitCIFAR100": [f"cifar-100-python/{name}" for name in ("train", "test", "meta")],
    "SplitTinyImageNet": [
        f"tiny-imagenet-200/{name}"
        for name in ("wnids.txt", "train", "val/images", "val/val_annotations.txt")
    ],
    "CORe50": [],  # not known here
}


@pytest.mark.parametrize("name", FILES)
def test_the_first_missing_file_is_named(tmp_path: Path, name: str) -> None:
    for file in FILES[name]:
        assert missing_file(name, tmp_path) == tmp_path / file
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).touch()
    assert missing_file(name, tmp_path) is None
