"""d-mGEM in a plain PyTorch loop, without Avalanche: permuted digits, one task after another.

Run it with ``python examples/plain_pytorch.py``. It needs no download: scikit-learn brings the images. It
prints the accuracy on every task after each one, and takes a few seconds.
"""

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from avalanche_mgem import Projector


def permuted_digits(n_tasks: int, seed: int) -> list[tuple[TensorDataset, TensorDataset]]:
    """Training and test samples of each task: the same images, with the pixels in another order."""
    images, targets = load_digits(return_X_y=True)
    x, y = torch.tensor(images, dtype=torch.float32) / 16, torch.tensor(targets)
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(x), generator=generator)
    x, y = x[order], y[order]
    tasks = []
    for _ in range(n_tasks):
        pixels = torch.randperm(64, generator=generator)
        tasks.append((TensorDataset(x[:1000, pixels], y[:1000]), TensorDataset(x[1000:, pixels], y[1000:])))
    return tasks


def train(
    model: nn.Module, tasks: list[tuple[TensorDataset, TensorDataset]], *, lr: float = 0.1, seed: int = 0
) -> list[list[float]]:
    """Trains on one task after another; returns the accuracies on all tasks after each one."""
    criterion = nn.CrossEntropyLoss()
    optimizer = torch.optim.SGD(model.parameters(), lr=lr)
    mgem = Projector(model, criterion, patterns_per_task=100, memory_strength=0.1, num_groups=2, seed=seed)
    shuffle = torch.Generator().manual_seed(seed)
    accuracies = []
    for task, _ in tasks:
        for x, y in DataLoader(task, batch_size=10, shuffle=True, generator=shuffle):
            optimizer.zero_grad()
            criterion(model(x), y).backward()
            mgem.project()  # reference gradients at these weights, then the update into .grad
            optimizer.step()
        mgem.remember(task)
        accuracies.append([accuracy(model, test) for _, test in tasks])
    return accuracies


@torch.no_grad()
def accuracy(model: nn.Module, test: TensorDataset) -> float:
    """Share of the test samples that the model gets right."""
    x, y = test.tensors
    predicted: Tensor = model(x).argmax(dim=1)
    return float((predicted == y).float().mean())


def main() -> None:
    """Prints a row of accuracies for each trained task."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 100), nn.ReLU(), nn.Linear(100, 10))
    for number, row in enumerate(train(model, permuted_digits(5, seed=0))):
        print(f"after task {number}: " + " ".join(f"{value:.3f}" for value in row))


if __name__ == "__main__":
    main()
