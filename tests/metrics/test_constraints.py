"""The metrics of the constraints in real training, against what a probe sees of the gradients."""

import math
import time

import avalanche.logging as al
import pytest
import torch
from avalanche.benchmarks import split_online_stream
from avalanche.training import GEM, Naive
from avalanche.training.plugins import EvaluationPlugin, SupervisedPlugin
from helpers import fast_digits, mlp, parameters_of, split_digits
from metric_training import Recorder, fine, gradient, minibatches, permuted_digits, train

from avalanche_mgem import MGEM, MGEMPlugin
from avalanche_mgem.metrics import CONSTRAINT_METRICS, constraint_metrics, constraint_row

STEP_METRICS = CONSTRAINT_METRICS[:7]


class Gradients(SupervisedPlugin):
    """What the metrics are about, the long way, for each step with constraints; before MGEM's plugin."""

    def __init__(self):
        super().__init__()
        self.steps: list[list[dict[str, float]]] = []

    def before_training_exp(self, strategy, **kwargs):
        self.mgem = MGEMPlugin.of(strategy)
        self.steps.append([])

    def before_forward(self, strategy, **kwargs):
        rows = self.mgem.projector.rows
        self.G = None if rows is None else rows.dense()

    def after_backward(self, strategy, **kwargs):
        self.g = gradient(strategy)

    def before_update(self, strategy, **kwargs):
        if self.G is None:
            return
        z, g, G = gradient(strategy), self.g, self.G
        blocks = self.mgem.projector.partition.blocks(strategy.model)
        pairs = zip(blocks.split(G), blocks.split(g), strict=True)
        step = {
            "violated_steps": float(any((rows @ part < 0).any() for rows, part in pairs)),
            "relative_change": ((z - g).norm() / g.norm()).item(),
            "cosine_gradient": (z @ g / (z.norm() * g.norm())).item(),
            "cosine_worst": (G @ z / (G.norm(dim=1) * z.norm())).min().item(),
        }
        self.steps[-1].append(step)


def approximate(**kwargs):
    return MGEM(patterns_per_exp=20, solver="diagonal", **kwargs)


@pytest.mark.parametrize("make", [fine, approximate])
@pytest.mark.parametrize("multi_head", [False, True])
def test_a_row_is_the_mean_over_all_steps_of_an_experience(make, multi_head):
    # New heads are of float32.
    benchmark = split_digits(5, n=200, task_labels=True) if multi_head else permuted_digits(torch.float64)
    model = mlp(multi_head=True) if multi_head else mlp().double()
    tolerance = 1e-3 if multi_head else 1e-6
    probe, metrics = Gradients(), constraint_metrics(experience=True)
    _, results = train(make, benchmark, metrics, model=model, plugins=[probe], train_epochs=2)
    assert constraint_row(results[0], 0) == {}
    for number, experience in list(enumerate(benchmark.train_stream))[1:]:
        row, steps = constraint_row(results[number], number), probe.steps[number]
        assert tuple(row) == STEP_METRICS
        assert len(steps) == 2 * minibatches(experience)
        for key in steps[0]:
            expected = sum(step[key] for step in steps) / len(steps)
            assert row[key] == pytest.approx(expected, rel=tolerance, abs=tolerance), key
    assert {step["violated_steps"] for steps in probe.steps for step in steps} == {0.0, 1.0}


def test_active_constraints_are_between_none_and_all():
    _, results = train(fine, fast_digits(), constraint_metrics(experience=True))
    for number in range(1, 5):
        assert 0 < constraint_row(results[number], number)["active_constraints"] < 2 * 2 * number


def test_seconds_are_those_of_a_step():
    benchmark = fast_digits()
    start = time.perf_counter()
    _, results = train(fine, benchmark, constraint_metrics(experience=True))
    seconds = time.perf_counter() - start
    measured = 0.0
    for number in range(1, 5):
        row = constraint_row(results[number], number)
        assert min(row["seconds_references"], row["seconds_solver"]) > 1e-6
        steps = minibatches(benchmark.train_stream[number])
        measured += steps * (row["seconds_references"] + row["seconds_solver"])
    assert measured < seconds


def test_levels_and_names_are_avalanches():
    recorder, benchmark = Recorder(), permuted_digits()
    metrics = constraint_metrics(minibatch=True, epoch=True, experience=True)
    assert [str(metric) for metric in metrics] == ["Constraints_MB", "Constraints_Epoch", "Constraints_Exp"]
    train(fine, benchmark, metrics, logger=recorder, train_epochs=2)
    names = {name for name, _ in recorder.seen}
    assert "ViolatedSteps_MB/train_phase/train_stream/Task000" in names
    assert "SecondsSolver_Epoch/train_phase/train_stream/Task000" in names
    assert "CosineWorst_Exp/train_phase/train_stream/Task000/Exp001" in names
    assert len(names) == 7 + 7 + 7 * 2
    steps = [minibatches(experience) for experience in benchmark.train_stream][1:]
    each = recorder.values("ViolatedSteps_MB")
    epochs, experiences = recorder.values("ViolatedSteps_Epoch"), recorder.values("ViolatedSteps_Exp")
    assert (len(each), len(epochs), len(experiences)) == (2 * sum(steps), 2 * 2, 2)
    assert set(each) == {0.0, 1.0}
    for i, n in enumerate(steps):
        first, second, each = each[:n], each[n : 2 * n], each[2 * n :]
        assert epochs[2 * i : 2 * i + 2] == pytest.approx([sum(first) / n, sum(second) / n])
        assert experiences[i] == pytest.approx((epochs[2 * i] + epochs[2 * i + 1]) / 2)
    assert all(type(value) is float and math.isfinite(value) for _, value in recorder.seen)


@pytest.mark.parametrize(
    "make", [lambda **kw: Naive(**kw), lambda **kw: GEM(patterns_per_exp=20, **kw)], ids=["naive", "gem"]
)
def test_other_strategies_emit_nothing(make):
    recorder = Recorder()
    metrics = constraint_metrics(minibatch=True, epoch=True, experience=True)
    _, results = train(make, fast_digits(), metrics, logger=recorder)
    assert recorder.seen == []
    assert constraint_row(results[-1], 4) == {}


@pytest.mark.parametrize("solver", ["exact", "diagonal"])
def test_training_is_the_same_with_and_without(solver):
    def final(*metrics):
        strategy, _ = train(lambda **kw: fine(solver=solver, **kw), fast_digits(), *metrics)
        return parameters_of(strategy.model)

    assert torch.equal(final(), final(constraint_metrics(minibatch=True, epoch=True, experience=True)))


def test_taking_in_a_step_waits_for_no_gpu(monkeypatch):
    (metric,) = constraint_metrics(experience=True)
    step = None

    class Keep(SupervisedPlugin):
        def after_training_iteration(self, strategy, **kwargs):
            nonlocal step
            step = MGEMPlugin.of(strategy).last_step

    train(fine, fast_digits(), metric, plugins=[Keep()])
    metric.reset()
    for name in ("item", "tolist", "cpu", "numpy", "__bool__", "__float__", "__int__"):
        monkeypatch.setattr(torch.Tensor, name, lambda *_, name=name: pytest.fail(f"{name} waits"))
    metric._metric.update(step)
    monkeypatch.undo()
    assert tuple(metric.result()) == STEP_METRICS


def test_pieces_of_an_online_stream_and_a_plugin_behind_the_evaluator():
    def make(**kwargs):
        strategy = Naive(**kwargs)
        strategy.plugins.append(MGEMPlugin(20, 0.1))
        return strategy

    benchmark = fast_digits()
    stream = split_online_stream(benchmark.train_stream, 50, access_task_boundaries=True)
    _, results = train(make, benchmark, constraint_metrics(experience=True), stream=stream)
    rows = [constraint_row(result, number) for number, result in enumerate(results)]
    assert rows[:2] == [{}, {}]  # both of the first experience
    assert all(tuple(row) == STEP_METRICS for row in rows[2:])


def test_they_reach_the_loggers_of_avalanche(tmp_path, capsys):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    benchmark = fast_digits()
    csv, tensorboard = al.CSVLogger(str(tmp_path / "csv")), al.TensorboardLogger(tmp_path / "tb")
    with open(tmp_path / "log.txt", "w") as file:
        loggers = [al.TextLogger(file), al.InteractiveLogger(), csv, tensorboard]
        evaluator = EvaluationPlugin(constraint_metrics(epoch=True, experience=True), loggers=loggers)
        strategy, _ = train(fine, benchmark, stream=benchmark.train_stream[:2], evaluator=evaluator)
        strategy.eval(benchmark.test_stream[:1])
    csv.close()
    tensorboard.writer.close()
    for text in ((tmp_path / "log.txt").read_text(), capsys.readouterr().out):
        assert "ViolatedSteps_Epoch/train_phase/train_stream/Task000 = " in text
        assert "CosineWorst_Exp/train_phase/train_stream/Task000/Exp001 = " in text
    # It has accuracy and loss only, and is not disturbed.
    assert len((tmp_path / "csv" / "training_results.csv").read_text().splitlines()) == 3
    events = EventAccumulator(str(tmp_path / "tb"))
    events.Reload()
    assert "RelativeChange_Exp/train_phase/train_stream/Task000/Exp001" in events.Tags()["scalars"]
