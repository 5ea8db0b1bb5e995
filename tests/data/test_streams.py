"""A benchmark of lists of datasets is Avalanche's, but no sample is read for it."""

from typing import Any

import avalanche.benchmarks as ab
import numpy as np
import pytest
import torch
from avalanche.benchmarks import CLScenario, GenericCLScenario
from avalanche.benchmarks.utils.data_attribute import DataAttribute
from avalanche.benchmarks.utils.flat_data import ConstantSequence
from helpers import digits
from torch.utils.data import TensorDataset

from avalanche_mgem.benchmarks.domains import domain_incremental
from avalanche_mgem.data._streams import benchmark_of, values_of

TIMELINE = ("classes_in_this_experience", "previous_classes", "classes_seen_so_far", "future_classes")


def datasets() -> dict[str, list[Any]]:
    """Of two streams: classes in no order, some of which come again."""
    x, y = digits(60)
    y = (y * 37 + 5) % 101  # numbers whose order in a set depends on which came first
    experiences = {"train": [y[:20], y[20:60:3], y[21:60:3]], "test": [y[:10], y[30:45]]}
    return {
        name: [
            ab.utils.make_avalanche_dataset(
                TensorDataset(x[: len(classes)]),
                data_attributes=[
                    DataAttribute(classes.tolist(), "targets"),
                    DataAttribute(ConstantSequence(number, len(classes)), "targets_task_labels", True),
                ],
            )
            for number, classes in enumerate(stream)
        ]
        for name, stream in experiences.items()
    }


LABELS = {"train": [0, {1, 2}, [3]], "test": [0, 1]}


def content(benchmark: CLScenario) -> Any:
    """What one sees of a benchmark, but its samples."""
    streams = {
        name: [
            [list(getattr(experience, what)) for what in (*TIMELINE, "task_labels")]
            + [experience.current_experience, experience.dataset, type(experience)]
            for experience in stream
        ]
        for name, stream in benchmark.streams.items()
    }
    classes = {name: list(benchmark.classes_in_experience[name]) for name in benchmark.streams}
    return streams, classes, benchmark.n_experiences, benchmark.task_labels


def test_it_is_avalanches() -> None:
    made = datasets()
    ours = benchmark_of(made, LABELS)
    stock = GenericCLScenario(stream_definitions={name: (made[name], LABELS[name]) for name in made})
    assert content(ours) == content(stock)
    assert content(ours)[0]["train"][1][0] != sorted(content(ours)[0]["train"][1][0])  # so order is compared


def test_no_sample_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = digits(40)
    images = TensorDataset(x, y)
    images.targets = y.tolist()
    monkeypatch.setattr(DataAttribute, "__getitem__", lambda *_: pytest.fail("read"))
    monkeypatch.setattr(TensorDataset, "__getitem__", lambda *_: pytest.fail("read"))
    benchmark = domain_incremental(
        [images] * 2, [images] * 2, return_task_id=True, train_transform=None, eval_transform=None
    )
    assert [experience.task_labels for experience in benchmark.train_stream] == [[0], [1]]
    assert [experience.classes_in_this_experience for experience in benchmark.test_stream] == [
        list(range(10))
    ] * 2


@pytest.mark.parametrize(
    "attribute",
    [
        [3, 1, 1],
        (3, 1, 1),
        torch.tensor([3, 1, 1]),
        torch.tensor([3, 1, 1], dtype=torch.int32),
        DataAttribute([3, 1, 1], "targets"),
        DataAttribute([1, 3, 1, 7], "targets").subset([1, 0, 2]),
        DataAttribute(np.array([3, 1, 1], dtype=np.int32), "targets"),
        DataAttribute([3, 1], "targets").concat(DataAttribute([0, 1], "targets").subset([1])),
    ],
)
def test_values(attribute: Any) -> None:
    assert values_of(attribute) == [3, 1, 1]


def test_values_that_are_no_integers() -> None:
    assert values_of(DataAttribute(["b", "a"], "targets")) == ["b", "a"]
    assert values_of([]) == []
