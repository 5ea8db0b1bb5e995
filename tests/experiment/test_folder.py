import json
import os
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf

from avalanche_mgem.experiment import environment
from avalanche_mgem.experiment import folder as module
from avalanche_mgem.experiment.errors import UserError
from avalanche_mgem.experiment.folder import check_same_run, claimed, write_failure, write_run
from avalanche_mgem.experiment.runner import Result
from avalanche_mgem.metrics import CONSTRAINT_METRICS

RESULT = Result(
    [[0.1, 0.2], [0.9, 0.1], [0.7, 1 / 3]], 1.0, 2.0, 3.0, 4.0, {"strategy": "gem", "benchmark": "b"}, seed=4
)
CFG = OmegaConf.create({"seed": 4, "device": "cpu", "again": "${seed}"})


def write(folder: Path) -> None:
    write_run(folder, CFG, RESULT, overrides=["seed=4"])


def test_a_finished_run_is_complete(tmp_path: Path) -> None:
    with claimed(tmp_path / "run"):
        write(tmp_path / "run")
    assert sorted(os.listdir(tmp_path / "run")) == [
        "accuracy_matrix.csv", "config.yaml", "environment.json", "summary.json"
    ]  # fmt: skip
    assert json.loads((tmp_path / "run/summary.json").read_text()) == RESULT.summary
    rows = (tmp_path / "run/accuracy_matrix.csv").read_text().splitlines()
    assert rows[0] == "exp_0,exp_1"
    assert [[float(cell) for cell in row.split(",")] for row in rows[1:]] == RESULT.matrix
    assert OmegaConf.load(tmp_path / "run/config.yaml").again == 4


def test_a_folder_in_use_is_refused_untouched(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("precious")
    with pytest.raises(UserError, match="is not empty"), claimed(tmp_path):
        pytest.fail("not reached")
    assert os.listdir(tmp_path) == ["mine.txt"]


def test_two_runs_cannot_hold_one_folder(tmp_path: Path) -> None:
    run = tmp_path / "run"
    with claimed(run), pytest.raises(UserError, match="another process is running"), claimed(run):
        pytest.fail("not reached")


def test_what_a_dead_run_has_left_is_cleared(tmp_path: Path) -> None:
    run = tmp_path / "run"
    (run / "tensorboard").mkdir(parents=True)
    for name in (".unfinished", ".lock", "error.txt", "config.yaml", "tensorboard/events"):
        (run / name).write_text("old")
    (run / "wandb_run_id.txt").write_text("abc")
    with claimed(run):
        assert sorted(os.listdir(run)) == [".lock", ".unfinished", "wandb_run_id.txt"]
        write(run)
    assert not (run / ".unfinished").exists()
    with pytest.raises(UserError, match="is not empty"), claimed(run):
        pytest.fail("not reached")


def test_a_broken_run_keeps_what_loggers_wrote(tmp_path: Path) -> None:
    run = tmp_path / "run"

    def die() -> None:
        (run / "events").touch()
        raise ValueError("x")

    with pytest.raises(ValueError, match="x"), claimed(run):
        die()
    assert sorted(os.listdir(run)) == [".unfinished", "events"]
    write_failure(run, "why")
    assert (run / "error.txt").read_text() == "why\n"
    with claimed(run):
        assert "events" not in os.listdir(run)


def test_the_same_run_is_known_by_its_settings(tmp_path: Path) -> None:
    cfg = OmegaConf.create(
        {"seed": 4, "device": "cpu", "model": {"n": "${inferred.n}"}, "inferred": {"n": None}, "logger": {}}
    )
    used = cfg.copy()
    used.inferred.n = 10
    write_run(tmp_path, used, RESULT, overrides=[])
    check_same_run(tmp_path, cfg)
    check_same_run(tmp_path, OmegaConf.merge(cfg, {"device": "cuda", "logger": {"csv": {"a": 1}}}))
    with pytest.raises(UserError, match=r"another seed \(4 there, 5 here\), x \(absent there, 1 here\);"):
        check_same_run(tmp_path, OmegaConf.merge(cfg, {"seed": 5, "x": 1}))


def test_constraints_are_written(tmp_path: Path) -> None:
    rows = [{"experience": 1, CONSTRAINT_METRICS[0]: 0.5}, {"experience": 2, CONSTRAINT_METRICS[0]: 1.0}]
    write_run(tmp_path, CFG, replace(RESULT, constraints=rows), overrides=[])
    text = (tmp_path / "constraints.csv").read_text().splitlines()
    assert text[0].split(",") == ["experience", *CONSTRAINT_METRICS]
    assert text[2].startswith("2,1.0,")


def test_peak_memory_is_that_of_the_run() -> None:
    block = torch.ones(64 * 2**18)  # 64 MiB
    before = environment.peak_memory_mb("cpu")
    assert before is not None
    assert before > 64
    del block
    environment.reset_peak_memory("cpu")
    after = environment.peak_memory_mb("cpu")
    assert after is not None
    assert after < before - 50


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_a_broken_run_leaves_nothing(tmp_path: Path, error: type[BaseException]) -> None:
    with pytest.raises(error), claimed(tmp_path / "run"):
        raise error
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("last", ["config.yaml", "environment.json", "accuracy_matrix.csv"])
def test_summary_comes_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, last: str) -> None:
    replace = os.replace

    def die_after(source: Path, target: Path) -> None:
        replace(source, target)
        if Path(target).name == last:
            raise KeyboardInterrupt

    monkeypatch.setattr(module.os, "replace", die_after)
    with pytest.raises(KeyboardInterrupt):
        write(tmp_path)
    assert (tmp_path / last).exists()
    assert not (tmp_path / "summary.json").exists()


def test_git_state_is_recorded(tmp_path: Path) -> None:
    source = tmp_path / "package" / "source.py"
    source.parent.mkdir()
    source.touch()
    assert environment._git(source) is None

    def git(*arguments: str) -> str:
        identity = ["-c", "user.name=a", "-c", "user.email=a@example.org"]
        command = ["git", "-C", str(tmp_path), *identity, *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    git("init")
    git("commit", "--allow-empty", "-m", "first")
    assert environment._git(source) is None  # installed inside of another repository
    git("add", ".")
    git("commit", "-m", "second")
    assert environment._git(source) == {"revision": git("rev-parse", "HEAD"), "dirty": False}
    (tmp_path / "new").touch()
    assert environment._git(source)["dirty"] is True
