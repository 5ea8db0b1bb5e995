import json
import os
import subprocess
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from avalanche_mgem.experiment import folder as module
from avalanche_mgem.experiment.errors import UserError
from avalanche_mgem.experiment.folder import claimed, write_run
from avalanche_mgem.experiment.runner import Result

RESULT = Result([[0.1, 0.2], [0.9, 0.1], [0.7, 1 / 3]], 1.0, 2.0, 3.0)
CFG = OmegaConf.create({"seed": 4, "device": "cpu", "again": "${seed}"})
NAMES = {"strategy": "gem", "benchmark": "split_digits"}


def write(folder: Path) -> dict[str, object]:
    return write_run(folder, CFG, RESULT, names=NAMES, overrides=["seed=4"])


def test_a_finished_run_is_complete(tmp_path: Path) -> None:
    with claimed(tmp_path / "run"):
        summary = write(tmp_path / "run")
    assert sorted(os.listdir(tmp_path / "run")) == [
        "accuracy_matrix.csv", "config.yaml", "environment.json", "summary.json"
    ]  # fmt: skip
    assert json.loads((tmp_path / "run/summary.json").read_text()) == summary
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
    with claimed(tmp_path / "run"), pytest.raises(UserError, match="is not empty"), claimed(tmp_path / "run"):
        pytest.fail("not reached")


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
    assert module._git(tmp_path) is None

    def git(*arguments: str) -> str:
        identity = ["-c", "user.name=a", "-c", "user.email=a@example.org"]
        command = ["git", "-C", str(tmp_path), *identity, *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    git("init")
    git("commit", "--allow-empty", "-m", "first")
    assert module._git(tmp_path) == {"revision": git("rev-parse", "HEAD"), "dirty": False}
    (tmp_path / "new").touch()
    assert module._git(tmp_path)["dirty"] is True
