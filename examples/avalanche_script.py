"""Avalanche's GEM against d-mGEM in a plain Avalanche script, on permuted digits.

Run it with ``python examples/avalanche_script.py``. It needs no download: scikit-learn brings the images. For
each seed it prints the accuracy at the end (ACC) of both strategies. Three seeds on digits show how to
compare, and not which strategy is better.
"""

import warnings
from collections.abc import Iterable

import torch
from avalanche.evaluation.metrics import accuracy_metrics
from avalanche.models import SimpleMLP
from avalanche.training import GEM
from avalanche.training.plugins import EvaluationPlugin

from avalanche_mgem import DMGEM
from avalanche_mgem.benchmarks import PermutedDigits
from avalanche_mgem.data import subsample

# Two groups give every past experience two constraints. Divided by their number, gamma pulls as before.
STRATEGIES = {
    "gem": (GEM, {}),
    "dmgem": (DMGEM, {"num_groups": 2, "normalize_memory_strength": True}),
}


def acc(name: str, seed: int, n_experiences: int = 4, samples: int = 200) -> float:
    """Trains on one experience after another; returns the mean accuracy over all of them at the end."""
    benchmark = subsample(PermutedDigits(n_experiences, seed=seed), samples, seed=seed)
    torch.manual_seed(seed)  # after the benchmark, so that both strategies begin with the same weights
    model = SimpleMLP(num_classes=10, input_size=64, hidden_size=100, drop_rate=0)  # not Avalanche's 0.5
    strategy_class, options = STRATEGIES[name]
    strategy = strategy_class(
        model=model,
        optimizer=torch.optim.SGD(model.parameters(), lr=0.1),
        criterion=torch.nn.CrossEntropyLoss(),
        patterns_per_exp=100,
        memory_strength=0.1,
        train_mb_size=10,
        eval_mb_size=500,
        evaluator=EvaluationPlugin(accuracy_metrics(stream=True)),
        **options,
    )
    for experience in benchmark.train_stream:
        strategy.train(experience)
    (accuracy,) = strategy.eval(benchmark.test_stream).values()  # each experience has as many test samples
    return accuracy


def main(seeds: Iterable[int] = range(3)) -> None:
    """Prints a row for each seed."""
    warnings.filterwarnings("ignore", message="No loggers specified")  # this script prints its own table
    print("seed  " + "  ".join(f"{name:>5}" for name in STRATEGIES))
    for seed in seeds:
        print(f"{seed:4}  " + "  ".join(f"{acc(name, seed):.3f}" for name in STRATEGIES))


if __name__ == "__main__":
    main()
