from collections import Counter

import pytest
import torch
from avalanche.benchmarks import CLScenario, benchmark_from_datasets
from avalanche.benchmarks.utils import as_classification_dataset
from avalanche.benchmarks.utils.transform_groups import TransformGroups
from helpers import digits, is_equal, tensor_dataset
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision.transforms import Lambda

from avalanche_mgem.benchmarks import PermutedDigits, SplitDigits
from avalanche_mgem.data import preload, split_validation, subsample

BENCHMARK = PermutedDigits(3, seed=0, return_task_id=True)
Content = list[list[tuple[bytes, int, int]]]


def content(benchmark: CLScenario, stream: str) -> Content:
    return [
        [(x.numpy().tobytes(), int(y), int(t)) for x, y, t in experience.dataset]
        for experience in benchmark.streams[stream]
    ]


WHOLE = {name: content(BENCHMARK, name) for name in ("train", "test")}


@settings(max_examples=6)
@given(fraction=st.floats(0.001, 0.999), seed=st.integers(0, 2**31))
def test_each_sample_is_in_one_of_the_two_streams(fraction: float, seed: int) -> None:
    split = split_validation(BENCHMARK, fraction, seed=seed)
    parts = zip(content(split, "train"), content(split, "valid"), WHOLE["train"], strict=True)
    for train, valid, whole in parts:
        assert len(valid) == round(fraction * len(whole))
        assert Counter(train) + Counter(valid) == Counter(whole)
    assert is_equal(content(split, "test"), WHOLE["test"])


def test_the_seed_decides_and_experiences_get_other_places() -> None:
    before = torch.get_rng_state()
    one, same, other = (content(split_validation(BENCHMARK, 0.1, seed=s), "valid") for s in (0, 0, 1))
    assert torch.equal(torch.get_rng_state(), before)
    assert is_equal(one, same)
    assert not is_equal(one, other)
    first, second = ([y for _, y, _ in experience] for experience in one[:2])  # the images are the same ones
    assert first != second


def test_labels_classes_and_fast_data_stay() -> None:
    split = preload(split_validation(subsample(SplitDigits(5, seed=0, return_task_id=True), 50), 0.2))
    assert [e.task_labels for e in split.valid_stream] == [[n] for n in range(5)]
    assert [e.task_labels for e in split.train_stream] == [[n] for n in range(5)]
    assert all(len(e.classes_in_this_experience) == 2 for e in split.valid_stream)
    assert [len(e.dataset) for e in split.train_stream] == [40] * 5
    assert [e.current_experience for e in split.valid_stream] == list(range(5))


def test_validation_samples_have_the_transforms_of_evaluation() -> None:
    data = tensor_dataset(*digits(20))
    groups = {"train": (Lambda(lambda x: x * 0 - 1), None), "eval": (Lambda(lambda x: x * 0 + 1), None)}
    data = as_classification_dataset(data, transform_groups=TransformGroups(groups))
    split = split_validation(benchmark_from_datasets(train=[data], test=[data.eval()]), 0.5)
    assert {x.max().item() for x, *_ in split.train_stream[0].dataset} == {-1.0}
    assert {x.max().item() for x, *_ in split.valid_stream[0].dataset} == {1.0}


@pytest.mark.parametrize("fraction", [0.0, 1.0, -0.1, 1.5, float("nan"), float("inf")])
def test_only_a_fraction_is_allowed(fraction: float) -> None:
    with pytest.raises(ValueError, match="above 0 and below 1"):
        split_validation(BENCHMARK, fraction)


def test_no_experience_is_left_without_samples() -> None:
    small = subsample(BENCHMARK, 3)
    with pytest.raises(ValueError, match="no validation sample of the 3 of experience 0"):
        split_validation(small, 0.1)
    with pytest.raises(ValueError, match="no training sample of the 3 of experience 0"):
        split_validation(small, 0.9)
    with pytest.raises(ValueError, match="stream 'valid' already"):
        split_validation(split_validation(BENCHMARK, 0.5), 0.5)
