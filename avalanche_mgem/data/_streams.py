"""Benchmarks of lists of datasets, whose classes nobody reads sample by sample."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from avalanche.benchmarks import GenericCLScenario
from avalanche.benchmarks.scenarios.deprecated.dataset_scenario import StreamDef
from avalanche.benchmarks.scenarios.deprecated.lazy_dataset_sequence import LazyDatasetSequence
from torch import Tensor

from avalanche_mgem.data._images import UnknownError
from avalanche_mgem.data._plans import integers


def benchmark_of(
    datasets: Mapping[str, Sequence[Any]], labels: Mapping[str, Iterable[int | Iterable[int]]]
) -> GenericCLScenario:
    """The benchmark that Avalanche's ``GenericCLScenario`` makes of the same datasets.

    Avalanche reads each sample's class and task label one by one, and looks through all classes of all
    experiences for each experience that it makes. For twenty times MNIST this takes seconds.

    Args:
        datasets: of each stream, one an experience.
        labels: of each stream, the task label of each experience, or all that it has.
    """
    definitions = {}
    for name, of_stream in datasets.items():
        sequence = LazyDatasetSequence(of_stream, len(of_stream))
        sequence._loaded_experiences = dict(enumerate(of_stream))
        for number, dataset in enumerate(of_stream):
            # Avalanche has all targets here, but makes a set of them whenever it reads them. The first of
            # each class makes the same set, in the same order.
            sequence.targets_field_sequence[number] = list(dict.fromkeys(values_of(dataset.targets)))
            sequence.task_labels_field_sequence[number] = dataset.targets_task_labels
        sequence._next_exp_id = len(of_stream)
        sequence._exp_generator = sequence._exp_source = None
        of_experience = [{given} if isinstance(given, int) else set(given) for given in labels[name]]
        definitions[name] = StreamDef(sequence, of_experience, None, False)
    return GenericCLScenario(stream_definitions=definitions)


def values_of(attribute: Any) -> list[Any]:
    """The values of a data attribute, such as the classes of all samples; integers are read at once."""
    if isinstance(attribute, Tensor):
        return list(attribute.tolist())
    try:
        return list(integers(attribute, np.arange(len(attribute))).tolist())
    except UnknownError:
        return list(attribute)
