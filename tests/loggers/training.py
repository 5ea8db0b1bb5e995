"""A tiny real training, for every logger."""

import torch
from avalanche.training import Naive
from avalanche.training.plugins import EvaluationPlugin
from helpers import MLP, strategy_arguments

from avalanche_mgem.benchmarks import PermutedDigits
from avalanche_mgem.data import subsample


def train(loggers, *metrics):
    """Two experiences of four minibatches, two epochs each, with tests before and after each.

    Returns all curves, as Avalanche collects them: by name, the steps and the values.
    """
    torch.manual_seed(0)
    benchmark = subsample(PermutedDigits(2, seed=0), 40, 20, seed=0)
    evaluator = EvaluationPlugin(
        *metrics, loggers=loggers if isinstance(loggers, list) else [loggers], collect_all=True
    )
    model = torch.nn.Sequential(torch.nn.Flatten(), MLP())
    strategy = Naive(**strategy_arguments(model, evaluator=evaluator, train_epochs=2))
    strategy.eval(benchmark.test_stream)
    for experience in benchmark.train_stream:
        strategy.train(experience)
        strategy.eval(benchmark.test_stream)
    return evaluator.get_all_metrics()
