"""d-mGEM with a model and data of your own, in Avalanche.

Run it with ``python examples/own_model_and_data.py``. It needs no download. The data are tensors: a point in
the plane belongs to the inner or the outer one of two rings, and each experience has its rings around another
place. Put your tensors, or any data set of torch with ``targets``, in their place.
"""

import math
import warnings

import torch
from avalanche.benchmarks import benchmark_from_datasets
from avalanche.benchmarks.utils import as_classification_dataset
from avalanche.evaluation.metrics import accuracy_metrics
from avalanche.training.plugins import EvaluationPlugin
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from avalanche_mgem import DMGEM


class Rings(TensorDataset):
    """Points ``[n, 2]`` of two rings around a centre. Avalanche reads the classes in ``targets``."""

    def __init__(self, centre: tuple[float, float], n: int, seed: int):
        generator = torch.Generator().manual_seed(seed)
        y = torch.randint(0, 2, (n,), generator=generator)
        angle = 2 * math.pi * torch.rand(n, generator=generator)
        radius = 0.5 + y + 0.1 * torch.randn(n, generator=generator)
        x = torch.stack([radius * angle.cos(), radius * angle.sin()], dim=1) + torch.tensor(centre)
        super().__init__(x, y)
        self.targets = y.tolist()


class Network(nn.Module):
    """Any model will do. This one has a shortcut and a normalisation."""

    def __init__(self, width: int = 64):
        super().__init__()
        self.first, self.second = nn.Linear(2, width), nn.Linear(width, width)
        self.norm = nn.LayerNorm(width)
        self.classifier = nn.Linear(width, 2)

    def forward(self, x: Tensor) -> Tensor:
        """Scores of the two classes ``[n, 2]``."""
        x = torch.relu(self.first(x))
        return self.classifier(self.norm(x + torch.relu(self.second(x))))


def train(n: int = 1000, seed: int = 0) -> list[list[float]]:
    """Trains on n points of each experience; returns the accuracies on all of them after each one."""
    centres = [(0.0, 0.0), (4.0, 0.0), (0.0, 4.0)]
    benchmark = benchmark_from_datasets(
        train=[as_classification_dataset(Rings(one, n, seed=i)) for i, one in enumerate(centres)],
        test=[as_classification_dataset(Rings(one, 500, seed=100 + i)) for i, one in enumerate(centres)],
    )
    torch.manual_seed(seed)
    model = Network()
    strategy = DMGEM(
        model=model,
        optimizer=torch.optim.Adam(model.parameters(), lr=0.003),  # any will do: it gets projected gradients
        criterion=nn.CrossEntropyLoss(),
        patterns_per_exp=100,
        memory_strength=0.1,
        num_groups=2,
        grouping="stratified",  # both classes in every group
        normalize_memory_strength=True,
        train_mb_size=20,
        train_epochs=4,
        eval_mb_size=500,
        evaluator=EvaluationPlugin(accuracy_metrics(experience=True)),
    )
    accuracies = []
    for experience in benchmark.train_stream:
        strategy.train(experience)
        accuracies.append(list(strategy.eval(benchmark.test_stream).values()))
    return accuracies


def main() -> None:
    """Prints a row of accuracies for each trained experience."""
    warnings.filterwarnings("ignore", message="No loggers specified")  # this script prints its own table
    for number, row in enumerate(train()):
        print(f"after experience {number}: " + " ".join(f"{value:.3f}" for value in row))


if __name__ == "__main__":
    main()
