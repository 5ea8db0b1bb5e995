"""Run folders as the command ``mgem`` writes them, without running it."""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from omegaconf import OmegaConf
from PIL import Image

from avalanche_mgem.report import Results, load_results

WriteRun = Callable[..., Path]


def numbers(matrix: np.ndarray) -> dict[str, float | None]:
    """The metrics of an accuracy matrix [T + 1, T], by their definitions."""
    last = matrix.shape[1]
    result: dict[str, float | None] = {"acc": float(np.mean(matrix[-1]))}
    if len(matrix) == 2:  # one experience, or joint training
        others: dict[str, float | None] = dict.fromkeys(("bwd", "la", "fwt", "forgetting"))
        return result | others | ({"la": float(matrix[1, 0])} if last == 1 else {})
    learnt = [matrix[i + 1, i] for i in range(last)]
    bwd = float(np.mean([matrix[-1, i] - learnt[i] for i in range(last - 1)]))
    fwt = float(np.mean([matrix[i, i] - matrix[0, i] for i in range(1, last)]))
    return result | {"bwd": bwd, "la": float(np.mean(learnt)), "fwt": fwt, "forgetting": -bwd}


def random_matrix(seed: int, quality: float = 0.8, experiences: int = 3) -> np.ndarray:
    """Accuracies about ``quality`` once learnt, about 0.1 before."""
    generator = np.random.default_rng(seed)
    learnt = np.tri(experiences + 1, experiences, -1, dtype=bool)
    noise = generator.uniform(0, 0.1, size=learnt.shape)
    return np.where(learnt, quality + noise, noise + 0.05)


def writer(root: Path) -> WriteRun:
    def write(
        name: str,
        strategy: str = "gem",
        seed: int = 0,
        *,
        matrix: np.ndarray | None = None,
        settings: Mapping[str, Any] | None = None,
        config: Mapping[str, Any] | None = None,
        environment: Mapping[str, Any] | None = None,
        constraints: Sequence[str] | None = None,
        summary: Mapping[str, Any] | None = None,
    ) -> Path:
        """Writes a run under the root: ``settings`` of the strategy, ``config`` updates by dotted keys."""
        folder = root / name
        folder.mkdir(parents=True)
        if matrix is None:
            matrix = random_matrix(seed + 100 * sum(map(ord, strategy)))
        cfg = OmegaConf.create(
            {
                "benchmark": {"_target_": "b.Digits", "n_experiences": 3, "seed": seed, "preload": True},
                "strategy": {"_target_": f"s.{strategy}", "seed": seed, **(settings or {})},
                "model": {"_target_": "m.MLP", "hidden_size": 100},
                "optimizer": {"_target_": "torch.optim.SGD", "lr": 0.1},
                "seed": seed,
                "device": "cpu",
                "dataset_root": "/data",
                "samples_per_experience": None,
                "test_samples_per_experience": None,
                "train_mb_size": 10,
                "train_epochs": 1,
                "inferred": {"num_classes": 10},
                "gap_every": 10,
                "output_dir": ".",
            }
        )
        for key, value in (config or {}).items():
            OmegaConf.update(cfg, key, value)
        made_by = {
            "torch": "2.15.0",
            "device": "cpu",
            "threads": 1,
            "git": {"revision": "abc", "dirty": False},
        }
        (folder / "config.yaml").write_text(OmegaConf.to_yaml(cfg))
        (folder / "environment.json").write_text(
            json.dumps({**made_by, **(environment or {}), "overrides": [name]})
        )
        header = ",".join(f"exp_{i}" for i in range(matrix.shape[1]))
        rows = [",".join(map(repr, row)) for row in matrix.tolist()]
        (folder / "accuracy_matrix.csv").write_text("\n".join([header, *rows]) + "\n")
        if constraints:
            (folder / "constraints.csv").write_text("\n".join(constraints) + "\n")
        costs = {
            "seconds_train": 2.0 + seed,
            "seconds_eval": 1.0,
            "seconds_data": 0.5,
            "peak_memory_mb": None,
        }
        values = {**numbers(matrix), **costs, "strategy": strategy, "benchmark": "digits", "seed": seed}
        (folder / "summary.json").write_text(json.dumps({**values, **(summary or {})}))
        return folder

    return write


def write_sweep(root: Path, seeds: int = 3) -> Path:
    write_run = writer(root)
    constraints = ["experience,violated_steps,gap_violated", "1,0.5,", "2,0.75,0.25"]
    for seed in range(seeds):
        write_run(f"sweep/naive-{seed}", "naive", seed)
        for strategy in ("gem", "dmgem"):
            for place, gamma in enumerate((0, 0.5, 1)):
                matrix = random_matrix(10 * seed + place, 0.7 + 0.05 * place + 0.02 * (strategy == "dmgem"))
                write_run(
                    f"sweep/{strategy}-{gamma}-{seed}", strategy, seed,
                    matrix=matrix, settings={"memory_strength": gamma}, constraints=constraints,
                )  # fmt: skip
    for name, file, text in (
        ("failed", "error.txt", "the loss is nan\ndetails\n"),
        ("open", ".unfinished", ""),
    ):
        (root / "sweep" / name).mkdir()
        (root / "sweep" / name / file).write_text(text)
    return root / "sweep"


def write_three(root: Path) -> Path:
    """Three methods at five seeds, worst first. ACC and LA rise by .01 to .05, and by .05 to .01 again."""
    write_run = writer(root)
    for seed in range(5):
        for strategy, accuracy in (("gem", 0.5), ("pmgem", 0.51 + 0.01 * seed), ("dmgem", 0.56)):
            write_run(f"three/{strategy}-{seed}", strategy, seed, matrix=np.full((3, 2), accuracy))
    return root / "three"


def write_one_figure(
    _results: Results, _front: object, folder: Path, *_: object, **__: object
) -> dict[str, str]:
    """In place of all figures: to draw them takes nearly all the time of a report."""
    (folder / "average_accuracy.pdf").touch()
    Image.new("L", (300, 200)).save(folder / "average_accuracy.png")
    return {"average_accuracy": "Mean accuracy."}


@pytest.fixture
def _one_figure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("avalanche_mgem.report.write.write_figures", write_one_figure)


@pytest.fixture
def write_run(tmp_path: Path) -> WriteRun:
    return writer(tmp_path)


@pytest.fixture
def sweep(tmp_path: Path) -> Path:
    """GEM and d-mGEM at three memory strengths, and naive; three seeds, constraints, and two that failed."""
    return write_sweep(tmp_path)


@pytest.fixture(scope="session")
def results(tmp_path_factory: pytest.TempPathFactory) -> Results:
    """Those of such a sweep of five seeds."""
    return load_results(write_sweep(tmp_path_factory.mktemp("results"), seeds=5))
