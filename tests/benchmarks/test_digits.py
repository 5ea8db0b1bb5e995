import pytest
import torch
from torch import Tensor

from avalanche_mgem.benchmarks import PermutedDigits, SplitDigits


def images(experience) -> Tensor:  # type: ignore[no-untyped-def]
    return torch.stack([sample[0] for sample in experience.dataset])


def labels(experience) -> Tensor:  # type: ignore[no-untyped-def]
    return torch.tensor([sample[1] for sample in experience.dataset])


def test_each_experience_is_a_permutation_of_the_pixels() -> None:
    benchmark = PermutedDigits(3, seed=0)
    first, second = (images(benchmark.train_stream[i]) for i in (0, 1))
    assert first.shape == (1437, 1, 8, 8)
    assert first.dtype == torch.float32
    # One permutation for all images: the columns of the design matrix are the same set, in another order.
    columns = [sorted(map(tuple, x.flatten(1).T.tolist())) for x in (first, second)]
    assert columns[0] == columns[1]
    assert not torch.equal(first, second)
    assert torch.equal(labels(benchmark.train_stream[0]), labels(benchmark.train_stream[2]))
    assert first.mean().item() == pytest.approx(0, abs=1e-5)
    assert first.std().item() == pytest.approx(1, abs=1e-4)


def test_train_and_test_share_the_permutation() -> None:
    benchmark = PermutedDigits(2, seed=1)

    def mean_images(stream) -> Tensor:  # type: ignore[no-untyped-def]
        return torch.stack([images(experience).mean(0).flatten() for experience in stream])

    means = [mean_images(benchmark.train_stream), mean_images(benchmark.test_stream)]
    correlation = torch.corrcoef(torch.cat(means))
    assert correlation[0, 2] > 0.98
    assert correlation[1, 3] > 0.98
    assert correlation[0, 3].abs() < 0.5


def test_split_is_stratified_and_independent_of_the_seed() -> None:
    contents = []
    for seed in (0, 1):
        benchmark = SplitDigits(1, seed=seed)
        train, test = benchmark.train_stream[0], benchmark.test_stream[0]
        counts = torch.bincount(labels(train)), torch.bincount(labels(test))
        assert (counts[0] / counts[1]).sub(4).abs().max() < 0.2
        contents.append(images(test).flatten(1).sum(1).sort().values)
    assert torch.equal(*contents)


@pytest.mark.parametrize("make", [PermutedDigits, SplitDigits])
def test_seed_decides_and_the_global_generator_is_left_alone(make) -> None:  # type: ignore[no-untyped-def]
    torch.manual_seed(3)
    before = torch.get_rng_state()
    a, b, c = make(5, seed=0), make(5, seed=0), make(5, seed=1)
    make(5)
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(images(a.train_stream[i]), images(b.train_stream[i])) for i in range(5))
    assert not any(torch.equal(images(a.train_stream[i]), images(c.train_stream[i])) for i in range(5))


def test_split_gives_each_class_to_one_experience() -> None:
    benchmark = SplitDigits(5, seed=0)
    classes = [set(experience.classes_in_this_experience) for experience in benchmark.train_stream]
    assert [len(two) for two in classes] == [2] * 5
    assert set.union(*classes) == set(range(10))
    for train, test in zip(benchmark.train_stream, benchmark.test_stream, strict=True):
        assert (
            set(labels(train).tolist()) == set(labels(test).tolist()) == set(train.classes_in_this_experience)
        )


def test_task_labels_and_labels_from_zero() -> None:
    benchmark = SplitDigits(5, seed=0, return_task_id=True, class_ids_from_zero_in_each_exp=True)
    for number, experience in enumerate(benchmark.train_stream):
        assert experience.task_labels == [number]
        assert {sample[2] for sample in experience.dataset} == {number}
        assert set(labels(experience).tolist()) == {0, 1}
    assert [e.task_labels for e in PermutedDigits(2, return_task_id=True).test_stream] == [[0], [1]]


def test_class_order_can_be_given() -> None:
    benchmark = SplitDigits(5, fixed_class_order=[9, 8, 7, 6, 5, 4, 3, 2, 1, 0])
    assert set(benchmark.train_stream[0].classes_in_this_experience) == {8, 9}


def test_transforms_are_applied() -> None:
    benchmark = PermutedDigits(1, train_transform=lambda x: x * 0, eval_transform=lambda x: x * 0 + 1)
    assert images(benchmark.train_stream[0]).eq(0).all()
    assert images(benchmark.test_stream[0]).eq(1).all()


@pytest.mark.parametrize("make", [PermutedDigits, SplitDigits])
def test_no_experience_is_an_error(make) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ValueError, match="n_experiences is 0"):
        make(0)


def test_experiences_must_divide_the_classes() -> None:
    with pytest.raises(ValueError, match="cannot be divided"):
        SplitDigits(3)
