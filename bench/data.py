"""Streams of tensors for the rows that time single steps. Both sides read their samples from memory."""

from pathlib import Path
from typing import Any

import torch
from avalanche.benchmarks import PermutedMNIST, benchmark_from_datasets
from avalanche.benchmarks.utils import _make_taskaware_tensor_classification_dataset as tensor_dataset
from torch import Generator, Tensor
from torchvision.datasets import CIFAR100, MNIST

from avalanche_mgem.data import missing_file, subsample
from avalanche_mgem.runs import UserError

Stream = list[Any]  # Avalanche's experiences


def check(benchmark: str, root: Path) -> None:
    """Checks that the data is there. Without it Avalanche would download it while the clock runs.

    Args:
        benchmark: name of Avalanche's function.
        root: the folder where its files should be.

    Raises:
        UserError: if a file is missing.
    """
    path = missing_file(benchmark, root)
    if path is not None:
        raise UserError(
            f"{benchmark} needs the file {path.relative_to(root)} in the folder {root}; "
            "give another --dataset-root, or --quick"
        )


def stream(images: list[Tensor], labels: list[Tensor]) -> Stream:
    """A training stream with one experience for each pair of images and labels, all with task label 0."""
    datasets = [tensor_dataset(x, y, task_labels=0) for x, y in zip(images, labels, strict=True)]
    return list(benchmark_from_datasets(train=datasets).train_stream)


def permuted_mnist(root: Path, n_experiences: int, samples: int, seed: int) -> Stream:
    """Random normalised MNIST images, ``samples`` for each experience, with a permutation for each."""
    generator = Generator().manual_seed(seed)
    check("PermutedMNIST", root)
    mnist = MNIST(root, train=True)
    images, labels = [], []
    for _ in range(n_experiences):
        chosen = torch.randperm(len(mnist.targets), generator=generator)[:samples]
        pixels = (mnist.data[chosen].float().div(255) - 0.1307) / 0.3081
        permutation = torch.randperm(28 * 28, generator=generator)
        images.append(pixels.flatten(1)[:, permutation].reshape(-1, 1, 28, 28))
        labels.append(mnist.targets[chosen])
    return stream(images, labels)


def split_cifar100(root: Path, n_experiences: int, samples: int, seed: int) -> Stream:
    """Random CIFAR-100 images, ``samples`` for each experience, with new classes in each."""
    generator = Generator().manual_seed(seed)
    check("SplitCIFAR100", root)
    cifar = CIFAR100(root, train=True)
    targets = torch.tensor(cifar.targets)
    pixels = torch.from_numpy(cifar.data).permute(0, 3, 1, 2)
    images, labels = [], []
    for classes in torch.randperm(100, generator=generator).chunk(n_experiences):
        of_classes = torch.isin(targets, classes).nonzero().squeeze(1)
        chosen = of_classes[torch.randperm(len(of_classes), generator=generator)[:samples]]
        images.append((pixels[chosen].float().div(255) - 0.5) / 0.25)
        labels.append(targets[chosen])
    return stream(images, labels)


def noise(n_experiences: int, samples: int, shape: tuple[int, ...], classes: int, seed: int) -> Stream:
    """Random images and labels."""
    generator = Generator().manual_seed(seed)
    images = [torch.randn(samples, *shape, generator=generator) for _ in range(n_experiences)]
    labels = [torch.randint(classes, (samples,), generator=generator) for _ in range(n_experiences)]
    return stream(images, labels)


def avalanche_permuted_mnist(root: Path, n_experiences: int, samples: int, seed: int) -> Stream:
    """Avalanche's own permuted MNIST, which reads and permutes an image anew at each use."""
    check("PermutedMNIST", root)
    benchmark = PermutedMNIST(n_experiences, seed=seed, dataset_root=root)
    return list(subsample(benchmark, samples, seed=seed).train_stream)
