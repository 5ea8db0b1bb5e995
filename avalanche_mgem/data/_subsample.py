"""Smaller experiences for any benchmark."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from avalanche.benchmarks import CLScenario, benchmark_from_datasets, with_classes_timeline
from avalanche.benchmarks.utils import AvalancheDataset
from torch import Generator

from avalanche_mgem.data._streams import benchmark_of


def subsample(
    benchmark: CLScenario,
    samples_per_experience: int | None,
    test_samples_per_experience: int | None = None,
    *,
    seed: int = 0,
) -> CLScenario:
    """Keeps a random subset of each experience.

    The subset is random because experiences are sorted by class: their first n samples have few classes.
    Task labels, transforms, other streams, and the number and order of the experiences stay as they are.

    Args:
        benchmark: a benchmark whose datasets have class labels. All of Avalanche's classification benchmarks
            have them.
        samples_per_experience: training samples to keep of each experience. None, or a number larger than the
            experience, keeps all.
        test_samples_per_experience: the same for the test stream.
        seed: of the draw. The draw has its own generator and leaves the global one alone. A subset depends on
            the seed and the place of its experience in the stream, and on nothing else.

    Returns:
        A new benchmark; the given one if both numbers are None.

    Example:
        >>> from avalanche_mgem.benchmarks import SplitDigits
        >>> small = subsample(SplitDigits(5, seed=0), 20)
        >>> [len(experience.dataset) for experience in small.train_stream]
        [20, 20, 20, 20, 20]
    """
    if samples_per_experience is None and test_samples_per_experience is None:
        return benchmark
    limits = {"train": samples_per_experience, "test": test_samples_per_experience}
    generator = torch.Generator().manual_seed(seed)
    subsets = {
        name: [_subset(experience.dataset, limits.get(name), generator) for experience in stream]
        for name, stream in benchmark.streams.items()
    }
    return rebuilt(subsets, benchmark.streams)


def rebuilt(
    datasets: Mapping[str, Sequence[AvalancheDataset]], like: Mapping[str, Iterable[Any]]
) -> CLScenario:
    """A benchmark of the data sets, with the task labels of other streams.

    Args:
        datasets: of each stream.
        like: a stream of each of these names, whose experiences have the task labels, if they have any.
    """
    experiences = {name: list(like[name]) for name in datasets}
    if not all(
        hasattr(experience, "task_labels") for stream in experiences.values() for experience in stream
    ):
        return with_classes_timeline(benchmark_from_datasets(**datasets))
    labels = {name: [experience.task_labels for experience in stream] for name, stream in experiences.items()}
    # dataset_benchmark would leave the training transforms switched on in the test stream.
    return benchmark_of(datasets, labels)


def _subset(dataset: AvalancheDataset, limit: int | None, generator: Generator) -> AvalancheDataset:
    """``limit`` random samples of the dataset, in the dataset's order."""
    # It is drawn even without a limit, so that one stream's limit does not change another stream's subsets.
    order = torch.randperm(len(dataset), generator=generator)
    if limit is None or limit >= len(dataset):
        return dataset
    return dataset.subset(order[:limit].sort().values.tolist())
