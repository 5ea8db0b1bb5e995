"""The plugins in real training: every kind of model, stream and optimizer that GEM is used with."""

import copy
import pickle
import warnings
from functools import cache

import avalanche.benchmarks as ab
import pytest
import torch
from avalanche.benchmarks.utils import _make_taskaware_tensor_classification_dataset as tensor_dataset
from avalanche.models import IncrementalClassifier, avalanche_forward
from avalanche.training import Cumulative, Naive
from avalanche.training.plugins import EWCPlugin, LwFPlugin, ReplayPlugin, SupervisedPlugin
from avalanche.training.templates.base import PositionalArgumentsDeprecatedWarning
from helpers import MLP, Probe, digits, fast_digits, mlp, parameters_of, split_digits, strategy_arguments
from torch import nn
from torch.utils.data import TensorDataset

from avalanche_mgem import DMGEM, MGEM, PMGEM, DMGEMPlugin, MGEMPlugin, PMGEMPlugin, Projector
from avalanche_mgem.memory import fingerprint
from avalanche_mgem.schedules import Linear


def accuracy(strategy, stream) -> float:
    """Mean accuracy over the experiences of a stream."""
    strategy.model.eval()
    results = []
    for experience in stream:
        batch = [experience.dataset[i] for i in range(len(experience.dataset))]
        x, y, task_labels = experience.dataset.collate_fn(batch)
        output = avalanche_forward(strategy.model, x, task_labels)
        results.append((output.argmax(dim=1) == y).float().mean().item())
    return sum(results) / len(results)


def train(make, benchmark, model=None, seed=1, experiences=None, **kwargs):
    model = mlp() if model is None else model
    strategy = make(**strategy_arguments(model, **kwargs))
    torch.manual_seed(seed)
    for experience in benchmark.train_stream if experiences is None else experiences:
        strategy.train(experience)
    return strategy


def mgem_of(strategy) -> MGEMPlugin:
    return MGEMPlugin.of(strategy)


def rows_of(strategy):
    """The reference gradients G of the step, or None."""
    rows = mgem_of(strategy).projector.rows
    return None if rows is None else rows.dense()


def strength_of(strategy) -> float:
    """Gamma of the present step."""
    return mgem_of(strategy).projector.strength(strategy.experience.current_experience, strategy.clock)


def constraints_of(strategy) -> list:
    return list(mgem_of(strategy).projector.groups or ())


def fine(**kwargs):
    """pd-mGEM: both refinements at work."""
    return MGEM(patterns_per_exp=20, num_modules=2, num_groups=2, memory_strength=0.1, **kwargs)


@pytest.mark.parametrize("cls", [MGEM, PMGEM, DMGEM])
@pytest.mark.parametrize("multi_head", [False, True])
def test_they_forget_less_than_naive(cls, multi_head):
    ours = learnt(cls, multi_head, patterns_per_exp=20, memory_strength=0.1)
    assert ours > learnt(Naive, multi_head) + (0.0 if multi_head else 0.3)


@cache
def learnt(cls, multi_head, **options) -> float:
    """The accuracy at the end."""
    benchmark = fast_digits(task_labels=multi_head)
    make = lambda **kw: cls(**options, **kw)  # noqa: E731
    strategy = train(make, benchmark, mlp(multi_head=multi_head), train_epochs=3)
    return accuracy(strategy, benchmark.train_stream)


@pytest.mark.parametrize("solver", ["exact", "quadprog", "diagonal"])
def test_every_solver_trains(solver):
    benchmark = fast_digits()
    strategy = train(lambda **kw: fine(solver=solver, **kw), benchmark, train_epochs=3)
    assert accuracy(strategy, benchmark.train_stream) > 0.6


@pytest.mark.parametrize(
    "num_modules", [3, "layer", "tensor", "random:3", ["features.*", "classifier.*"]], ids=str
)
@pytest.mark.parametrize("growing", [pytest.param(False, marks=pytest.mark.slow), True])
def test_every_partition_trains_and_follows_a_growing_classifier(num_modules, growing):
    benchmark = fast_digits()
    model = MLP()
    if growing:
        model.classifier = IncrementalClassifier(32, 2)
    else:
        model.features.append(nn.Linear(32, 32))
    if num_modules == 3 and growing:
        model.features.append(nn.Linear(32, 32))
    strategy = train(
        lambda **kw: MGEM(patterns_per_exp=20, num_modules=num_modules, memory_strength=0.1, **kw),
        benchmark,
        model,
        train_epochs=3,
    )
    assert accuracy(strategy, benchmark.train_stream) > 0.4


@pytest.mark.parametrize("growing", [False, True])
def test_more_modules_than_layers_are_refused_before_training(growing):
    """A model that grows may have the layers when the first constraint comes."""
    model = MLP()
    if growing:
        model.classifier = IncrementalClassifier(32, 2)
    seen = []
    probe = Probe("after_training_exp", lambda strategy: seen.append(strategy.clock.train_exp_counter))
    with pytest.raises(ValueError, match="num_modules=9 but the model has"):
        train(
            lambda **kw: PMGEM(patterns_per_exp=20, num_modules=9, plugins=[probe], **kw),
            fast_digits(),
            model,
        )
    assert len(seen) == growing


@pytest.mark.parametrize(
    "optimizer",
    [
        lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9, weight_decay=1e-4),
        lambda p: torch.optim.Adam(p, lr=0.01),
        lambda p: torch.optim.Adagrad(p, lr=0.05),
    ],
)
def test_any_optimizer(optimizer):
    benchmark = fast_digits()
    model = mlp()
    try:
        train(Naive, benchmark, model, optimizer=optimizer(model.parameters()))
    except KeyError:  # of Adagrad's state, which Avalanche 0.6 loses under torch 2.4
        pytest.skip("Avalanche's own strategies do not train with this optimizer under this torch")
    model = mlp()
    strategy = train(fine, benchmark, model, optimizer=optimizer(model.parameters()), train_epochs=2)
    assert accuracy(strategy, benchmark.train_stream) > 0.5  # Naive: 0.2


def test_frozen_parameters_stay_and_are_in_no_constraint():
    benchmark = split_digits(5)
    model = mlp()
    model.features.requires_grad_(False)
    before = copy.deepcopy(model.features.state_dict())
    probe = Probe("before_forward", rows_of)
    make = lambda **kw: DMGEM(patterns_per_exp=20, plugins=[probe], **kw)  # noqa: E731
    strategy = train(make, benchmark, model)
    for name, value in strategy.model.features.state_dict().items():
        assert torch.equal(value, before[name])
    assert model.features[0].weight.grad is None
    assert probe.seen[-1].shape == (8, sum(p.numel() for p in model.classifier.parameters()))


def test_no_gradient_is_made_where_no_constraint_reaches():
    # A head that nothing has trained must not move by weight decay or momentum.
    benchmark = fast_digits(task_labels=True)
    model = mlp(multi_head=True)
    unused = nn.Linear(3, 3)
    model.model.unused = unused
    before = unused.weight.detach().clone()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=0.1)
    train(fine, benchmark, model, optimizer=optimizer)
    assert unused.weight.grad is None
    assert torch.equal(unused.weight, before)


def test_online_streams_have_one_constraint_for_each_origin_experience_and_group():
    benchmark = split_digits(5)
    probe = Probe("before_forward", lambda s: len(constraints_of(s)))
    online = ab.split_online_stream(benchmark.train_stream, 25, access_task_boundaries=True, seed=0)
    strategy = train(lambda **kw: fine(plugins=[probe], **kw), benchmark, experiences=online, train_epochs=4)
    assert sorted(set(probe.seen)) == [0, 2, 4, 6, 8]
    assert len(mgem_of(strategy).memory) == 5
    assert accuracy(strategy, benchmark.train_stream) > 0.5


def test_an_online_stream_that_hides_its_boundaries_gets_a_warning():
    benchmark = split_digits(5)
    online = ab.split_online_stream(benchmark.train_stream, 50, seed=0)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        strategy = train(fine, benchmark, experiences=online)
    hidden = [w for w in caught if "Pass access_task_boundaries=True" in str(w.message)]
    assert len(hidden) == 1  # not for each of the sub-experiences
    assert len(mgem_of(strategy).memory) == 5


def test_attached_late_it_protects_what_came_after():
    benchmark = split_digits(5)
    first = list(benchmark.train_stream)[:2]
    strategy = train(lambda **kw: Naive(**kw), benchmark, experiences=first, train_epochs=3)
    plugin = DMGEMPlugin(20, 0.1)
    strategy.plugins.append(plugin)
    for experience in list(benchmark.train_stream)[2:]:
        strategy.train(experience)
    assert len(plugin.memory) == 3
    assert accuracy(strategy, list(benchmark.train_stream)[2:]) > 0.5  # Naive: 1/3


def test_repeated_experiences_keep_one_memory_each():
    benchmark = split_digits(5)
    stream = list(benchmark.train_stream)[:2]
    probe = Probe("before_forward", lambda s: [c.experience for c in constraints_of(s)])
    make = lambda **kw: MGEM(patterns_per_exp=20, memory_strength=0.0, plugins=[probe], **kw)  # noqa: E731
    strategy = train(make, benchmark, experiences=[*stream, *stream])
    assert len(mgem_of(strategy).memory) == 2
    assert probe.seen[0] == []
    assert probe.seen[-1] == [0]  # while experience 1 is trained again, only experience 0 constrains


def test_evaluation_in_between_changes_nothing():
    benchmark = fast_digits(task_labels=True)

    def run(evaluate):
        strategy = fine(**strategy_arguments(mlp(multi_head=True), eval_mb_size=100))
        strategy.eval(benchmark.test_stream)  # the heads of all tasks are made here
        torch.manual_seed(1)
        for experience in benchmark.train_stream:
            strategy.train(experience)
            if evaluate:
                state = torch.get_rng_state()
                strategy.eval(benchmark.test_stream)
                torch.set_rng_state(state)  # Avalanche's evaluation loader draws a seed
        return parameters_of(strategy.model)

    assert torch.equal(run(True), run(False))


@pytest.mark.parametrize(
    "make_plugin", [lambda: ReplayPlugin(mem_size=50), lambda: EWCPlugin(ewc_lambda=0.1), LwFPlugin]
)
def test_other_plugins_work_beside_it(make_plugin):
    benchmark = fast_digits()
    strategy = train(lambda **kw: fine(plugins=[make_plugin()], **kw), benchmark, train_epochs=2)
    assert accuracy(strategy, benchmark.train_stream) > 0.6


class ClipsGradients(SupervisedPlugin):
    def after_backward(self, strategy, **kwargs):
        nn.utils.clip_grad_norm_(strategy.model.parameters(), 1e-3)


def test_clipping_comes_after_the_projection():
    step = Probe(
        "before_update", lambda s: torch.cat([p.grad.flatten() for p in s.model.parameters()]).norm()
    )
    make = lambda **kw: DMGEM(patterns_per_exp=20, plugins=[ClipsGradients(), step], **kw)  # noqa: E731
    train(make, fast_digits())
    assert 0 < max(step.seen) <= 1.001e-3


class Scaled(Naive):
    """A strategy whose loss is scaled, as float16 needs it."""

    def backward(self):
        self.scaler.scale(self.loss).backward()

    def optimizer_step(self):
        self.scaler.step(self.optimizer)
        self.scaler.update()


def test_a_scaled_loss_has_the_same_updates():
    def run(scaler):
        strategy = Scaled(plugins=[MGEMPlugin(20, 5.0, num_groups=2)], **strategy_arguments(mlp()))
        strategy.scaler = scaler
        torch.manual_seed(1)
        for experience in list(split_digits(5).train_stream)[:3]:
            strategy.train(experience)
        return parameters_of(strategy.model)

    plain = run(torch.amp.GradScaler("cpu", enabled=False))
    scaled = run(torch.amp.GradScaler("cpu", init_scale=2.0**10, growth_interval=10**6))
    torch.testing.assert_close(scaled, plain, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("n_before", [0, 1])
def test_a_step_that_overflows_is_left_to_the_scaler(n_before):
    stream = list(split_digits(5).train_stream)
    model = mlp()
    criterion = lambda output, y: 100 * nn.functional.cross_entropy(output, y)  # noqa: E731
    arguments = {**strategy_arguments(model, lr=1e-3), "criterion": criterion}
    strategy = Scaled(plugins=[MGEMPlugin(20, 0.1)], **arguments)
    strategy.scaler = torch.amp.GradScaler("cpu", enabled=False)
    strategy.train(stream[:n_before])
    strategy.scaler = torch.amp.GradScaler("cpu", init_scale=1e38)
    seen = []
    strategy.plugins.append(Probe("after_update", lambda s: seen.append(parameters_of(model).clone())))
    before = parameters_of(model).clone()
    strategy.train(stream[n_before])
    assert torch.equal(seen[0], before)  # skipped
    assert strategy.scaler.get_scale() < 1e38
    assert torch.isfinite(parameters_of(model)).all()


def test_it_works_in_other_strategies():
    benchmark = fast_digits()
    strategy = train(lambda **kw: Cumulative(plugins=[PMGEMPlugin(20)], **kw), benchmark, train_epochs=2)
    assert len(mgem_of(strategy).memory) == 5
    assert accuracy(strategy, benchmark.train_stream) > 0.8


def test_regularisers_that_add_to_the_gradient_are_projected_too():
    # A plugin before ours turns the gradient against the memory; the step still respects the constraint.
    benchmark = split_digits(5)

    def turn(strategy):
        G = rows_of(strategy)
        if G is not None:
            vector = -100.0 * G.sum(dim=0)
            parts = vector.split([p.numel() for p in strategy.model.parameters()])
            for p, part in zip(strategy.model.parameters(), parts, strict=True):
                p.grad += part.view_as(p)
            return G
        return None

    attack = Probe("after_backward", turn)
    step = Probe("before_update", lambda s: torch.cat([p.grad.flatten() for p in s.model.parameters()]))
    train(
        lambda **kw: MGEM(patterns_per_exp=20, memory_strength=0.0, plugins=[attack, step], **kw),
        benchmark,
        experiences=list(benchmark.train_stream)[:3],
    )
    checked = [(G, z) for G, z in zip(attack.seen, step.seen, strict=True) if G is not None]
    assert len(checked) > 10
    for G, z in checked:
        assert (G @ z / G.norm(dim=1) >= -1e-3 * 100 * G.norm()).all()


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_other_precisions_train(dtype):
    benchmark = split_digits(5, dtype=dtype)
    strategy = train(fine, benchmark, mlp().to(dtype), train_epochs=2)
    assert parameters_of(strategy.model).dtype == dtype
    assert torch.isfinite(parameters_of(strategy.model)).all()
    assert accuracy(strategy, benchmark.train_stream) > 0.5


@pytest.mark.parametrize("kind", ["sgd", "momentum", "sparse_adam"])
def test_sparse_gradients_train(kind):
    class Bag(nn.Module):
        def __init__(self):
            super().__init__()
            self.embedding = nn.EmbeddingBag(17, 16, sparse=True)
            self.classifier = nn.Linear(16, 10)

        def forward(self, x):
            return self.classifier(self.embedding((16 * x).long()))

    benchmark, model = split_digits(5), Bag()
    if kind == "sparse_adam":
        model.classifier.requires_grad_(False)
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = {
        "sgd": lambda: torch.optim.SGD(parameters, lr=0.1),
        "momentum": lambda: torch.optim.SGD(parameters, lr=0.1, momentum=0.9),
        "sparse_adam": lambda: torch.optim.SparseAdam(parameters, lr=0.01),
    }[kind]()
    if kind == "sparse_adam":  # Avalanche puts all parameters into the optimizer
        model.classifier = nn.Linear(16, 10, bias=False).requires_grad_(False)
    strategy = train(fine, benchmark, model, optimizer=optimizer)
    assert torch.isfinite(parameters_of(strategy.model)).all()
    assert strategy.model.embedding.weight.grad.is_sparse


def test_training_under_autocast():
    benchmark = fast_digits()
    with torch.autocast("cpu", dtype=torch.bfloat16, cache_enabled=False):
        strategy = train(fine, benchmark, train_epochs=3)
    assert accuracy(strategy, benchmark.train_stream) > 0.5


class Freeze(SupervisedPlugin):
    """Freezes all parameters but those of some names after the first experience."""

    def __init__(self, keep: str):
        super().__init__()
        self.keep = keep

    def before_training_exp(self, strategy, **kwargs):
        if strategy.clock.train_exp_counter > 0:
            for name, p in strategy.model.named_parameters():
                p.requires_grad_(self.keep in name)


def test_freezing_the_trunk_after_the_first_experience():
    benchmark = split_digits(5)
    make = lambda **kw: PMGEM(patterns_per_exp=20, plugins=[Freeze("classifier")], **kw)  # noqa: E731
    strategy = train(make, benchmark)
    assert torch.isfinite(parameters_of(strategy.model)).all()


def test_memories_that_reach_only_frozen_parameters_constrain_nothing():
    benchmark = split_digits(5, task_labels=True)
    probe = Probe("before_forward", rows_of)
    make = lambda **kw: MGEM(patterns_per_exp=20, plugins=[Freeze("classifiers.1"), probe], **kw)  # noqa: E731
    train(make, benchmark, mlp(multi_head=True), experiences=list(benchmark.train_stream)[:2])
    assert probe.seen[-1] is not None
    assert not probe.seen[-1].any()


def test_augmented_memories_are_drawn_anew_at_every_step():
    dataset = tensor_dataset(*digits(100))
    noise = lambda x: x + torch.randn(64)  # noqa: E731
    benchmark = ab.nc_benchmark(
        dataset, dataset, 5, False, seed=0, train_transform=noise, eval_transform=None
    )

    def number_of_different_memories(transform):
        probe = Probe("before_forward", lambda s: [c.x.sum().item() for c in constraints_of(s)])
        make = lambda **kw: fine(memory_transform=transform, plugins=[probe], **kw)  # noqa: E731
        train(make, benchmark, experiences=list(benchmark.train_stream)[:2])
        steps = [tuple(seen) for seen in probe.seen if seen]
        return len(set(steps)), len(steps)

    different, steps = number_of_different_memories("train")
    assert different == steps > 1
    assert number_of_different_memories("eval")[0] == number_of_different_memories("frozen")[0] == 1


def test_an_interrupted_iteration_leaves_nothing_behind():
    benchmark = split_digits(5)
    interrupt = Probe("before_forward", lambda s: 1 / (s.clock.train_exp_counter == 0))
    strategy = train(
        lambda **kw: fine(plugins=[interrupt], **kw), benchmark, experiences=[benchmark.train_stream[0]]
    )
    with pytest.raises(ZeroDivisionError):
        strategy.train(benchmark.train_stream[1])
    assert mgem_of(strategy).projector.rows is not None
    strategy.plugins.remove(interrupt)
    probe = Probe("before_forward", rows_of)
    strategy.plugins.append(probe)
    strategy.train(benchmark.train_stream[0])  # it has no constraint but those of others, and there are none
    assert probe.seen[0] is None


def normed(dropout=0.0):
    torch.manual_seed(0)
    model = MLP()
    model.features = nn.Sequential(nn.Linear(64, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Dropout(dropout))
    return model


@pytest.mark.parametrize("policy", ["update", "batch", "running"])
def test_batchnorm_models_train_under_every_policy(policy):
    benchmark = fast_digits()
    strategy = train(lambda **kw: fine(reference_batchnorm=policy, **kw), benchmark, normed(), train_epochs=3)
    seen = strategy.model.features[1].num_batches_tracked.item()
    steps = strategy.clock.train_iterations
    assert (seen > steps) == (policy == "update")
    assert accuracy(strategy, benchmark.train_stream) > 0.35


def test_dropout_is_not_drawn_in_reference_passes_unless_asked():
    benchmark = fast_digits()
    G = []
    for dropout in (False, False, True):
        probe = Probe("before_forward", rows_of)
        train(
            lambda dropout=dropout, probe=probe, **kw: fine(reference_dropout=dropout, plugins=[probe], **kw),
            benchmark,
            normed(0.5),
            experiences=list(benchmark.train_stream)[:2],
        )
        G.append(next(g for g in probe.seen if g is not None))
    assert torch.equal(G[0], G[1])
    assert not torch.equal(G[0], G[2])


def test_memory_strength_follows_its_schedule_and_may_be_normalised():
    benchmark = fast_digits()

    def strengths(spec, **kwargs):
        probe = Probe("before_forward", lambda s: round(strength_of(s), 6))
        train(
            lambda **kw: MGEM(patterns_per_exp=20, memory_strength=spec, plugins=[probe], **kwargs, **kw),
            benchmark,
        )
        return sorted(set(probe.seen))

    assert strengths(Linear(0.0, 0.4, 5)) == [0.0, 0.1, 0.2, 0.3, 0.4]
    assert strengths([0.5, 0.4, 0.3, 0.2, 0.1]) == [0.1, 0.2, 0.3, 0.4, 0.5]
    assert strengths(0.4, num_groups=4) == [0.4]
    assert strengths(0.4, num_groups=4, normalize_memory_strength=True) == [0.1]
    assert len(strengths(lambda clock: clock.train_exp_iterations / 100)) > 5


def test_normalised_pull_of_equal_groups_is_that_of_one():
    # d groups with the same samples and gamma / d each pull as one group with gamma.
    from avalanche_mgem.functional import project

    g, row = torch.tensor([1.0, 0.0]), torch.tensor([[-1.0, 1.0]])
    one = project(g, row, memory_strength=2.0)
    four = project(g, row.repeat(4, 1), memory_strength=2.0 / 4)
    torch.testing.assert_close(one, four)


def test_a_loss_that_is_not_finite_stops_with_experience_and_gamma():
    benchmark = split_digits(5)
    with pytest.raises(
        FloatingPointError, match=r"not finite while training experience 0 .*memory_strength 0.1"
    ):
        train(fine, benchmark, lr=1e38)


def test_a_gradient_that_is_not_finite_is_an_error_though_the_loss_is():
    benchmark = split_digits(5)

    def poison(strategy):
        if strategy.clock.train_exp_counter == at:
            strategy.model.classifier.bias.grad[0] = float("nan")

    for at in (0, 2):
        probe = Probe("after_backward", poison)
        with pytest.raises(FloatingPointError, match=f"current minibatch .* training experience {at}"):
            train(lambda probe=probe, **kw: fine(plugins=[probe], **kw), benchmark)


def test_a_gradient_that_is_not_finite_in_a_new_head_alone_is_found_in_its_step():
    benchmark = split_digits(5, task_labels=True)

    def poison(strategy):
        if strategy.clock.train_exp_counter == 2:
            strategy.model.classifier.classifiers["2"].classifier.bias.grad[0] = float("nan")

    probe = Probe("after_backward", poison)
    with pytest.raises(FloatingPointError, match=r"current minibatch .* experience 2 \(iteration 0,"):
        train(lambda **kw: fine(plugins=[probe], **kw), benchmark, mlp(multi_head=True))


def test_a_reference_that_is_not_finite_is_named_with_its_group():
    benchmark = split_digits(5)
    strategy = train(fine, benchmark, experiences=list(benchmark.train_stream)[:2])
    second = benchmark.train_stream[1].dataset
    unknown = TensorDataset(torch.full((20, 64), torch.nan), torch.arange(20) % 10, torch.zeros(20).long())
    mgem_of(strategy).memory.remember(unknown, experience=1, key=fingerprint(second.eval()))
    with pytest.raises(FloatingPointError, match="reference gradient of experience 1, group 0 is not finite"):
        strategy.train(benchmark.train_stream[2])


def test_one_plugin_serves_one_strategy():
    benchmark = split_digits(5)
    plugin = PMGEMPlugin(20, 0.5)
    train(lambda **kw: Naive(plugins=[plugin], **kw), benchmark, experiences=[benchmark.train_stream[0]])
    with pytest.raises(ValueError, match="PMGEMPlugin already holds the memory of another strategy"):
        train(lambda **kw: Naive(plugins=[plugin], **kw), benchmark)


@pytest.mark.parametrize("options", [{}, {"patterns_per_step": 8}, {"experiences_per_step": 1}])
@pytest.mark.parametrize("n_before", [1, 2])
def test_a_pickled_plugin_continues_as_the_original(options, n_before):
    benchmark = fast_digits()
    stream = list(benchmark.train_stream)

    def run(interrupt):
        plugin = MGEMPlugin(20, 0.1, num_modules=2, num_groups=2, **options)
        strategy = train(lambda **kw: Naive(plugins=[plugin], **kw), benchmark, experiences=stream[:n_before])
        torch.manual_seed(7 if interrupt else 8)  # a new process has another seed
        state = torch.Generator().manual_seed(5).get_state()
        if interrupt:
            strategy = Naive(
                plugins=[pickle.loads(pickle.dumps(plugin))],
                **strategy_arguments(copy.deepcopy(strategy.model)),
            )
        torch.set_rng_state(state)
        for experience in stream[n_before:]:
            strategy.train(experience)
        return parameters_of(strategy.model)

    assert torch.equal(run(True), run(False))


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda plugin: pickle.loads(pickle.dumps(plugin))])
def test_a_copied_memory_keeps_what_another_benchmark_adds(duplicate):
    # Its experiences have the same numbers and the same name of the stream.
    first, second = (list(split_digits(5, n=n).train_stream)[:2] for n in (400, 500))
    plugin = DMGEMPlugin(20)
    train(lambda **kw: Naive(plugins=[plugin], **kw), None, experiences=first)
    plugin = duplicate(plugin)
    train(lambda **kw: Naive(plugins=[plugin], **kw), None, experiences=second)
    assert len(plugin.memory) == 4
    plugin = duplicate(plugin)
    train(lambda **kw: Naive(plugins=[plugin], **kw), None, experiences=first)
    assert len(plugin.memory) == 4


def test_it_keeps_its_last_step_only_where_that_is_asked_for():
    benchmark, steps = fast_digits(), []
    probe = Probe("after_training_iteration", lambda strategy: mgem_of(strategy).last_step)

    def run(keeps):
        plugin = MGEMPlugin(20, 0.1, num_groups=2)
        plugin.projector.keeps_last_step = keeps
        plugin.projector.last_step = "left by an interrupted training"
        probe.seen = []
        train(lambda **kw: Naive(plugins=[plugin, probe], **kw), benchmark)
        return plugin, probe.seen

    assert set(run(False)[1]) == {None}
    plugin, steps = run(True)
    number = -(-len(benchmark.train_stream[0].dataset) // 10)
    assert set(steps[:number]) == {None}  # the first experience has no constraints
    assert all(step is not None for step in steps[number:])
    assert steps[-1].origins == tuple((k, group) for k in range(4) for group in range(2))
    assert steps[-1].sizes == (10,) * 8
    assert steps[-1].report.v.shape == (1, 8)
    assert plugin.last_step is None


def test_a_checkpoint_has_no_last_step():
    plugin = MGEMPlugin(20, 0.1)
    plugin.projector.keeps_last_step = True
    pickles = []
    probe = Probe(
        "after_training_iteration", lambda _: pickles.append((plugin.last_step, pickle.dumps(plugin)))
    )
    train(lambda **kw: Naive(plugins=[plugin, probe], **kw), fast_digits())
    step, state = pickles[-1]
    assert step is not None
    restored = pickle.loads(state)
    assert restored.last_step is None


def test_two_runs_at_one_seed_are_equal_and_at_two_are_not():
    benchmark = fast_digits()
    finals = [parameters_of(train(fine, benchmark, seed=seed).model) for seed in (1, 1, 2)]
    assert torch.equal(finals[0], finals[1])
    assert not torch.equal(finals[0], finals[2])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"mem_size": 60}, "patterns_per_experience=20, mem_size=60: give one of the two"),
        ({"patterns_per_exp": 0}, "patterns_per_experience must be an integer of at least 1"),
        ({"num_groups": 30}, "num_groups=30 is larger than the memory of 20"),
        ({"num_modules": "blocks"}, "num_modules='blocks' is not a partition"),
        ({"memory_strength": -1}, "memory_strength=-1 is not allowed"),
        ({"solver": "magic"}, "unknown solver 'magic'"),
        ({"ridge": 0.1}, r"ridge must be one of \('relative', 'absolute'\); got 0.1"),
        ({"grouping": "class"}, "grouping must be one of"),
        ({"memory_transform": "test"}, "memory_transform must be one of"),
        (
            {"normalize_memory_strength": "false"},
            "normalize_memory_strength must be True or False",
        ),
        ({"reference_dropout": 1}, "reference_dropout must be True or False; got 1"),
        ({"seed": 0.5}, "seed must be an integer of at least 0; got 0.5"),
        (
            {"reference_batchnorm": "eval"},
            "reference_batchnorm must be one of",
        ),
    ],
)
def test_wrong_values_are_refused_at_construction(arguments, message):
    with pytest.raises(ValueError, match=message):
        MGEM(**{"patterns_per_exp": 20, **arguments}, **strategy_arguments(mlp()))


@pytest.mark.parametrize("cls", [MGEM, PMGEM, DMGEM])
def test_a_misspelt_keyword_is_refused(cls):
    with pytest.raises(TypeError, match="unexpected keyword argument: num_module"):
        cls(patterns_per_exp=20, num_module=2, **strategy_arguments(mlp()))


@pytest.mark.parametrize("cls", [MGEM, PMGEM, DMGEM])
def test_a_missing_argument_is_named_with_the_class_that_was_called(cls):
    with pytest.raises(TypeError, match=rf"^{cls.__name__}\(\) missing a required .*'patterns_per_exp'"):
        cls(**strategy_arguments(mlp()))


@pytest.mark.parametrize("cls", [MGEMPlugin, PMGEMPlugin, DMGEMPlugin])
def test_a_plugin_names_its_class_too(cls):
    with pytest.raises(
        TypeError, match=rf"^{cls.__name__}\(\) missing a required .*'patterns_per_experience'"
    ):
        cls()
    with pytest.raises(
        TypeError, match=rf"^{cls.__name__}\(\) got an unexpected keyword argument 'num_module'"
    ):
        cls(20, num_module=2)


@pytest.mark.parametrize("cls", [MGEM, PMGEM, DMGEM])
def test_positional_arguments_are_taken_with_the_warning_of_avalanche(cls):
    model, criterion = mlp(), nn.CrossEntropyLoss()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with pytest.warns(PositionalArgumentsDeprecatedWarning):
        strategy = cls(model, optimizer, criterion, patterns_per_exp=256)
    assert strategy.model is model
    assert strategy._criterion is criterion
    assert strategy.optimizer is optimizer
    assert len(mgem_of(strategy).memory) == 0


def test_public_objects_show_their_arguments():
    plugin = DMGEMPlugin(256, 0.1, num_modules="layer", grouping="label")
    shown = "patterns_per_experience=256, memory_strength=0.1, num_modules='layer', num_groups=2"
    assert repr(plugin) == f"DMGEMPlugin({shown}, grouping='label')"
    strategy = PMGEM(patterns_per_exp=20, **strategy_arguments(mlp()))
    assert repr(strategy).startswith("PMGEM(model=MLP, optimizer=SGD, patterns_per_exp=20, ")
    assert repr(Projector(mlp(), nn.CrossEntropyLoss(), 5)) == (
        "Projector(model=MLP, patterns_per_task=5, memory_strength=0.5)"
    )


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_it_trains_on_a_gpu():
    benchmark = split_digits(5)
    strategy = train(fine, benchmark, device="cuda", train_epochs=3)
    strategy.model.to("cpu")
    assert accuracy(strategy, benchmark.train_stream) > 0.6


def test_batchnorm_and_a_group_of_one_sample_get_an_error_that_helps():
    model = torch.nn.Sequential(torch.nn.Linear(64, 8), torch.nn.BatchNorm1d(8), torch.nn.Linear(8, 10))
    arguments = strategy_arguments(model)
    strategy = MGEM(patterns_per_exp=3, num_groups=2, **arguments)
    before = parameters_of(model)
    with pytest.raises(ValueError, match=r"one sample that a group of the memory has in a step.*'running'"):
        strategy.train(split_digits(5).train_stream[0])
    assert torch.equal(parameters_of(model), before)
    # In a loop of one's own without check(), at the first constraint.
    mgem = Projector(model, nn.CrossEntropyLoss(), 3, num_groups=2)
    mgem.remember(TensorDataset(*digits(10)))
    with pytest.raises(ValueError, match=r"one sample that group 1 of experience 0 .*'running'"):
        mgem.compute_references()


@pytest.mark.parametrize(
    ("options", "is_allowed"),
    [
        ({"patterns_per_step": 8}, True),
        ({"patterns_per_step": 7}, False),  # one sample for each of four past experiences in the last
        ({"patterns_per_step": 7, "experiences_per_step": 3}, True),
        ({"patterns_per_step": 8, "num_groups": 2}, False),
        ({"patterns_per_step": 7, "reference_batchnorm": "running"}, True),
    ],
)
def test_batchnorm_and_small_steps_late_in_a_stream_are_found_at_its_beginning(options, is_allowed):
    model = torch.nn.Sequential(torch.nn.Linear(64, 8), torch.nn.BatchNorm1d(8), torch.nn.Linear(8, 10))
    strategy = MGEM(patterns_per_exp=20, **options, **strategy_arguments(model))
    if is_allowed:
        train(lambda **_: strategy, split_digits(5))
    else:
        with pytest.raises(ValueError, match="one sample that a group of the memory"):
            strategy.train(split_digits(5).train_stream[0])


def test_too_few_classes_for_the_groups_are_found_before_an_experience_is_trained():
    x, y = digits(60)
    datasets = [tensor_dataset(x, y % classes) for classes in (3, 2, 3)]
    stream = ab.benchmark_from_datasets(train=datasets).train_stream
    strategy = MGEM(patterns_per_exp=20, num_groups=3, grouping="label", **strategy_arguments(mlp()))
    strategy.train(stream[0])
    with pytest.raises(ValueError, match="num_groups=3 groups, but the memory of experience 1 has only 2"):
        strategy.train(stream[1])
    assert strategy.clock.train_iterations == 6  # those of the first
    # The last constrains nothing.
    two = ab.benchmark_from_datasets(train=[datasets[0], datasets[1]]).train_stream
    train(lambda **_: strategy, None, experiences=[two[1]])


def test_a_criterion_that_gives_a_loss_for_each_sample_is_named_at_once():
    model = mlp()
    arguments = strategy_arguments(model, plugins=[MGEMPlugin(8)])
    strategy = Naive(**{**arguments, "criterion": torch.nn.CrossEntropyLoss(reduction="none")})
    with pytest.raises(ValueError, match="the criterion has reduction='none'; it must give one number"):
        strategy.train(split_digits(5).train_stream[0])


def test_a_complex_parameter_is_named():
    model = mlp()
    model.phase = torch.nn.Parameter(torch.zeros(2, dtype=torch.complex64))
    strategy = Naive(**strategy_arguments(model, plugins=[MGEMPlugin(8)]))
    with pytest.raises(ValueError, match="the parameter 'phase' is complex"):
        strategy.train(split_digits(5).train_stream[0])
