import errno
import json
import os
import shutil
import tempfile
from dataclasses import replace
from pathlib import Path

import pytest
from omegaconf import OmegaConf
from runs.conftest import CFG, GROUPS, RESULT, write

from avalanche_mgem.runs import (
    CONSTRAINT_METRICS,
    COSTS,
    METRICS,
    UserError,
    claimed,
    clear_failure,
    error_line,
    find_runs,
    is_complete,
    keep_run,
    read_run,
    write_failure,
    write_run,
)


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
    config = OmegaConf.load(tmp_path / "run/config.yaml")
    assert (config.again, config.output_dir) == (4, ".")
    assert "again: ${seed}" in OmegaConf.to_yaml(CFG)
    assert json.loads((tmp_path / "run/environment.json").read_text()) == {"overrides": ["seed=4"]}


def test_what_is_written_is_read(tmp_path: Path) -> None:
    rows = [{"experience": 1, "violated_steps": 0.5, "gap_depth": 0.25}]
    write_run(tmp_path, CFG, replace(RESULT, constraints=rows), {"git": {"dirty": False}})
    run = read_run(tmp_path)
    assert (run.path, run.strategy, run.benchmark, run.seed) == (tmp_path, "gem", "b", 4)
    assert run.numbers == {key: RESULT.summary[key] for key in (*METRICS, *COSTS)}
    assert run.matrix.tolist() == RESULT.matrix
    targets = {f"{group}._target_": f"a.{group}" for group in GROUPS}
    assert run.config == {"seed": 4, "device": "cpu", "again": 4, "output_dir": ".", **targets}
    assert run.environment == {"git.dirty": False}
    assert run.constraints is not None
    assert run.constraints.dropna(axis="columns").to_dict("records") == rows
    assert find_runs([tmp_path]) == ([tmp_path], {})
    assert repr(run) == f"Run(gem on b, seed 4: ACC 0.517, in {tmp_path})"


def test_a_failure_is_left_and_forgotten(tmp_path: Path) -> None:
    run = tmp_path / "run"
    write_failure(run, "the loss is nan\nTraceback")
    assert error_line(run) == "the loss is nan"
    assert find_runs([tmp_path]) == ([], {run: "the loss is nan"})
    clear_failure(run)
    assert error_line(run) is None
    assert find_runs([tmp_path]) == ([], {run: "unfinished"})


def test_a_result_is_shown_in_one_line() -> None:
    assert repr(RESULT) == "Result(gem on b, seed 4: ACC 0.517 on 2 experiences)"
    assert RESULT.accuracies.loc[1].tolist() == RESULT.matrix[1]


def test_constraints_are_written(tmp_path: Path) -> None:
    rows = [{"experience": 1, CONSTRAINT_METRICS[0]: 0.5}, {"experience": 2, CONSTRAINT_METRICS[0]: 1.0}]
    write_run(tmp_path, CFG, replace(RESULT, constraints=rows), {})
    text = (tmp_path / "constraints.csv").read_text().splitlines()
    assert text[0].split(",") == ["experience", *CONSTRAINT_METRICS]
    assert text[2].startswith("2,1.0,")


@pytest.mark.parametrize("last", ["config.yaml", "environment.json", "accuracy_matrix.csv"])
def test_summary_comes_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, last: str) -> None:
    move = os.replace

    def die_after(source: Path, target: Path) -> None:
        move(source, target)
        if Path(target).name == last:
            raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", die_after)
    with pytest.raises(KeyboardInterrupt):
        write(tmp_path)
    assert (tmp_path / last).exists()
    assert not (tmp_path / "summary.json").exists()


def full_disk(monkeypatch: pytest.MonkeyPatch, *folders: Path) -> None:
    move = os.replace

    def replace_unless_full(source: Path, target: Path) -> None:
        if any(folder in Path(target).parents for folder in folders):
            raise OSError(errno.ENOSPC, "No space left on device")
        move(source, target)

    monkeypatch.setattr(os, "replace", replace_unless_full)


def test_a_file_is_whole_or_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        full_disk(patch, tmp_path)
        with pytest.raises(OSError, match=r"No space left on device: '.*config\.yaml'"):  # the path is named
            write(tmp_path)
    assert os.listdir(tmp_path) == []


def test_results_of_a_vanished_folder_are_kept(tmp_path: Path) -> None:
    run = tmp_path / "sweep/run"
    with claimed(run):
        shutil.rmtree(tmp_path / "sweep")
        note = keep_run(run, CFG, RESULT, {})
    assert note == f"the run folder {run} had vanished; it was made anew for the results"
    assert read_run(run).numbers["acc"] == RESULT.summary["acc"]
    assert ".unfinished" not in os.listdir(run)


def test_results_go_elsewhere_from_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run, other = tmp_path / "run", tmp_path / "tmp"
    other.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(other))
    full_disk(monkeypatch, run)
    run.mkdir()
    with pytest.raises(UserError) as error:
        keep_run(run, CFG, RESULT, {})
    (kept,) = other.iterdir()
    expected = f"{run}/config.yaml: No space left on device; the results of this run are in {kept}"
    assert str(error.value) == expected
    assert read_run(kept).numbers["acc"] == RESULT.summary["acc"]
    assert not is_complete(run)


def test_lost_results_are_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    full_disk(monkeypatch, tmp_path)
    (tmp_path / "run").mkdir()
    with pytest.raises(UserError, match=r"fails too; all that is left of the results: \{\"acc\": 0.5"):
        keep_run(tmp_path / "run", CFG, RESULT, {})
    assert os.listdir(tmp_path) == ["run"]


def test_a_folder_that_is_taken_meanwhile_is_not_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    (tmp_path / "run").write_text("now a file")
    with pytest.raises(UserError, match=r"run: File exists; the results of this run are in \S+"):
        keep_run(tmp_path / "run", CFG, RESULT, {})
    assert (tmp_path / "run").read_text() == "now a file"


def test_a_constrained_run_has_a_row_for_each_experience_but_the_first(tmp_path: Path) -> None:
    """Also where an experience repeats the only one before it, and nothing constrained its steps."""
    cfg = OmegaConf.merge(CFG, {"gap_every": 10, "strategy": {"_target_": "avalanche_mgem.MGEM"}})
    write_run(tmp_path, cfg, RESULT, {})
    assert (tmp_path / "constraints.csv").read_text().splitlines()[1:] == ["1" + 11 * ","]
    assert read_run(tmp_path).constraints is not None
