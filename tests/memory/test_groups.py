"""Draws of a step's samples, and the memory that makes them."""

import numpy as np
import pytest
import torch
from avalanche.training import Naive
from helpers import MLP, Probe, mlp, split_digits, strategy_arguments
from torch.utils.data import TensorDataset

from avalanche_mgem import MGEM, DMGEMPlugin
from avalanche_mgem.memory import Draws, EpisodicMemory, MemoryGroups, MixedGroups


def numbered(sizes, origins=None):
    """MemoryGroups whose inputs are the numbers of their samples."""
    n = sum(sizes)
    origins = tuple((k, 0) for k in range(len(sizes))) if origins is None else tuple(origins)
    x = torch.arange(n)
    return MemoryGroups(x, 10 * x, 100 * x, tuple(sizes), origins, tuple(range(len(sizes))))


def draws(sizes, origins=None, patterns=None, experiences=None, seed=0):
    origins = [(k, 0) for k in range(len(sizes))] if origins is None else origins
    return Draws(
        sizes,
        origins,
        patterns_per_step=patterns,
        experiences_per_step=experiences,
        generator=np.random.default_rng(seed),
    )


def test_a_run_and_one_constraint_are_views():
    whole = numbered((2, 3, 4))
    assert whole[1].x.tolist() == [2, 3, 4]
    assert whole[-1].task_labels.tolist() == [500, 600, 700, 800]
    run = whole[1:]
    assert run.sizes == (3, 4)
    assert run.tasks == (1, 2)
    assert run.x.data_ptr() == whole.x[2:].data_ptr()
    assert [c.experience for c in whole] == [0, 1, 2]
    with pytest.raises(ValueError, match="memory groups are taken in runs"):
        whole[::2]


@pytest.mark.parametrize("sizes", [(8, 8, 8), (8, 3, 5), (1, 8)])
@pytest.mark.parametrize("patterns", [1, 3, 6, 7, 15, 100])
def test_samples_of_a_step_are_distinct_even_and_of_their_constraint(sizes, patterns):
    whole, source = numbered(sizes), draws(sizes, patterns=patterns)
    share = max(1, patterns // len(sizes))
    for _ in range(20):
        step = whole.take(source.next())
        assert step.sizes == tuple(min(share, size) for size in sizes)
        assert step.origins == whole.origins
        for found, own in zip(step, whole, strict=True):
            assert set(found.x.tolist()) <= set(own.x.tolist())
            assert len(found.x.unique()) == len(found.x)
        assert torch.equal(step.y, 10 * step.x)
        assert torch.equal(step.task_labels, 100 * step.x)


def test_every_sample_is_used_equally_often():
    source, counts = draws((12, 12), patterns=8), torch.zeros(24)
    for _ in range(30):
        counts[torch.from_numpy(source.next().positions)] += 1
    assert (counts == 10).all()  # walked through, not drawn with luck


def test_the_order_is_random_and_of_its_seed():
    first, again, other = (
        draws((50,), patterns=5, seed=seed).next().positions.tolist() for seed in (0, 0, 1)
    )
    assert first == again != other


def test_experiences_are_drawn_with_all_of_their_groups():
    origins = [(e, g) for e in (4, 4, 7) for g in range(2)]  # two benchmarks may use the same numbers
    whole, source = numbered((2,) * 6, origins), draws((2,) * 6, origins, experiences=2)
    kept = [source.next().kept for _ in range(100)]
    assert set(kept) == {(0, 1, 2, 3), (0, 1, 4, 5), (2, 3, 4, 5)}
    step = whole.take(source.next())
    assert len(step) == 4
    assert step.sizes == (2, 2, 2, 2)


def test_more_than_there_are_takes_all():
    draw = draws((3, 2), patterns=1000, experiences=9).next()
    assert draw.positions.tolist() == [0, 1, 2, 3, 4]
    assert draw.kept == (0, 1)


@pytest.mark.parametrize("name", ["patterns_per_step", "experiences_per_step"])
@pytest.mark.parametrize("value", [0, -1, 1.5, True, "all"])
def test_values_that_are_not_allowed(name, value):
    with pytest.raises(ValueError, match=f"^{name} must be an integer of at least 1; got {value!r}"):
        EpisodicMemory(5, **{name: value})


def seen_in_training(transform="eval", **kwargs):
    """The constraints of every step on the last of three experiences."""
    probe = Probe("before_forward", lambda s: DMGEMPlugin.of(s).projector.groups)
    plugins = [probe, DMGEMPlugin(20, memory_transform=transform, seed=3, **kwargs)]
    strategy = Naive(plugins=plugins, **strategy_arguments(mlp()))
    torch.manual_seed(0)
    for experience in list(split_digits(5).train_stream)[:3]:
        strategy.train(experience)
    return [seen for seen in probe.seen if seen is not None and len({e for e, _ in seen.origins}) > 1]


@pytest.mark.parametrize("transform", ["eval", "train", "frozen"])
def test_training_draws_anew_in_every_step(transform):
    steps = seen_in_training(transform, patterns_per_step=12)
    assert len(steps) > 5
    assert all(step.sizes == (3,) * 4 for step in steps)
    assert len({tuple(step.x.sum(dim=1).tolist()) for step in steps}) > len(steps) // 2
    whole = seen_in_training(transform)
    assert whole[0].sizes == (10,) * 4
    assert {tuple(x.tolist()) for x in steps[0].x} <= {tuple(x.tolist()) for x in whole[0].x}


def test_training_on_drawn_experiences():
    probe = Probe("before_forward", lambda s: len(DMGEMPlugin.of(s).projector.groups or ()))
    strategy = Naive(plugins=[probe, DMGEMPlugin(20, experiences_per_step=2)], **strategy_arguments(mlp()))
    for experience in split_digits(5).train_stream:
        strategy.train(experience)
    assert set(probe.seen) == {0, 2, 4}


@pytest.mark.parametrize(
    "options", [{"memory_device": "cpu"}, {"references": "layerwise"}, {"references": "loop"}]
)
def test_options_that_change_nothing_but_rounding(options):
    def trained(**kwargs):
        torch.manual_seed(0)
        model = MLP().double()
        strategy = MGEM(
            patterns_per_exp=20, num_groups=2, num_modules=2, **kwargs, **strategy_arguments(model)
        )
        torch.manual_seed(0)
        for experience in list(split_digits(5, dtype=torch.float64).train_stream)[:3]:
            strategy.train(experience)
        return torch.cat([p.detach().flatten() for p in model.parameters()])

    torch.testing.assert_close(trained(**options), trained(), rtol=1e-5, atol=1e-7)


def test_references_in_bfloat16_are_rounded_and_train_as_well():
    def trained(**kwargs):
        model = mlp()
        strategy = MGEM(patterns_per_exp=20, **kwargs, **strategy_arguments(model))
        torch.manual_seed(0)
        for experience in list(split_digits(5).train_stream)[:2]:
            strategy.train(experience)
        return torch.cat([p.detach().flatten() for p in model.parameters()])

    rounded, exact = trained(reference_autocast=True), trained()
    assert rounded.dtype == torch.float32
    assert 0 < (rounded - exact).norm() < 0.1 * exact.norm()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"references": "fast"}, "references must be one of"),
        ({"reference_autocast": 1}, "reference_autocast must be True or False"),
        ({"memory_device": "moon"}, "memory_device=moon: .*allowed are None, cpu"),
        ({"memory_device": "cuda:99"}, "memory_device=cuda:99: .*allowed are None, cpu"),
    ],
)
def test_options_that_are_not_allowed(options, message):
    with pytest.raises(ValueError, match=message):
        DMGEMPlugin(5, **options)


def shaped(widths=(3, 3, 4, 3), **kwargs):
    """Experiences whose samples have these numbers of features, each equal to the experience's number."""
    memory = EpisodicMemory(6, 2, seed=0, **kwargs)
    for number, width in enumerate(widths):
        memory.remember(TensorDataset(torch.full((9, width), float(number)), torch.arange(9)))
    return memory


def test_experiences_may_differ_in_the_shape_of_their_samples():
    groups = shaped().groups()
    assert isinstance(groups, MixedGroups)
    assert [len(part) for part in groups.parts] == [4, 2, 2]
    assert groups.origins == tuple((e, g) for e in range(4) for g in range(2))
    assert groups.sizes == (3,) * 8
    assert [list(group.x.shape) for group in groups] == [[3, 3]] * 4 + [[3, 4]] * 2 + [[3, 3]] * 2
    assert all((group.x == group.experience).all() for group in groups)
    assert groups[-3].x.shape == (3, 4)
    assert [groups.end_of_form(k) for k in range(8)] == [4, 4, 4, 4, 6, 6, 8, 8]
    run = groups[3:6]
    assert run.origins == ((1, 1), (2, 0), (2, 1))
    assert isinstance(groups[1:3], MemoryGroups)
    assert isinstance(shaped((3, 3)).groups(), MemoryGroups)


@pytest.mark.parametrize("transform", ["eval", "train"])
@pytest.mark.parametrize("drawn", [{"patterns_per_step": 8}, {"experiences_per_step": 2}, {}])
def test_draws_of_samples_that_differ_in_shape(transform, drawn):
    steps = shaped(transform=transform, **drawn).steps()
    for _ in range(10):
        step = next(steps)
        assert len(step) == (4 if "experiences_per_step" in drawn else 8)
        assert step.sizes == ((1,) if "patterns_per_step" in drawn else (3,)) * len(step)
        for group, origin in zip(step, step.origins, strict=True):
            assert (group.experience, group.group) == origin
            assert (group.x == group.experience).all()
            assert group.x.shape[1] == (3, 3, 4, 3)[group.experience]


def test_groups_follow_a_memory_that_is_asked_for_another_number():
    memory = EpisodicMemory(6, num_groups=3, seed=0)
    memory.remember(TensorDataset(torch.arange(8.0).unsqueeze(1), torch.arange(8) % 2))
    kept = memory.groups().x.sort(dim=0).values
    for number, grouping in ((1, "random"), (6, "random"), (2, "label")):
        memory.num_groups, memory.grouping = number, grouping
        groups = memory.groups()
        assert groups.sizes == (6 // number,) * number if grouping == "random" else min(groups.sizes) > 0
        assert torch.equal(groups.x.sort(dim=0).values, kept)
    assert [group.y.unique().numel() for group in groups] == [1, 1]
