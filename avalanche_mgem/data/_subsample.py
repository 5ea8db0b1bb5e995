"""Smaller experiences for any benchmark."""

import torch
from avalanche.benchmarks import (
    CLScenario,
    GenericCLScenario,
    benchmark_from_datasets,
    with_classes_timeline,
)
from avalanche.benchmarks.utils import AvalancheDataset
from torch import Generator


def subsample(
    benchmark: CLScenario,
    samples_per_experience: int | None,
    test_samples_per_experience: int | None = None,
    *,
    seed: int = 0,
) -> CLScenario:
    """Keeps a random subset of each experience.

    Random, because experiences are sorted by class: the first n samples would be of few classes. Task labels,
    transforms, the number and order of the experiences, and further streams stay as they are.

    Args:
        benchmark: a benchmark whose datasets have class labels, as all of Avalanche's for classification.
        samples_per_experience: training samples to keep of each experience; None, or more than there are,
            keeps all.
        test_samples_per_experience: the same for the test stream.
        seed: of the draw, from a generator of its own: the global one is left alone, and the subset of an
            experience depends on the seed and its place in the stream only.

    Returns:
        The benchmark itself if there is nothing to drop, else a new one.
    """
    if samples_per_experience is None and test_samples_per_experience is None:
        return benchmark
    limits = {"train": samples_per_experience, "test": test_samples_per_experience}
    generator = torch.Generator().manual_seed(seed)
    subsets = {
        name: [_subset(experience.dataset, limits.get(name), generator) for experience in stream]
        for name, stream in benchmark.streams.items()
    }
    experiences = [experience for stream in benchmark.streams.values() for experience in stream]
    if not all(hasattr(experience, "task_labels") for experience in experiences):
        return with_classes_timeline(benchmark_from_datasets(**subsets))
    labels = {name: [experience.task_labels for experience in benchmark.streams[name]] for name in subsets}
    # Not dataset_benchmark, which leaves the test stream with the training transforms switched on.
    return GenericCLScenario(stream_definitions={name: (subsets[name], labels[name]) for name in subsets})


def _subset(dataset: AvalancheDataset, limit: int | None, generator: Generator) -> AvalancheDataset:
    """``limit`` random samples of the dataset, in the dataset's order."""
    # Drawn in any case: one stream's limit does not change another stream's subsets.
    order = torch.randperm(len(dataset), generator=generator)
    if limit is None or limit >= len(dataset):
        return dataset
    return dataset.subset(order[:limit].sort().values.tolist())
