"""The key ``benchmark.preload`` of the command."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from avalanche.benchmarks.utils.data_loader import SingleDatasetDataLoader
from omegaconf import OmegaConf

from avalanche_mgem.experiment import runner
from avalanche_mgem.experiment.main import config_folder
from avalanche_mgem.experiment.progress import ProgressBar

Mgem = Callable[..., Any]
SMALL = ("benchmark.n_experiences=2", "samples_per_experience=40", "test_samples_per_experience=40")
RANDOM = "+benchmark.train_transform={_target_:torchvision.transforms.RandomHorizontalFlip}"


def test_every_benchmark_has_the_key() -> None:
    files = sorted((config_folder() / "benchmark").glob("*.yaml"))
    assert len(files) >= 6
    assert all(OmegaConf.load(file).preload is True for file in files)


def slow(value: str) -> Any:
    return pytest.param(value, marks=pytest.mark.slow)


@pytest.mark.parametrize("strategy", ["dmgem", slow("avalanche_gem"), slow("replay")])
@pytest.mark.parametrize("benchmark", ["permuted_digits", slow("split_digits")])
def test_the_results_are_the_same_without(
    mgem: Mgem, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, strategy: str, benchmark: str
) -> None:
    loaders = []
    monkeypatch.setattr(
        ProgressBar, "after_eval_iteration", lambda _, s, **__: loaders.append(type(s.dataloader))
    )
    arguments = [f"strategy={strategy}", f"benchmark={benchmark}", *SMALL[1:]]
    for number, key in enumerate(["benchmark.preload=true", "benchmark.preload=false", "~benchmark.preload"]):
        result = mgem(*arguments, key, f"hydra.run.dir={number}")
        assert (result.status, result.err) == (0, "")
        assert {loader is SingleDatasetDataLoader for loader in loaders} == {number == 1}
        loaders.clear()
    matrices = {(tmp_path / str(number) / "accuracy_matrix.csv").read_text() for number in range(3)}
    assert len(matrices) == 1
    saved = [
        OmegaConf.load(tmp_path / str(number) / "config.yaml").benchmark.get("preload") for number in range(3)
    ]
    assert saved == [True, False, None]


def test_what_is_left_to_avalanche_is_one_line(mgem: Mgem) -> None:
    result = mgem("strategy=naive", *SMALL, RANDOM)
    assert result.status == 0
    assert result.err.count("\n") == 1
    assert result.err.startswith("mgem: preload: ")
    assert "RandomHorizontalFlip (train)" in result.err
    assert mgem("strategy=naive", *SMALL, RANDOM, "benchmark.preload=false").err == ""


@pytest.mark.parametrize("value", ["3", "yes please", "null", "[]"])
def test_another_value_is_one_line(mgem: Mgem, value: str) -> None:
    result = mgem(f"benchmark.preload={value}", *SMALL)
    assert result.status == 2
    assert result.err.startswith("mgem: benchmark.preload=")
    assert result.err.endswith(": it must be true or false\n")
    assert result.err.count("\n") == 1


@pytest.mark.parametrize(
    ("device", "preload", "pin"),
    [("cpu", True, False), ("cpu", False, False), ("cuda:1", True, False), ("cuda", False, True)],
)
def test_what_is_on_the_gpu_is_not_pinned(device: str, preload: bool, pin: bool) -> None:
    cfg = OmegaConf.create({"device": device, "benchmark": {"preload": preload}})
    assert runner.loader_options(cfg) == {"pin_memory": pin}
