"""Training with metrics, for their tests."""

import math

import torch
from avalanche.benchmarks import GenericCLScenario
from avalanche.benchmarks.utils import _make_taskaware_tensor_classification_dataset as tensor_dataset
from avalanche.logging import BaseLogger
from avalanche.training.plugins import EvaluationPlugin
from helpers import digits, mlp, strategy_arguments
from torch import Tensor

from avalanche_mgem import MGEM


def permuted_digits(dtype: torch.dtype = torch.float32, n_experiences: int = 3, n: int = 100):
    """A benchmark of the same n digits under other permutations, tested on as many other digits."""
    x, y = digits(2 * n, dtype)
    train, test = [], []
    for k in range(n_experiences):
        seen = x[:, torch.randperm(64, generator=torch.Generator().manual_seed(k))]
        train.append(tensor_dataset(seen[:n], y[:n]))
        test.append(tensor_dataset(seen[n:], y[n:]))
    tasks = [[0]] * n_experiences
    return GenericCLScenario(stream_definitions={"train": (train, tasks), "test": (test, tasks)})


def minibatches(experience) -> int:
    """How many of ten an experience has."""
    return math.ceil(len(experience.dataset) / 10)


class Recorder(BaseLogger):
    """Keeps every value that it is told."""

    def __init__(self):
        super().__init__()
        self.seen: list[tuple[str, float]] = []

    def log_single_metric(self, name, value, x_plot):
        self.seen.append((name, value))

    def values(self, prefix: str) -> list[float]:
        return [value for name, value in self.seen if name.startswith(prefix + "/")]


def train(make, benchmark, *metrics, logger=None, stream=None, model=None, **kwargs):
    """The trained strategy, and what ``train`` returned for each experience."""
    evaluator = EvaluationPlugin(*metrics, loggers=[BaseLogger() if logger is None else logger])
    model = mlp() if model is None else model
    strategy = make(**strategy_arguments(model, **{"evaluator": evaluator, **kwargs}))
    torch.manual_seed(0)
    stream = benchmark.train_stream if stream is None else stream
    return strategy, [strategy.train(experience, eval_streams=[]) for experience in stream]


def fine(**kwargs):
    """pd-mGEM: both refinements at work."""
    return MGEM(patterns_per_exp=20, num_modules=2, num_groups=2, memory_strength=0.1, **kwargs)


def gradient(strategy) -> Tensor:
    """What is in ``.grad``, in one vector."""
    parameters = strategy.model.parameters()
    return torch.cat([(torch.zeros_like(p) if p.grad is None else p.grad).flatten() for p in parameters])
