"""The generalisation gap of the constraints, against gradients taken the long way."""

import copy
import pickle

import avalanche.benchmarks as ab
import pytest
import torch
from avalanche.benchmarks import GenericCLScenario, split_online_stream
from avalanche.benchmarks.utils import _make_taskaware_tensor_classification_dataset as tensor_dataset
from avalanche.training import GEM, JointTraining, Naive
from avalanche.training.plugins import SupervisedPlugin
from helpers import digits, fast_digits, mlp, parameters_of
from metric_training import Recorder, fine, gradient, permuted_digits, train
from torch import nn

from avalanche_mgem import DMGEM, MGEM, MGEMPlugin
from avalanche_mgem.metrics import constraint_metrics, constraint_row, generalization_gap_metrics

KEYS = ("gap_violated", "gap_depth", "gap_violated_acting", "gap_depth_acting")
EVERY = 3


def naive(**kwargs):
    return Naive(**kwargs)


def approximate(**kwargs):
    """d-mGEM whose updates leave some constraints violated, with groups of unequal size."""
    return DMGEM(patterns_per_exp=3, solver="diagonal", memory_strength=0.0, **kwargs)


class LongWay(SupervisedPlugin):
    """Cosines of the update with the gradient on the whole test set of each past experience."""

    def __init__(self, tests):
        super().__init__()
        self.tests, self.pairs, self.acting, self.step = tests, [], [], 0

    def before_training_exp(self, strategy, **kwargs):
        self.pairs.append([])
        self.acting.append([])
        self.step = 0

    def before_forward(self, strategy, **kwargs):
        self.mgem = MGEMPlugin.of(strategy)
        rows = None if self.mgem is None else self.mgem.projector.rows
        self.G = None if rows is None else rows.dense()
        self.groups = None if self.mgem is None else self.mgem.projector.groups

    def before_update(self, strategy, **kwargs):
        z, parameters = gradient(strategy), list(strategy.model.parameters())
        loss = nn.functional.cross_entropy(strategy.model(strategy.mb_x), strategy.mb_y)
        g = torch.cat([part.flatten() for part in torch.autograd.grad(loss, parameters)])
        acts = not torch.allclose(z, g, rtol=1e-9, atol=1e-12)
        for past in range(len(self.pairs) - 1) if self.step % EVERY == 0 else ():
            data = [self.tests[past].dataset[i] for i in range(len(self.tests[past].dataset))]
            x, y = torch.stack([sample[0] for sample in data]), torch.tensor([sample[1] for sample in data])
            loss = nn.functional.cross_entropy(strategy.model(x), y)
            true = torch.cat([part.flatten() for part in torch.autograd.grad(loss, parameters)])
            if self.mgem is None or self._holds(past, z):
                self.pairs[-1].append(torch.cosine_similarity(z, true, dim=0).item())
                self.acting[-1] += self.pairs[-1][-1:] * acts
        self.step += 1

    def _holds(self, past, z):
        chosen = [k for k, (experience, _) in enumerate(self.groups.origins) if experience == past]
        sizes = torch.tensor([float(self.groups.sizes[k]) for k in chosen], dtype=z.dtype)
        return (sizes / sizes.sum()) @ self.G[chosen] @ z > -1e-9


@pytest.mark.parametrize("make", [naive, fine, approximate])
def test_it_is_what_the_gradients_on_the_test_set_say(make):
    benchmark = permuted_digits(torch.float64)
    probe = LongWay(benchmark.test_stream)
    gap = generalization_gap_metrics(1000, every=EVERY)
    _, results = train(make, benchmark, gap, model=mlp().double(), plugins=[probe], train_epochs=2)
    assert constraint_row(results[0], 0) == {}
    for number in (1, 2):
        row, cosines = constraint_row(results[number], number), probe.pairs[number]
        assert tuple(row) == (KEYS[:2] if make is naive else KEYS)
        acting = [] if make is naive else [("_acting", probe.acting[number])]
        for end, of_steps in (("", cosines), *acting):
            share = sum(c < -1e-4 for c in of_steps) / len(of_steps)
            assert row[f"gap_violated{end}"] == pytest.approx(share)
            depth = sum(max(0.0, -c) for c in of_steps) / len(of_steps)
            assert row[f"gap_depth{end}"] == pytest.approx(depth, rel=1e-3)
        assert row["gap_violated"] < 1
    assert any(cosine < -1e-4 for pairs in probe.pairs for cosine in pairs)
    number_of_pairs = 7 * 1 + 7 * 2
    counted = sum(len(pairs) for pairs in probe.pairs)
    assert counted < number_of_pairs if make is approximate else counted == number_of_pairs


@pytest.mark.parametrize("gamma", [0.0, 0.5])
def test_there_is_none_if_the_memory_is_the_test_set(gamma):
    def row(make):
        x, y = digits(100, torch.float64)
        datasets = [tensor_dataset(x, y), tensor_dataset(x, (y + 1) % 10)]
        benchmark = ab.benchmark_from_datasets(train=datasets, test=datasets)
        gap = generalization_gap_metrics(100, every=1, stream=benchmark.test_stream)
        _, results = train(make, benchmark, gap, model=mlp().double(), train_epochs=2)
        return constraint_row(results[1], 1)

    assert row(lambda **kw: MGEM(patterns_per_exp=100, memory_strength=gamma, **kw)) == dict.fromkeys(KEYS, 0)
    assert row(naive)["gap_violated"] > 0.1


def test_memory_strength_closes_it():
    def row(gamma):
        make = lambda **kw: MGEM(patterns_per_exp=100, memory_strength=gamma, **kw)  # noqa: E731
        gap = generalization_gap_metrics(every=1, seed=0)
        _, results = train(make, permuted_digits(n_experiences=2), gap, train_epochs=5)
        return constraint_row(results[1], 1)

    without, with_strength = row(0.0), row(0.5)
    assert with_strength["gap_violated"] < 0.8 * without["gap_violated"]


class Noisy(nn.Module):
    """A model with all that a pass could leave a trace in."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(64, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.3), nn.Linear(16, 10)
        )

    def forward(self, x):
        return self.layers(x)


@pytest.mark.parametrize("make", [naive, fine, lambda **kw: GEM(patterns_per_exp=20, **kw)])
def test_training_is_the_same_with_and_without(make):
    def final(*metrics):
        torch.manual_seed(1)
        strategy, _ = train(make, permuted_digits(), *metrics, model=Noisy(), train_epochs=2)
        return strategy.model.state_dict(), torch.get_rng_state()

    (with_gap, state), (without, expected) = final(generalization_gap_metrics(every=2)), final()
    assert torch.equal(state, expected)
    assert all(torch.equal(with_gap[name], value) for name, value in without.items())
    assert "layers.1.running_mean" in without


def test_both_kinds_of_metrics_share_a_row():
    metrics = constraint_metrics(experience=True), generalization_gap_metrics()
    _, results = train(fine, permuted_digits(), *metrics)
    assert len(constraint_row(results[2], 2)) == 11


def test_heads_of_other_tasks():
    recorder, benchmark = Recorder(), fast_digits(task_labels=True)
    train(fine, benchmark, generalization_gap_metrics(30), logger=recorder, model=mlp(multi_head=True))
    start = "GapViolated_Exp/train_phase/train_stream/"
    tasks = [name.removeprefix(start) for name, _ in recorder.seen if name.startswith(start)]
    assert tasks == [f"Task00{k}/Exp00{k}" for k in range(1, 5)]


def test_an_online_stream_and_an_experience_trained_again():
    benchmark = fast_digits()
    online = split_online_stream(benchmark.train_stream[:2], 50, access_task_boundaries=True)
    again = [*online, benchmark.train_stream[0]]
    strategy, results = train(naive, benchmark, generalization_gap_metrics(30), stream=again)
    (metric,) = strategy.evaluator.metrics
    assert len(metric._held_out) == 2
    # Drawn once, not for each piece: the same samples as without pieces.
    (whole,) = generalization_gap_metrics(30, seed=0)
    (pieces,) = generalization_gap_metrics(30, seed=0)
    train(naive, benchmark, whole, stream=benchmark.train_stream[:2])
    train(naive, benchmark, pieces, stream=again)
    samples = [m._held_out.groups().x for m in (whole, pieces)]
    assert torch.equal(*samples)
    assert len(metric._held_out.groups(but="0")) == 1
    assert constraint_row(results[-1], 0)["gap_violated"] > 0  # of experience 1 alone


def test_a_stream_in_another_order_is_refused():
    benchmark = fast_digits()
    (metric,) = generalization_gap_metrics(30, stream=list(benchmark.test_stream)[::-1])
    with pytest.raises(ValueError, match=r"stream\[0\] is experience 4; .*in the order of training"):
        train(naive, benchmark, [metric])


def test_joint_training_has_no_past():
    joint = lambda **kw: JointTraining(**kw)  # noqa: E731
    strategy, _ = train(joint, permuted_digits(), generalization_gap_metrics(), stream=[])
    strategy.train(permuted_digits().train_stream, eval_streams=[])
    assert constraint_row(strategy.evaluator.get_last_metrics(), 0) == {}


def test_another_strategy_begins_with_another_past():
    benchmark, gap = permuted_digits(), generalization_gap_metrics()
    first = [constraint_row(r, k) for k, r in enumerate(train(naive, benchmark, gap)[1])]
    second = [constraint_row(r, k) for k, r in enumerate(train(naive, permuted_digits(), gap)[1])]
    assert second == first


def test_a_pickled_metric_continues_as_the_original():
    benchmark = permuted_digits()
    strategy, _ = train(naive, benchmark, generalization_gap_metrics(20), stream=benchmark.train_stream[:2])
    resumed = copy.deepcopy(strategy)
    resumed.evaluator.metrics = pickle.loads(pickle.dumps(strategy.evaluator.metrics))
    rows = []
    for one in (strategy, resumed):
        torch.manual_seed(3)
        rows.append(constraint_row(one.train(benchmark.train_stream[2], eval_streams=[]), 2))
    assert rows[0] == rows[1]
    assert torch.equal(parameters_of(strategy.model), parameters_of(resumed.model))


@pytest.mark.parametrize("every", [0, 2.5, True, "3"])
def test_every_is_a_number_of_steps(every):
    with pytest.raises(ValueError, match=r"^every must be an integer of at least 1; got "):
        generalization_gap_metrics(every=every)


def test_wrong_numbers_of_patterns_are_refused():
    with pytest.raises(ValueError, match="at least 1; got 0"):
        generalization_gap_metrics(0)


def test_it_needs_a_test_experience_for_each():
    dataset = tensor_dataset(*digits(20))
    definitions = {"train": ([dataset] * 2, [[0]] * 2), "test": ([dataset], [[0]])}
    with pytest.raises(ValueError, match=r"for each one of training, and found 1 for 2; pass one as stream"):
        train(naive, GenericCLScenario(stream_definitions=definitions), generalization_gap_metrics())
    unknown = ab.benchmark_from_datasets(train=[dataset] * 2, test=[dataset])
    with pytest.raises(ValueError, match="found none; pass one as stream"):
        train(naive, unknown, generalization_gap_metrics())
    with pytest.raises(
        ValueError, match="stream has 1 experiences; the generalization gap needs that of num"
    ):
        train(naive, unknown, generalization_gap_metrics(stream=unknown.test_stream))


def test_it_follows_one_benchmark():
    strategy, _ = train(naive, permuted_digits(), generalization_gap_metrics())
    with pytest.raises(ValueError, match="train on one benchmark only"):
        strategy.train(permuted_digits().train_stream[0], eval_streams=[])
