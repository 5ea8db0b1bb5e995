"""MGEM with one module and one group against Avalanche's GEM: equal where that is right, right where not."""

import math

import pytest
import torch
from avalanche.training import GEM, Naive
from avalanche.training.plugins import GEMPlugin
from helpers import Probe, mlp, parameters_of, split_digits, strategy_arguments
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader

from avalanche_mgem import DMGEM, MGEM, PMGEM
from avalanche_mgem.functional import project

WHOLE = 10_000  # a memory as large as the experience: the same contents however they are drawn


@pytest.mark.parametrize("gamma", [0.0, 0.5])
def test_mgem_follows_gem_over_three_experiences(gamma):
    benchmark = split_digits(5)
    finals = []
    for make in (
        lambda **kw: GEM(patterns_per_exp=WHOLE, memory_strength=gamma, **kw),
        lambda **kw: MGEM(
            patterns_per_exp=WHOLE, memory_strength=gamma, ridge="absolute", solver="quadprog", **kw
        ),
        lambda **kw: Naive(**kw),
    ):
        model = mlp()
        strategy = make(**strategy_arguments(model))
        for experience in list(benchmark.train_stream)[:3]:
            strategy.train(experience, shuffle=False)  # GEM's filling of the memory shifts the shuffles
        finals.append(parameters_of(model))
    gem, mgem, naive = finals
    assert (mgem - gem).abs().max() <= 1e-5
    assert (naive - gem).abs().max() >= 1e-2  # the constraints were at work


def test_one_update_equals_gem_in_the_same_state():
    # Same G, same g: the step alone, in float32, against Avalanche's own solver.
    plugin = GEMPlugin(patterns_per_experience=5, memory_strength=0.5)
    torch.manual_seed(0)
    plugin.G = torch.randn(4, 50)
    g = torch.randn(50) - plugin.G.sum(dim=0)
    z = project(g, plugin.G, memory_strength=0.5, solver="quadprog", ridge="absolute")
    assert (plugin.G @ g < 0).any()
    torch.testing.assert_close(z, plugin.solve_quadprog(g), rtol=1e-5, atol=1e-5)


def test_gem_is_pmgem_with_one_module_and_dmgem_with_one_group():
    benchmark = split_digits(5)
    finals = []
    for make in (
        lambda **kw: MGEM(**kw),
        lambda **kw: PMGEM(num_modules=1, **kw),
        lambda **kw: DMGEM(num_groups=1, **kw),
        lambda **kw: PMGEM(num_groups=3, **kw),
        lambda **kw: DMGEM(num_groups=3, num_modules=2, **kw),
        lambda patterns_per_exp, **kw: Naive(**kw),
    ):
        model = mlp()
        torch.manual_seed(1)
        strategy = make(patterns_per_exp=20, **strategy_arguments(model))
        strategy.train(list(benchmark.train_stream)[:3])
        finals.append(parameters_of(model))
    gem, one_module, one_group, fine, fine_too, naive = finals
    assert torch.equal(gem, one_module)
    assert torch.equal(gem, one_group)
    assert torch.equal(fine, fine_too)
    assert (gem - naive).abs().max() >= 1e-2  # the constraints were at work, and those of the groups too
    assert (gem - fine).abs().max() >= 1e-2


def gradient_vectors(model, parts):
    """The gradient [P] of the mean loss on each (x, y, task labels), computed apart from the package."""
    rows, parameters = [], list(model.parameters())
    for x, y, task in parts:
        loss = cross_entropy(model(x, task), y)
        rows.append(flat(torch.autograd.grad(loss, parameters, allow_unused=True), parameters))
    return torch.stack(rows)


def flat(gradients, parameters):
    pairs = zip(gradients, parameters, strict=True)
    return torch.cat([(torch.zeros_like(p) if d is None else d).flatten() for d, p in pairs])


def worst_cosines(make):
    """The worst cosine of an older experience's gradient with g and with z, in every step with a memory.

    The memories are whole experiences, so that they are known without a look into the plugin.
    """
    stream = list(split_digits(5, task_labels=True).train_stream)[:4]
    whole = [next(iter(DataLoader(e.dataset, batch_size=WHOLE))) for e in stream]

    @torch.enable_grad()
    def worst(strategy):
        minibatch = (strategy.mb_x, strategy.mb_y, strategy.mb_task_id)
        past = whole[: strategy.experience.current_experience]
        *rows, g = gradient_vectors(strategy.model, [*past, minibatch])
        parameters = list(strategy.model.parameters())
        z = flat([p.grad for p in parameters], parameters)
        G = torch.stack(rows or [g])
        return [(G @ x / (G.norm(dim=1) * x.norm())).min().item() for x in (g, z)]

    # Behind the strategy's own plugins, so that the projected gradient is seen.
    probe = Probe("before_update", worst)
    strategy = make(plugins=[probe], **strategy_arguments(mlp(multi_head=True)))
    strategy.train(stream)
    steps_in_first = math.ceil(len(stream[0].dataset) / strategy.train_mb_size)
    return torch.tensor(probe.seen)[steps_in_first:].T


def test_constraints_hold_after_a_multi_head_step_and_those_of_gem_do_not():
    g, gem = worst_cosines(lambda **kw: GEM(patterns_per_exp=WHOLE, memory_strength=0.0, **kw))
    assert len(gem) >= 30
    assert (g < -1e-3).float().mean() > 0.3
    assert (gem < -1e-3).float().mean() > 0.3
    g, ours = worst_cosines(lambda **kw: MGEM(patterns_per_exp=WHOLE, memory_strength=0.0, **kw))
    assert len(ours) == len(gem)
    assert (g < -1e-3).float().mean() > 0.3  # there was something to do
    assert (ours >= -1e-4).all()


def minibatches(make):
    probe = Probe("before_forward", lambda strategy: strategy.mb_x.clone())
    torch.manual_seed(3)
    make(plugins=[probe], **strategy_arguments(mlp())).train(list(split_digits(5).train_stream)[:3])
    return torch.cat(probe.seen)


def test_minibatches_are_those_of_naive_at_the_same_seed_and_those_of_gem_are_not():
    naive = minibatches(lambda **kw: Naive(**kw))
    for cls in (MGEM, PMGEM, DMGEM):
        assert torch.equal(minibatches(lambda cls=cls, **kw: cls(patterns_per_exp=20, **kw)), naive)
    assert not torch.equal(minibatches(lambda **kw: GEM(patterns_per_exp=20, **kw)), naive)


def test_the_callers_plugins_are_left_alone_and_those_of_gem_are_not():
    for cls, length in ((MGEM, 0), (GEM, 1)):
        plugins: list = []
        cls(patterns_per_exp=5, plugins=plugins, **strategy_arguments(mlp()))
        assert len(plugins) == length


def final(cls, scale):
    """Weights after three experiences with ``scale`` times the loss and the step divided by it."""
    model = mlp()
    torch.manual_seed(1)
    arguments = strategy_arguments(
        model, lr=0.1 / scale, criterion=lambda *args: scale * cross_entropy(*args)
    )
    strategy = cls(patterns_per_exp=20, **arguments)
    strategy.train(list(split_digits(5).train_stream)[:3], shuffle=False)
    return parameters_of(model)


@pytest.mark.parametrize("scale", [1e-3, 1e6])
def test_the_scale_of_the_loss_does_not_matter_to_mgem(scale):
    torch.testing.assert_close(final(MGEM, scale), final(MGEM, 1.0), rtol=1e-3, atol=1e-3)


def test_the_scale_of_the_loss_matters_to_gem():
    assert (
        final(GEM, 1e-3) - final(GEM, 1.0)
    ).abs().max() > 1e-2  # its absolute ridge outweighs the Gram matrix
    with pytest.raises(TypeError, match="NoneType"):  # what Avalanche raises when quadprog found no solution
        final(GEM, 1e6)
