import gc
import pickle
import random
import weakref

import avalanche.benchmarks as ab
import numpy as np
import pytest
import torch
from avalanche.benchmarks.utils import _make_taskaware_tensor_classification_dataset as tensor_dataset
from avalanche.benchmarks.utils import make_avalanche_dataset
from helpers import split_digits
from torch.utils.data import TensorDataset

from avalanche_mgem.memory import EpisodicMemory

CPU = torch.device("cpu")


def numbered(sizes=(40, 30), classes=4):
    """A benchmark of experiences whose samples are recognised by their number."""
    start, datasets = 0, []
    for n in sizes:
        x = torch.arange(start, start + n, dtype=torch.float32).unsqueeze(1)
        datasets.append(tensor_dataset(x, torch.arange(n) % classes))
        start += n
    return ab.benchmark_from_datasets(train=datasets, test=datasets)


def filled(memory: EpisodicMemory, stream) -> EpisodicMemory:
    for experience in stream:
        memory.update(experience)
    return memory


class _NoExperience:
    """What is trained when all memories are wanted."""

    class origin_stream:  # noqa: N801
        name = "none"

    current_experience = -1
    dataset = None


def all_constraints(memory):
    return memory.constraints(_NoExperience, CPU)


def test_it_keeps_so_many_different_samples_of_each_experience():
    memory = filled(EpisodicMemory(10, seed=0), numbered().train_stream)
    first, second = all_constraints(memory)
    assert (first.experience, second.experience) == (0, 1)
    for constraint, low, high in ((first, 0, 40), (second, 40, 70)):
        assert constraint.x.unique().numel() == 10
        assert (constraint.x >= low).all()
        assert (constraint.x < high).all()
        assert torch.equal(constraint.x.squeeze(1).long().sub(low) % 4, constraint.y)


def test_a_smaller_experience_is_kept_whole():
    memory = filled(EpisodicMemory(100), numbered((7,)).train_stream)
    (constraint,) = all_constraints(memory)
    assert sorted(constraint.x.flatten().tolist()) == list(range(7))


def test_samples_are_uniform_not_the_first_ones():
    kept = torch.zeros(40)
    for seed in range(300):
        memory = filled(EpisodicMemory(10, seed=seed), numbered((40,)).train_stream)
        kept[all_constraints(memory)[0].x.long().flatten()] += 1
    # Binomial(300, 1/4): mean 75, standard deviation 7.5.
    assert kept.min() > 75 - 5 * 7.5
    assert kept.max() < 75 + 5 * 7.5


def test_the_experience_that_is_trained_is_no_constraint():
    benchmark = numbered()
    memory = filled(EpisodicMemory(5), benchmark.train_stream)
    (constraint,) = memory.constraints(benchmark.train_stream[1], CPU)
    assert constraint.experience == 0


def test_a_repeated_experience_replaces_its_samples():
    benchmark = numbered()
    memory = filled(EpisodicMemory(5, seed=0), [*benchmark.train_stream, benchmark.train_stream[0]])
    assert len(memory) == 2
    assert [c.experience for c in all_constraints(memory)] == [0, 1]
    once = filled(EpisodicMemory(5, seed=0), benchmark.train_stream)
    assert all_constraints(memory)[0].x.unique().numel() == 5
    assert not torch.equal(all_constraints(memory)[0].x, all_constraints(once)[0].x)
    assert torch.equal(all_constraints(memory)[1].x, all_constraints(once)[1].x)


def test_another_benchmark_with_the_same_names_does_not_replace_samples():
    memory = filled(EpisodicMemory(5), [*numbered().train_stream, *numbered().train_stream])
    assert len(memory) == 4


@pytest.mark.parametrize("transform", ["eval", "train", "frozen"])
def test_an_online_stream_has_one_memory_for_each_origin(transform):
    stream = ab.split_online_stream(numbered().train_stream, 7, access_task_boundaries=True, seed=0)
    memory = filled(EpisodicMemory(10, transform=transform, seed=1), stream)
    first, second = all_constraints(memory)
    assert first.x.unique().numel() == second.x.unique().numel() == 10
    assert first.x.max() < 40 <= second.x.min()


def test_online_samples_are_uniform_over_all_sub_experiences():
    kept = torch.zeros(40)
    benchmark = numbered((40,))
    for seed in range(200):
        stream = ab.split_online_stream(
            benchmark.train_stream, 6, shuffle=False, access_task_boundaries=True, seed=0
        )
        kept[all_constraints(filled(EpisodicMemory(10, seed=seed), stream))[0].x.long().flatten()] += 1
    # Binomial(200, 1/4): mean 50, standard deviation 6.1; early and late samples alike.
    assert kept.min() > 50 - 5 * 6.1
    assert kept.max() < 50 + 5 * 6.1


def test_it_does_not_keep_the_benchmarks_data_alive():
    memory, alive = EpisodicMemory(5), []
    for _ in range(3):
        dataset = tensor_dataset(torch.randn(50, 4), torch.arange(50) % 3)
        alive.append(weakref.ref(dataset))
        memory.update(ab.benchmark_from_datasets(train=[dataset]).train_stream[0])
        del dataset
    gc.collect()
    assert [reference() for reference in alive] == [None] * 3
    assert len(memory) == 3


@pytest.mark.parametrize("grouping", ["random", "stratified", "label"])
@pytest.mark.parametrize("d", [1, 2, 3, 4])
def test_groups_are_a_partition_and_never_empty(grouping, d):
    memory = filled(EpisodicMemory(22, d, grouping, seed=0), numbered((40,)).train_stream)
    groups = all_constraints(memory)
    assert [g.group for g in groups] == list(range(d))
    assert all(len(g.y) > 0 for g in groups)
    assert torch.cat([g.x for g in groups]).unique().numel() == 22


def test_random_groups_are_even_and_random():
    benchmark = numbered((40,))
    groups = all_constraints(filled(EpisodicMemory(22, 4, seed=0), benchmark.train_stream))
    assert sorted(len(g.y) for g in groups) == [5, 5, 6, 6]
    whole = []
    for seed in (1, 1, 2):
        memory = filled(EpisodicMemory(40, 4, seed=seed), benchmark.train_stream)
        whole.append([sorted(g.x.flatten().tolist()) for g in all_constraints(memory)])
    assert whole[0] == whole[1] != whole[2]


def test_stratified_groups_have_the_class_balance_of_the_experience():
    groups = all_constraints(
        filled(EpisodicMemory(37, 3, "stratified", seed=0), numbered((40,)).train_stream)
    )
    counts = torch.stack([torch.bincount(g.y, minlength=4) for g in groups])
    assert (counts.max(dim=0).values - counts.min(dim=0).values <= 1).all()
    assert counts.sum(dim=1).max() - counts.sum(dim=1).min() <= 1


def test_label_groups_hold_whole_classes():
    groups = all_constraints(filled(EpisodicMemory(40, 3, "label"), numbered((40,)).train_stream))
    classes = [set(g.y.tolist()) for g in groups]
    assert sorted(c for group in classes for c in group) == [0, 1, 2, 3]
    assert sorted(len(group) for group in classes) == [1, 1, 2]


def test_a_function_may_group():
    groups = all_constraints(
        filled(EpisodicMemory(40, 2, lambda x, y: (x.squeeze(1) >= 20).long()), numbered((40,)).train_stream)
    )
    assert groups[0].x.max() < 20 <= groups[1].x.min()


@pytest.mark.parametrize(
    ("d", "grouping", "message"),
    [
        (8, "random", "num_groups=8 but the memory of experience 0 holds only 7 samples"),
        (5, "label", "num_groups=5 groups, but the memory of experience 0 has only 4 classes"),
        (2, lambda x, y: y * 0, r"every group id in 0..1 .* got the ids \[0\]"),
        (2, lambda x, y: y * 5, r"every group id in 0..1"),
        (2, lambda x, y: y[:3], r"shape \[7\], for the memory of experience 0"),
        (2, lambda x, y: y * 0.5, r"one integer group id a sample"),
    ],
)
def test_what_cannot_be_grouped_is_a_clear_error(d, grouping, message):
    memory = filled(EpisodicMemory(20, d, grouping), numbered((7,)).train_stream)
    with pytest.raises(ValueError, match=message):
        all_constraints(memory)


def test_class_groups_need_class_labels():
    dataset = make_avalanche_dataset(TensorDataset(torch.randn(6, 2), torch.randn(6)))
    benchmark = ab.benchmark_from_datasets(train=[dataset])
    memory = filled(EpisodicMemory(6, 2, "stratified"), benchmark.train_stream)
    with pytest.raises(ValueError, match="needs class labels, integers"):
        all_constraints(memory)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"patterns_per_experience": 0}, "patterns_per_experience must be an integer of at least 1; got 0"),
        ({"patterns_per_experience": 2.5}, "patterns_per_experience must be an integer"),
        ({"num_groups": 0}, "num_groups must be an integer of at least 1"),
        ({"seed": -1}, "seed must be an integer of at least 0; got -1"),
        ({"seed": "2"}, "seed must be an integer"),
        ({"num_groups": 11}, "num_groups=11 is larger than the memory of 10"),
        ({"grouping": "class"}, r"grouping must be one of \('random', 'stratified', 'label'\)"),
        ({"transform": "none"}, r"memory_transform must be one of \('eval', 'train', 'frozen'\)"),
    ],
)
def test_arguments_are_checked(arguments, message):
    with pytest.raises(ValueError, match=message):
        EpisodicMemory(**{"patterns_per_experience": 10, **arguments})


def test_task_labels_are_kept_or_absent():
    memory = filled(EpisodicMemory(5), [split_digits(5, task_labels=True).train_stream[2]])
    assert all_constraints(memory)[0].task_labels.tolist() == [2] * 5
    dataset = make_avalanche_dataset(TensorDataset(torch.randn(6, 2), torch.arange(6) % 2))
    memory = filled(EpisodicMemory(5), ab.benchmark_from_datasets(train=[dataset]).train_stream)
    assert all_constraints(memory)[0].task_labels is None


def test_numpy_integers_are_integers():
    memory = EpisodicMemory(np.int64(6), np.int64(2), seed=np.int64(1))
    assert len(all_constraints(filled(memory, numbered().train_stream))) == 4


def noisy(x):
    return x + torch.randn(3) + random.random() + np.random.rand()


def augmented():
    """Samples equal to 0 in evaluation and to random noise in training."""
    dataset = tensor_dataset(torch.zeros(20, 3), torch.arange(20) % 2)
    return ab.nc_benchmark(dataset, dataset, 1, False, train_transform=noisy, eval_transform=lambda x: x)


def test_transform_policies():
    stream = augmented().train_stream
    memories = {
        name: filled(EpisodicMemory(5, transform=name), stream) for name in ("eval", "train", "frozen")
    }
    first = {name: all_constraints(memory)[0].x for name, memory in memories.items()}
    again = {name: all_constraints(memory)[0].x for name, memory in memories.items()}
    assert (first["eval"] == 0).all()
    assert (first["frozen"] != 0).all()
    assert torch.equal(first["frozen"], again["frozen"])
    assert (first["train"] != 0).all()
    assert not torch.equal(first["train"], again["train"])


@pytest.mark.parametrize("transform", ["eval", "train", "frozen"])
def test_no_global_generator_is_advanced(transform):
    stream = augmented().train_stream

    def draws():
        return torch.rand(1).item(), random.random(), np.random.rand()

    def seed():
        torch.manual_seed(5)
        random.seed(5)
        np.random.seed(5)

    seed()
    expected = draws()
    seed()
    all_constraints(filled(EpisodicMemory(5, 2, transform=transform), stream))
    assert draws() == expected


def test_without_a_seed_it_follows_the_global_one():
    def draw(global_seed, seed=None):
        torch.manual_seed(global_seed)
        return all_constraints(filled(EpisodicMemory(5, seed=seed), numbered().train_stream))[0].x

    assert torch.equal(draw(1), draw(1))
    assert not torch.equal(draw(1), draw(2))
    assert torch.equal(draw(1, seed=7), draw(2, seed=7))


@pytest.mark.parametrize("transform", ["eval", "frozen"])
def test_a_pickled_memory_is_small_and_continues_as_the_original(transform):
    benchmark = numbered((5000, 40, 30))
    memory = filled(EpisodicMemory(5, 2, transform=transform, seed=0), list(benchmark.train_stream)[:2])
    pickled = pickle.dumps(memory)
    assert len(pickled) < 10_000  # not the datasets
    copy = pickle.loads(pickled)
    for m in (memory, copy):
        m.update(benchmark.train_stream[2])
        m.update(benchmark.train_stream[1])
    for a, b in zip(all_constraints(memory), all_constraints(copy), strict=True):
        assert torch.equal(a.x, b.x)
