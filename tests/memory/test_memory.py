import copy
import gc
import pickle
import random
import weakref
from functools import partial

import avalanche.benchmarks as ab
import numpy as np
import PIL.Image
import pytest
import torch
from avalanche.benchmarks.utils import _make_taskaware_tensor_classification_dataset as tensor_dataset
from avalanche.benchmarks.utils import make_avalanche_dataset
from helpers import split_digits
from torch.utils.data import DataLoader, IterableDataset, TensorDataset, default_collate

from avalanche_mgem.memory import EpisodicMemory, fingerprint
from avalanche_mgem.plugins import origin_experience, samples_of


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
        remember(memory, experience)
    return memory


def remember(memory: EpisodicMemory, experience) -> None:
    """As the plugin does it."""
    origin = origin_experience(experience)
    memory.remember(
        samples_of(experience, memory.transform),
        experience=origin.current_experience,
        key=fingerprint(origin.dataset.eval()),
        extends=origin is not experience and not experience.is_first_subexp,
    )


def test_it_keeps_so_many_different_samples_of_each_experience():
    memory = filled(EpisodicMemory(10, seed=0), numbered().train_stream)
    first, second = memory.groups()
    assert (first.experience, second.experience) == (0, 1)
    for constraint, low, high in ((first, 0, 40), (second, 40, 70)):
        assert constraint.x.unique().numel() == 10
        assert (constraint.x >= low).all()
        assert (constraint.x < high).all()
        assert torch.equal(constraint.x.squeeze(1).long().sub(low) % 4, constraint.y)


def test_a_smaller_experience_is_kept_whole():
    memory = filled(EpisodicMemory(100), numbered((7,)).train_stream)
    (constraint,) = memory.groups()
    assert sorted(constraint.x.flatten().tolist()) == list(range(7))


def test_samples_are_uniform_not_the_first_ones():
    kept = torch.zeros(40)
    for seed in range(300):
        memory = filled(EpisodicMemory(10, seed=seed), numbered((40,)).train_stream)
        kept[memory.groups()[0].x.long().flatten()] += 1
    # Binomial(300, 1/4): mean 75, standard deviation 7.5.
    assert kept.min() > 75 - 5 * 7.5
    assert kept.max() < 75 + 5 * 7.5


def test_the_experience_that_is_trained_is_no_constraint():
    benchmark = numbered()
    memory = filled(EpisodicMemory(5), benchmark.train_stream)
    (constraint,) = memory.groups(but=fingerprint(benchmark.train_stream[1].dataset.eval()))
    assert constraint.experience == 0


def test_a_repeated_experience_replaces_its_samples():
    benchmark = numbered()
    memory = filled(EpisodicMemory(5, seed=0), [*benchmark.train_stream, benchmark.train_stream[0]])
    assert len(memory) == 2
    assert [c.experience for c in memory.groups()] == [0, 1]
    once = filled(EpisodicMemory(5, seed=0), benchmark.train_stream)
    assert memory.groups()[0].x.unique().numel() == 5
    assert not torch.equal(memory.groups()[0].x, once.groups()[0].x)
    assert torch.equal(memory.groups()[1].x, once.groups()[1].x)


def test_another_benchmark_with_the_same_names_does_not_replace_samples():
    others = numbered((41, 31))
    memory = filled(EpisodicMemory(5), [*numbered().train_stream, *others.train_stream])
    assert len(memory) == 4


def test_an_experience_is_recognised_by_its_data_also_after_pickling_and_in_a_new_benchmark():
    memory = filled(EpisodicMemory(5, seed=0), numbered().train_stream)
    memory = filled(pickle.loads(pickle.dumps(memory)), numbered().train_stream)
    assert len(memory) == 2
    (kept,) = memory.groups(but=fingerprint(numbered().train_stream[1].dataset.eval()))
    assert kept.experience == 0


@pytest.mark.parametrize("change", ["length", "first sample", "last sample", "target", "order"])
def test_a_fingerprint_tells_datasets_apart(change):
    x, y = torch.arange(20.0).unsqueeze(1), torch.arange(20) % 3
    before = fingerprint(TensorDataset(x, y))
    x, y = x.clone(), y.clone()
    if change == "first sample":
        x[0] += 1
    elif change == "last sample":
        x[-1] += 1
    elif change == "target":
        y[0] += 1
    elif change == "order":
        x, y = x.flip(0), y.flip(0)
    elif change == "length":
        x, y = x[:-1], y[:-1]
    assert fingerprint(TensorDataset(x, y)) != before


def test_a_fingerprint_takes_samples_of_every_form():
    image = PIL.Image.fromarray(np.arange(12, dtype=np.uint8).reshape(3, 4))
    sample = (
        {"ids": torch.tensor([1, 2]), "mask": np.ones(2)},
        [image, 3],
        "text",
        torch.tensor(1.5).bfloat16(),
    )
    assert fingerprint([sample]) == fingerprint([copy.deepcopy(sample)])
    assert fingerprint([sample]) != fingerprint([(*sample[:3], torch.tensor(2.5).bfloat16())])
    assert fingerprint([]) == fingerprint([])


def test_a_fingerprint_takes_samples_that_make_no_batch():
    def dataset(last):
        parts = [(torch.arange(n), 0) for n in (2, 3, last)]
        return make_avalanche_dataset(parts)

    assert dataset(4).collate_fn is default_collate
    assert fingerprint(dataset(4)) == fingerprint(dataset(4)) != fingerprint(dataset(5))


@pytest.mark.parametrize("transform", ["eval", "train", "frozen"])
def test_an_online_stream_has_one_memory_for_each_origin(transform):
    stream = ab.split_online_stream(numbered().train_stream, 7, access_task_boundaries=True, seed=0)
    memory = filled(EpisodicMemory(10, transform=transform, seed=1), stream)
    first, second = memory.groups()
    assert first.x.unique().numel() == second.x.unique().numel() == 10
    assert first.x.max() < 40 <= second.x.min()


def test_online_samples_are_uniform_over_all_sub_experiences():
    kept = torch.zeros(40)
    benchmark = numbered((40,))
    for seed in range(200):
        stream = ab.split_online_stream(
            benchmark.train_stream, 6, shuffle=False, access_task_boundaries=True, seed=0
        )
        kept[filled(EpisodicMemory(10, seed=seed), stream).groups()[0].x.long().flatten()] += 1
    # Binomial(200, 1/4): mean 50, standard deviation 6.1; early and late samples alike.
    assert kept.min() > 50 - 5 * 6.1
    assert kept.max() < 50 + 5 * 6.1


@pytest.mark.parametrize("transform", ["eval", "train"])
@pytest.mark.parametrize("online", [False, True])
def test_a_budget_is_full_from_the_first_experience_on_and_shared_evenly(transform, online):
    """After each experience it holds what a memory of so many samples an experience would hold."""
    mem_size, stream = 25, numbered((40, 30, 20, 4, 30)).train_stream
    shares = [25, 12, 8, 6, 5]
    memory = EpisodicMemory(None, mem_size=mem_size, transform=transform, seed=3)
    for seen, share in enumerate(shares, 1):
        if online:
            pieces = ab.split_online_stream(stream, 7, access_task_boundaries=True, seed=0)
            part = [piece for piece in pieces if piece.origin_experience.current_experience == seen - 1]
        else:
            part = [stream[seen - 1]]
        filled(memory, part)
        sizes = copy.deepcopy(memory).groups().sizes  # to split it draws from the generator, too
        assert sizes == tuple(min(len(stream[i].dataset), share) for i in range(seen))
        assert sum(sizes) <= mem_size
    last = filled(
        EpisodicMemory(shares[-1], transform=transform, seed=3),
        ab.split_online_stream(stream, 7, access_task_boundaries=True, seed=0) if online else stream,
    )
    kept, expected = ([group.x.flatten().sort().values for group in m.groups()] for m in (memory, last))
    if not online:  # the generator also draws how a piece is read, if some of it is kept
        assert all(torch.equal(a, b) for a, b in zip(kept, expected, strict=True))
    for values, low, high in zip(kept, (0, 40, 70, 90, 94), (40, 70, 90, 94, 124), strict=True):
        assert low <= values[0]
        assert values[-1] < high


def test_a_shrunken_experience_is_split_into_even_groups_anew():
    memory = filled(EpisodicMemory(None, 3, mem_size=30, seed=0), numbered((40,)).train_stream)
    assert memory.groups().sizes == (10, 10, 10)
    filled(memory, numbered((40, 30)).train_stream[1:])
    assert memory.groups().sizes == (5,) * 6


def test_a_budget_that_is_used_up_says_so():
    memory = EpisodicMemory(None, 2, mem_size=4, seed=0)
    stream = numbered((40, 30, 20, 10, 10)).train_stream
    with pytest.raises(ValueError, match=r"num_groups=2 but .* holds only 1 samples"):
        memory.check(stream[0].dataset, past=4)
    with pytest.raises(ValueError, match="mem_size=4 has no sample for each of 5 experiences; give more"):
        memory.check(stream[0].dataset, past=5)
    with pytest.raises(ValueError, match="mem_size=4 has no sample for each of 5 experiences; give more"):
        filled(memory, stream)
    assert len(memory) == 4  # as before the one that failed


def test_it_does_not_keep_the_benchmarks_data_alive():
    memory, alive = EpisodicMemory(5), []
    for _ in range(3):
        dataset = tensor_dataset(torch.randn(50, 4), torch.arange(50) % 3)
        alive.append(weakref.ref(dataset))
        remember(memory, ab.benchmark_from_datasets(train=[dataset]).train_stream[0])
        del dataset
    gc.collect()
    assert [reference() for reference in alive] == [None] * 3
    assert len(memory) == 3


@pytest.mark.parametrize("grouping", ["random", "stratified", "label"])
@pytest.mark.parametrize("d", [1, 2, 3, 4])
def test_groups_are_a_partition_and_never_empty(grouping, d):
    memory = filled(EpisodicMemory(22, d, grouping, seed=0), numbered((40,)).train_stream)
    groups = memory.groups()
    assert [g.group for g in groups] == list(range(d))
    assert all(len(g.y) > 0 for g in groups)
    assert torch.cat([g.x for g in groups]).unique().numel() == 22


def test_random_groups_are_even_and_random():
    benchmark = numbered((40,))
    groups = filled(EpisodicMemory(22, 4, seed=0), benchmark.train_stream).groups()
    assert sorted(len(g.y) for g in groups) == [5, 5, 6, 6]
    whole = []
    for seed in (1, 1, 2):
        memory = filled(EpisodicMemory(40, 4, seed=seed), benchmark.train_stream)
        whole.append([sorted(g.x.flatten().tolist()) for g in memory.groups()])
    assert whole[0] == whole[1] != whole[2]


def test_stratified_groups_have_the_class_balance_of_the_experience():
    memory = filled(EpisodicMemory(37, 3, "stratified", seed=0), numbered((40,)).train_stream)
    groups = memory.groups()
    counts = torch.stack([torch.bincount(g.y, minlength=4) for g in groups])
    assert (counts.max(dim=0).values - counts.min(dim=0).values <= 1).all()
    assert counts.sum(dim=1).max() - counts.sum(dim=1).min() <= 1


def test_label_groups_hold_whole_classes():
    groups = filled(EpisodicMemory(40, 3, "label"), numbered((40,)).train_stream).groups()
    classes = [set(g.y.tolist()) for g in groups]
    assert sorted(c for group in classes for c in group) == [0, 1, 2, 3]
    assert sorted(len(group) for group in classes) == [1, 1, 2]


def test_a_function_may_group():
    by_number = EpisodicMemory(40, 2, lambda x, y: (x.squeeze(1) >= 20).long())
    groups = filled(by_number, numbered((40,)).train_stream).groups()
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
        memory.groups()


def test_class_groups_need_class_labels():
    dataset = make_avalanche_dataset(TensorDataset(torch.randn(6, 2), torch.randn(6)))
    benchmark = ab.benchmark_from_datasets(train=[dataset])
    memory = filled(EpisodicMemory(6, 2, "stratified"), benchmark.train_stream)
    with pytest.raises(ValueError, match="needs class labels, integers"):
        memory.groups()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"patterns_per_experience": 0}, "patterns_per_experience must be an integer of at least 1; got 0"),
        ({"patterns_per_experience": 2.5}, "patterns_per_experience must be an integer"),
        ({"num_groups": 0}, "num_groups must be an integer of at least 1"),
        ({"seed": -1}, "seed must be an integer of at least 0; got -1"),
        ({"seed": "2"}, "seed must be an integer"),
        ({"num_groups": 11}, "num_groups=11 is larger than the memory of 10"),
        ({"mem_size": 10}, "patterns_per_experience=10, mem_size=10: give one of the two"),
        (
            {"patterns_per_experience": None},
            "patterns_per_experience=None, mem_size=None: give one of the two",
        ),
        (
            {"patterns_per_experience": None, "mem_size": 0},
            "mem_size must be an integer of at least 1; got 0",
        ),
        (
            {"patterns_per_experience": None, "mem_size": 3, "num_groups": 4},
            "num_groups=4 is larger than the memory of 3 mem_size",
        ),
        ({"grouping": "class"}, r"grouping must be one of \('random', 'stratified', 'label'\)"),
        ({"transform": "none"}, r"memory_transform must be one of \('eval', 'train', 'frozen'\)"),
    ],
)
def test_arguments_are_checked(arguments, message):
    with pytest.raises(ValueError, match=message):
        EpisodicMemory(**{"patterns_per_experience": 10, **arguments})


def test_task_labels_are_kept_or_absent():
    memory = filled(EpisodicMemory(5), [split_digits(5, task_labels=True).train_stream[2]])
    assert memory.groups()[0].task_labels.tolist() == [2] * 5
    dataset = make_avalanche_dataset(TensorDataset(torch.randn(6, 2), torch.arange(6) % 2))
    memory = filled(EpisodicMemory(5), ab.benchmark_from_datasets(train=[dataset]).train_stream)
    assert memory.groups()[0].task_labels is None


class Endless(IterableDataset):
    def __iter__(self):
        yield torch.zeros(2), 0


@pytest.mark.parametrize(
    ("dataset", "message"),
    [
        (DataLoader([(torch.zeros(2), 0)]), r"DataLoader gives batches; .*: give loader\.dataset\.$"),
        (Endless(), r"samples of a Endless have no number .* list\(dataset\)\.$"),
        (iter([(torch.zeros(2), 0)]), r"samples of a list_iterator have no number"),
        (None, "samples of a NoneType have no number"),
    ],
    ids=["loader", "iterable", "iterator", "none"],
)
@pytest.mark.parametrize("key", [None, "known"])
def test_samples_without_places_are_a_clear_error(dataset, message, key):
    memory = EpisodicMemory(2)
    for use in (memory.check, partial(memory.remember, key=key), fingerprint):
        with pytest.raises(ValueError, match=message):
            use(dataset)
    assert len(memory) == 0


def test_numpy_integers_are_integers():
    memory = EpisodicMemory(np.int64(6), np.int64(2), seed=np.int64(1))
    assert len(filled(memory, numbered().train_stream).groups()) == 4


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
    first = {name: memory.groups()[0].x for name, memory in memories.items()}
    again = {name: memory.groups()[0].x for name, memory in memories.items()}
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
    filled(EpisodicMemory(5, 2, transform=transform), stream).groups()
    assert draws() == expected


def test_without_a_seed_it_follows_the_global_one():
    def draw(global_seed, seed=None):
        torch.manual_seed(global_seed)
        return filled(EpisodicMemory(5, seed=seed), numbered().train_stream).groups()[0].x

    assert torch.equal(draw(1), draw(1))
    assert not torch.equal(draw(1), draw(2))
    assert torch.equal(draw(1, seed=7), draw(2, seed=7))


@pytest.mark.parametrize("transform", ["eval", "frozen"])
def test_a_pickled_memory_is_small_and_continues_as_the_original(transform):
    benchmark = numbered((5000, 40, 30))
    memory = filled(EpisodicMemory(5, 2, transform=transform, seed=0), list(benchmark.train_stream)[:2])
    pickled = pickle.dumps(memory)
    assert len(pickled) < 10_000  # not the datasets
    restored = pickle.loads(pickled)
    for m in (memory, restored):
        remember(m, benchmark.train_stream[2])
        remember(m, benchmark.train_stream[1])
    for a, b in zip(memory.groups(), restored.groups(), strict=True):
        assert torch.equal(a.x, b.x)
