"""Experience replay together with d-mGEM's constraints, on permuted digits.

Run it with ``python examples/replay_with_constraints.py``. It needs no download. Avalanche's replay warns of
a name that Avalanche will change; that is no fault of the script.

Replay adds old samples to each minibatch, so it lowers the *mean* loss on the past. The constraints keep a
step from raising the loss of *one* past experience for the sake of the others. Both are plugins of one
strategy: the projection comes after the backward pass over new and replayed samples.

Each keeps samples of its own. So in "both" each has half of the memory that it has alone. The table has the
mean accuracy at the end (ACC). Three seeds on digits show how to compare, and not what is better.
"""

import warnings
from collections.abc import Iterable

import torch
from avalanche.evaluation.metrics import accuracy_metrics
from avalanche.models import SimpleMLP
from avalanche.training import Naive
from avalanche.training.plugins import EvaluationPlugin, ReplayPlugin

from avalanche_mgem import DMGEMPlugin
from avalanche_mgem.benchmarks import PermutedDigits
from avalanche_mgem.data import subsample


def constraints(patterns: int) -> DMGEMPlugin:
    """d-mGEM with that many samples of each experience."""
    return DMGEMPlugin(patterns, memory_strength=0.1, normalize_memory_strength=True)


def plugins(name: str, n_experiences: int) -> list:
    """Plugins with 100 samples an experience: replay counts all, the constraints those of one experience."""
    if name == "replay":
        return [ReplayPlugin(mem_size=100 * n_experiences)]
    if name == "dmgem":
        return [constraints(100)]
    return [ReplayPlugin(mem_size=50 * n_experiences), constraints(50)]  # "both"


def acc(name: str, seed: int, n_experiences: int = 4, samples: int = 200) -> float:
    """Trains on one experience after another; returns the mean accuracy over all of them at the end."""
    benchmark = subsample(PermutedDigits(n_experiences, seed=seed), samples, seed=seed)
    torch.manual_seed(seed)  # after the benchmark, so that all begin with the same weights
    model = SimpleMLP(num_classes=10, input_size=64, hidden_size=100, drop_rate=0)  # not Avalanche's 0.5
    strategy = Naive(
        model=model,
        optimizer=torch.optim.SGD(model.parameters(), lr=0.1),
        criterion=torch.nn.CrossEntropyLoss(),
        train_mb_size=10,
        eval_mb_size=500,
        plugins=plugins(name, n_experiences),
        evaluator=EvaluationPlugin(accuracy_metrics(stream=True)),
    )
    for experience in benchmark.train_stream:
        strategy.train(experience)
    (accuracy,) = strategy.eval(benchmark.test_stream).values()  # each experience has as many test samples
    return accuracy


def main(seeds: Iterable[int] = range(3)) -> None:
    """Prints a row for each seed."""
    warnings.filterwarnings("ignore", message="No loggers specified")  # this script prints its own table
    print("seed  replay  dmgem   both")
    for seed in seeds:
        print(f"{seed:4}   " + "  ".join(f"{acc(name, seed):.3f}" for name in ("replay", "dmgem", "both")))


if __name__ == "__main__":
    main()
