"""A user's own benchmark, made by Avalanche's newer functions, through a configuration file of its own."""

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

MODULE = """
import torch
from avalanche.benchmarks import (
    benchmark_from_datasets, class_incremental_benchmark, task_incremental_benchmark
)
from avalanche.benchmarks.utils import as_classification_dataset
from torch.utils.data import TensorDataset

def data(seed, classes=4):
    torch.manual_seed(seed)
    y = torch.arange(80) % classes
    samples = TensorDataset(torch.randn(80, 1, 4, 4) + y.view(-1, 1, 1, 1), y)
    samples.targets = y.tolist()
    return as_classification_dataset(samples)

def domains():
    return benchmark_from_datasets(train=[data(0), data(1)], test=[data(2), data(3)])

def classes():
    return class_incremental_benchmark({"train": data(0), "test": data(1)}, num_experiences=2)

def tasks():
    return task_incremental_benchmark(classes())
"""


@pytest.fixture(autouse=True)
def _own_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    (tmp_path / "own_benchmarks.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    yield
    sys.modules.pop("own_benchmarks", None)


@pytest.mark.parametrize("limits", [(), ("samples_per_experience=35", "test_samples_per_experience=30")])
@pytest.mark.parametrize("function", ["domains", "classes", "tasks"])
def test_benchmarks_of_avalanches_functions_run(mgem, tmp_path: Path, function: str, limits) -> None:
    """Those without task labels or classes tell less of themselves than Avalanche's classic ones."""
    (tmp_path / "mine" / "benchmark").mkdir(parents=True)
    (tmp_path / "mine" / "benchmark" / "own.yaml").write_text(f"_target_: own_benchmarks.{function}\n")
    result = mgem(
        "--config-dir", "mine", "benchmark=own", "strategy.patterns_per_exp=10", "hydra.run.dir=run", *limits
    )
    assert result.status == 0, result.err
    rows = (tmp_path / "run" / "accuracy_matrix.csv").read_text().splitlines()
    assert [len(row.split(",")) for row in rows] == [2] * 4
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["benchmark"] == "own"
    assert summary["acc"] > {"domains": 0.4, "classes": 0.3, "tasks": 0.6}[function]  # chance: 1/4, 1/4, 1/2


def test_a_part_without_a_name_is_called_by_its_target(mgem, tmp_path: Path) -> None:
    result = mgem(
        "~benchmark", "+benchmark._target_=own_benchmarks.domains", "strategy.patterns_per_exp=10",
        "hydra.run.dir=run", "logger=tensorboard",
    )  # fmt: skip
    assert result.status == 0, result.err
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["benchmark"] == "domains"


UNFIT = """
from avalanche.benchmarks import CLScenario, benchmark_from_datasets, ni_benchmark, split_online_stream
from avalanche.benchmarks.utils import AvalancheDataset, as_classification_dataset
from avalanche.benchmarks.utils.data_attribute import DataAttribute
import torch
from torch.utils.data import TensorDataset

x = torch.randn(40, 1, 4, 4)
y = torch.arange(40) % 4

def labelled(x, y):
    samples = TensorDataset(x, torch.as_tensor(y))
    samples.targets = list(y)
    return as_classification_dataset(samples)

good = labelled(x, y.tolist())

def of(train, test=None):
    return benchmark_from_datasets(train=[good, train], test=[good, good if test is None else test])

def regression():
    values = [v / 7 for v in y.tolist()]
    targets = DataAttribute(values, "targets")
    return of(AvalancheDataset([TensorDataset(x, torch.tensor(values))], data_attributes=[targets]))

def unlabelled():
    return of(AvalancheDataset([TensorDataset(x, y)]))

def boxes():
    return of(AvalancheDataset([[(image, {"boxes": image}) for image in x]]))

def empty():
    return of(good.subset([]))

def empty_test():
    return of(good, good.subset([]))

def negative():
    return of(labelled(x, [-1] + y.tolist()[1:]))

def other_size():
    return benchmark_from_datasets(train=[good, good], test=[labelled(x[..., :2], y.tolist())] * 2)

def integers():
    return benchmark_from_datasets(train=[good, good], test=[labelled(x.long(), y.tolist())] * 2)

def no_experiences():
    return benchmark_from_datasets(train=[], test=[])

def unreadable():
    class Broken(TensorDataset):
        def __getitem__(self, index):
            raise KeyError("pixels")
    samples = Broken(x, y)
    samples.targets = y.tolist()
    return benchmark_from_datasets(train=[as_classification_dataset(samples)], test=[good])

def mixed_sizes():
    return of(labelled(torch.randn(40, 1, 4, 3), y.tolist()))

def more_classes_tested():
    return of(good, labelled(x, (y + 1).tolist()))

def one_class():
    one = labelled(x, [0] * 40)
    return benchmark_from_datasets(train=[one, labelled(x + 1, [0] * 40)], test=[one, one])

def one_sample():
    return benchmark_from_datasets(train=[good.subset([0]), good.subset([1])], test=[good.subset([0])] * 2)

def instances():
    return ni_benchmark(good, good, n_experiences=2, seed=0)
"""


@pytest.fixture
def unfit(tmp_path: Path) -> None:
    (tmp_path / "own_benchmarks.py").write_text(UNFIT)


@pytest.mark.usefixtures("unfit")
@pytest.mark.parametrize(
    ("function", "reason"),
    [
        ("regression", "mgem trains classifiers"),
        ("unlabelled", "mgem trains classifiers"),
        ("boxes", "mgem trains classifiers"),
        ("empty", "training experience 1 has no samples"),
        ("empty_test", "test experience 1 has no samples"),
        ("negative", "training experience 1 has the target -1"),
        ("other_size", r"its training images are \[1, 4, 4\] and its test images \[1, 4, 2\]"),
        ("integers", "eval_transform must return a float tensor"),
        ("no_experiences", "it has no experiences"),
        ("unreadable", "the first training sample cannot be read as image and class: 'pixels'"),
        ("mixed_sizes", r"strategy \(avalanche.training.Naive\)"),
        ("instances", "2 training and 1 test experiences; mgem needs one for one"),
    ],
)
def test_a_benchmark_that_does_not_fit_is_one_line(mgem, function: str, reason: str) -> None:
    result = mgem("~benchmark", f"+benchmark._target_=own_benchmarks.{function}", "strategy=naive")
    assert (result.status, result.out) == (2, "")
    assert re.fullmatch(rf"mgem: [^\n]*{reason}[^\n]*\n", result.err), result.err


@pytest.mark.usefixtures("unfit")
@pytest.mark.parametrize("function", ["more_classes_tested", "one_class", "one_sample"])
def test_small_and_odd_benchmarks_run(mgem, function: str) -> None:
    words = ["~benchmark", f"+benchmark._target_=own_benchmarks.{function}", "strategy=gem"]
    result = mgem(*words, "strategy.patterns_per_exp=8")
    assert result.status == 0, result.err
