import pytest
from avalanche.evaluation.metrics import accuracy_metrics, loss_metrics
from avalanche.logging import BaseLogger
from loggers.training import train

from avalanche_mgem.metrics import minibatch_metrics

NAMES = [f"{name}_MB/train_phase/train_stream/Task000" for name in ("Loss", "Top1_Acc")]


def test_they_are_avalanches_at_every_so_many_minibatches():
    curves = train(BaseLogger(), *minibatch_metrics(every=3))
    stock = train(BaseLogger(), loss_metrics(minibatch=True), accuracy_metrics(minibatch=True))
    assert list(curves) == list(stock) == NAMES
    for name in NAMES:
        steps, values = curves[name]
        assert steps == [0, 3, 6, 9, 12, 15]  # over all experiences and epochs
        assert values == stock[name][1][::3]


def test_the_others_are_not_measured(monkeypatch):
    measured = []
    metrics = minibatch_metrics(every=5)
    for metric in metrics:
        update = metric.update
        monkeypatch.setattr(metric, "update", lambda s, u=update: measured.append(u(s)))
    train(BaseLogger(), *metrics)
    assert len(measured) == 2 * 4  # of 16 minibatches


def test_every_is_at_least_one():
    with pytest.raises(ValueError, match="every is 0; it must be at least 1"):
        minibatch_metrics(every=0)
