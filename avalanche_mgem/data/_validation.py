"""Validation samples for any benchmark: part of each training experience, on which nothing is trained."""

import math
from typing import Any

import torch
from avalanche.benchmarks import CLScenario
from avalanche.benchmarks.utils import AvalancheDataset

from avalanche_mgem.data._subsample import rebuilt


def split_validation(benchmark: CLScenario, fraction: float, *, seed: int = 0) -> CLScenario:
    """Takes random samples out of each training experience, for a stream ``"valid"`` of their own.

    Choose hyper-parameters by the accuracy on these samples: no test sample has a part in the choice, and a
    strategy that is trained on the training stream neither trains on them nor keeps any in a memory.

    Avalanche's ``benchmark_with_validation_stream`` loses the task labels of the experiences, and draws the
    same places in all of them.

    Args:
        benchmark: a benchmark whose datasets have class labels, and that has no stream ``"valid"``.
        fraction: of each experience's training samples, above 0 and below 1; rounded to whole samples.
        seed: of the draw. The draw has its own generator and leaves the global one alone.

    Returns:
        A new benchmark. Its ``valid_stream`` has an experience for each one of training, with the same task
        labels and with the transforms of evaluation. Other streams stay as they are.

    Raises:
        ValueError: if the fraction is not allowed or leaves an experience without samples of either kind, or
            if there is a stream ``"valid"``.

    Example:
        >>> from avalanche_mgem.benchmarks import SplitDigits
        >>> benchmark = split_validation(SplitDigits(5, seed=0), 0.1)
        >>> [len(experience.dataset) for experience in benchmark.valid_stream]
        [29, 29, 29, 28, 29]
    """
    if not (math.isfinite(fraction) and 0 < fraction < 1):
        raise ValueError(f"fraction={fraction}: it must be above 0 and below 1")
    if "valid" in benchmark.streams:
        raise ValueError("the benchmark has a stream 'valid' already")
    generator = torch.Generator().manual_seed(seed)
    parts = [_split(experience, fraction, generator) for experience in benchmark.train_stream]
    datasets = {
        name: [experience.dataset for experience in stream] for name, stream in benchmark.streams.items()
    }
    datasets |= {"train": [train for train, _ in parts], "valid": [valid for _, valid in parts]}
    return rebuilt(datasets, {**benchmark.streams, "valid": benchmark.train_stream})


def _split(
    experience: Any, fraction: float, generator: torch.Generator
) -> tuple[AvalancheDataset, AvalancheDataset]:
    """The samples to train on and the others, each in the order of the dataset."""
    dataset = experience.dataset
    order = torch.randperm(len(dataset), generator=generator)
    number = round(fraction * len(dataset))
    if not 0 < number < len(dataset):
        kind = "validation" if number == 0 else "training"
        raise ValueError(
            f"fraction={fraction}: it leaves no {kind} sample of the {len(dataset)} of experience "
            f"{experience.current_experience}"
        )
    valid, train = (part.sort().values.tolist() for part in (order[:number], order[number:]))
    return dataset.subset(train), dataset.subset(valid).eval()
