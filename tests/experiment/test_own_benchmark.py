"""A user's own benchmark, made by Avalanche's newer functions, through a configuration file of its own."""

import json
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
