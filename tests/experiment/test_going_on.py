"""A run of the command that is cut goes on, and is the run that was never cut."""

import csv
import errno
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from avalanche.training.templates.base_sgd import BaseSGDTemplate
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from avalanche_mgem.experiment import compose
from avalanche_mgem.experiment.api import execute
from avalanche_mgem.experiment.configuration import config_folder
from avalanche_mgem.runs import Result, UserError, is_complete

Mgem = Callable[..., Any]
STRATEGIES = sorted(path.stem for path in (config_folder() / "strategy").glob("*.yaml"))
SMALL = ["benchmark.n_experiences=3", "samples_per_experience=30", "test_samples_per_experience=20"]
COMMAND = [sys.executable, "-c", "from avalanche_mgem.experiment.main import main; main()"]
SMALL += ["optimizer.momentum=0.9"]


class Cut(BaseException):
    """As SIGKILL does, it leaves the training in the middle."""


@contextmanager
def cut_in(monkeypatch: pytest.MonkeyPatch, number: int) -> Iterator[None]:
    """Cuts a run in the second step of an experience."""
    step = BaseSGDTemplate.optimizer_step

    def cutting(self: Any) -> None:
        if self.clock.train_exp_counter == number and self.clock.train_exp_iterations == 1:
            raise Cut
        step(self)

    with monkeypatch.context() as patch:
        patch.setattr(BaseSGDTemplate, "optimizer_step", cutting)
        with pytest.raises(Cut):
            yield


def drawn() -> tuple[float, ...]:
    return torch.rand(1).item(), random.random(), np.random.rand()


def same(one: Result, other: Result) -> bool:
    """Whether all is equal but the times."""
    rows = [
        [{key: value for key, value in row.items() if not key.startswith("seconds")} for row in r.constraints]
        for r in (one, other)
    ]
    weights = [r.model.state_dict() for r in (one, other)]
    equal = [torch.equal(value, weights[1][name]) for name, value in weights[0].items()]
    matrices = [(r.matrix, r.valid_matrix) for r in (one, other)]
    return matrices[0] == matrices[1] and rows[0] == rows[1] and all(equal) and len(weights[1]) == len(equal)


@pytest.mark.filterwarnings("ignore:__array_wrap__ must accept:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:Call to deprecated function update:DeprecationWarning")
@pytest.mark.parametrize(
    "strategy",
    [
        pytest.param(strategy, marks=[] if strategy in ("dmgem", "replay", "ewc") else [pytest.mark.slow])
        for strategy in (*STRATEGIES, "replay multi-head", "dmgem multi-head", "replay validation")
    ],
)
def test_every_strategy_goes_on_bit_for_bit(
    strategy: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    name, _, kind = strategy.partition(" ")
    words = [f"strategy={name}", *SMALL]
    if kind == "validation":
        words += ["validation=0.1", "gap_patterns_per_exp=3", "gap_every=1"]
    elif kind or name == "er_ace":
        words[1:2] = ["benchmark=split_digits", f"benchmark.return_task_id={bool(kind)}".lower()]
    cfg = compose(*words)
    whole, after_whole = execute(cfg, None), drawn()
    parts = 1 if name == "joint" else len(whole.matrix) - 1
    for number in range(min(parts, 3)):  # and what each attempt has done is kept
        with cut_in(monkeypatch, number):
            execute(cfg, tmp_path / "run")
    result = execute(cfg, tmp_path / "run")
    assert drawn() == after_whole
    assert same(result, whole)
    went_on = [f"mgem: run: goes on after experience {n} of 0..{parts - 1}" for n in (0, 1)]
    assert [line for line in capsys.readouterr().err.splitlines() if "goes on" in line] == (
        [] if parts == 1 else went_on
    )
    assert is_complete(tmp_path / "run")
    assert not list((tmp_path / "run").glob("*checkpoint*"))


@pytest.mark.slow
def test_loggers_go_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cfg = compose("strategy=gem", "logger=[csv,tensorboard,wandb]", "logger.wandb.mode=offline", *SMALL)
    execute(cfg, tmp_path / "whole")
    for number in (1, 2):
        with cut_in(monkeypatch, number):
            execute(cfg, tmp_path / "cut")
    identifier = (tmp_path / "cut/wandb_run_id.txt").read_text()
    execute(cfg, tmp_path / "cut")
    assert (tmp_path / "cut/wandb_run_id.txt").read_text() == identifier
    assert len(list((tmp_path / "cut/wandb").glob(f"offline-run-*-{identifier.strip()}*"))) == 3
    for file in ("csv/training_results.csv", "csv/eval_results.csv"):
        assert (tmp_path / "cut" / file).read_text() == (tmp_path / "whole" / file).read_text()
    shown = []
    for run in ("whole", "cut"):
        events = EventAccumulator(str(tmp_path / run / "tensorboard"), {"scalars": 0}).Reload()
        names = [name for name in events.Tags()["scalars"] if "Time" not in name and "RAM" not in name]
        shown.append({name: [(e.step, e.value) for e in events.Scalars(name)] for name in names})
    assert {name for name in shown[0] if shown[0][name] != shown[1][name]} <= {
        name for name in shown[0] if "seconds" in name.lower()
    }


@pytest.mark.slow
def test_a_killed_command_goes_on(mgem: Mgem, tmp_path: Path) -> None:
    words = ["strategy=dmgem", "benchmark.n_experiences=4", "samples_per_experience=200", "save_model=true"]
    killed = subprocess.Popen(
        [*COMMAND, *words, "hydra.run.dir=run"], cwd=tmp_path, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    deadline = time.monotonic() + 120
    while not (tmp_path / "run/checkpoint.pt").exists():
        assert time.monotonic() < deadline
        time.sleep(0.01)
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    assert not is_complete(tmp_path / "run")
    result = mgem(*words, "hydra.run.dir=run")
    assert re.fullmatch(r"mgem: run: goes on after experience [012] of 0\.\.3\n", result.err)
    whole = execute(compose(*words), tmp_path / "whole")
    matrices = [(tmp_path / run / "accuracy_matrix.csv").read_text() for run in ("run", "whole")]
    assert matrices[0] == matrices[1]
    weights = torch.load(tmp_path / "run/model.pt", weights_only=True)
    expected = whole.model.state_dict()
    assert weights.keys() == expected.keys()
    assert all(torch.equal(weights[name], expected[name]) for name in expected)


def cut_run(folder: Path, monkeypatch: pytest.MonkeyPatch, *words: str) -> None:
    with cut_in(monkeypatch, 2):
        execute(compose("strategy=naive", *SMALL, *words), folder)


def test_a_checkpoint_of_another_configuration_is_refused(
    mgem: Mgem, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cut_run(tmp_path / "run", monkeypatch)
    before = (tmp_path / "run/checkpoint.pt").read_bytes()
    result = mgem("strategy=naive", *SMALL, "seed=1", "hydra.run.dir=run")
    assert result.status == 2
    (line,) = result.err.splitlines()
    assert line.startswith("mgem: ")
    assert "run/checkpoint.pt is of a run with another" in line
    assert "seed (0 there, 1 here)" in line
    assert line.endswith("give another folder, or checkpoint=false to begin anew in this one")
    assert (tmp_path / "run/checkpoint.pt").read_bytes() == before
    # With loggers more is measured.
    refused = mgem("strategy=naive", *SMALL, "logger=csv", "hydra.run.dir=run")
    assert "with another logger (none there, csv here); nothing is overwritten" in refused.err
    # Which files are kept makes no other run.
    again = mgem("strategy=naive", *SMALL, "save_model=true", "hydra.run.dir=run")
    assert (again.status, again.err) == (0, "mgem: run: goes on after experience 1 of 0..2\n")


def test_a_checkpoint_of_another_version_is_refused(
    mgem: Mgem, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cut_run(tmp_path / "run", monkeypatch)
    monkeypatch.setattr("avalanche_mgem.checkpoint._file.FORMAT", 3)
    result = mgem("strategy=naive", *SMALL, "hydra.run.dir=run")
    assert result.status == 2
    assert "has the format 2, and this version of avalanche-mgem reads 3" in result.err
    assert result.err.count("\n") == 1
    assert (tmp_path / "run/checkpoint.pt").exists()


@pytest.mark.parametrize("damaged", [1, 2])
def test_a_damaged_checkpoint_is_said_and_not_used(
    mgem: Mgem, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damaged: int
) -> None:
    whole = execute(compose("strategy=naive", *SMALL), None)
    cut_run(tmp_path / "run", monkeypatch)
    for name in ("checkpoint.pt", "checkpoint.pt.previous")[:damaged]:
        (tmp_path / "run" / name).write_bytes((tmp_path / "run" / name).read_bytes()[:-1])
    result = mgem("strategy=naive", *SMALL, "hydra.run.dir=run")
    assert result.status == 0
    lines = result.err.splitlines()
    assert lines[0].startswith("mgem: run: ")
    assert "checkpoint.pt is damaged: its checksum is another; " in lines[0]
    if damaged == 1:
        assert lines[0].endswith("; the one before is taken")
        assert lines[1:] == ["mgem: run: goes on after experience 0 of 0..2"]
    else:
        assert all(line.endswith("; the run begins anew") for line in lines)
        assert len(lines) == 2
    with (tmp_path / "run/accuracy_matrix.csv").open() as file:
        rows = list(csv.reader(file))[1:]
    assert [[float(value) for value in row] for row in rows] == whole.matrix


def test_a_disk_that_is_full_is_one_line_and_the_run_goes_on(
    mgem: Mgem, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device", "run/checkpoint.pt")

    monkeypatch.setattr("avalanche_mgem.checkpoint._strategy.write_file", full)
    result = mgem("strategy=naive", *SMALL, "hydra.run.dir=run")
    assert result.status == 0
    assert result.err.splitlines() == [
        f"mgem: run: there is no checkpoint after experience {number} of 0..2: run/checkpoint.pt: No space "
        "left on device; the run goes on"
        for number in (0, 1)
    ]


def test_what_cannot_be_pickled_is_said_once(
    mgem: Mgem, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from avalanche_mgem.experiment.progress import ProgressBar

    monkeypatch.setattr(ProgressBar, "__getstate__", lambda self: {"progress": self._progress})
    result = mgem("strategy=naive", *SMALL, "hydra.run.dir=run")
    assert result.status == 0
    (line,) = result.err.splitlines()
    assert line.startswith(
        "mgem: run: there is no checkpoint after experience 0 of 0..2: the strategy's plugin 0 (Progr"
    )
    assert line.endswith("; the run goes on")


def test_without_checkpoints_a_run_begins_anew(
    mgem: Mgem, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cut_run(tmp_path / "run", monkeypatch)
    result = mgem("strategy=naive", *SMALL, "hydra.run.dir=run", "checkpoint=false")
    assert result.status == 0
    assert result.err == (
        "mgem: run: begins anew, because checkpoint=false; the checkpoint in its folder is removed\n"
    )
    assert not list((tmp_path / "run").glob("*checkpoint*"))


def test_an_interrupted_run_says_how_to_go_on(
    mgem: Mgem, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    step = BaseSGDTemplate.optimizer_step

    def interrupted(self: Any) -> None:
        if self.clock.train_exp_counter == 1:
            raise KeyboardInterrupt
        step(self)

    with monkeypatch.context() as patch:
        patch.setattr(BaseSGDTemplate, "optimizer_step", interrupted)
        result = mgem("strategy=naive", *SMALL, "hydra.run.dir=run")
    assert result.status == 130
    assert result.err == "mgem: interrupted; the same command with hydra.run.dir=run goes on\n"
    again = mgem("strategy=naive", *SMALL, "hydra.run.dir=run")
    assert (again.status, again.err) == (0, "mgem: run: goes on after experience 0 of 0..2\n")


def test_a_sweep_goes_on_inside_its_runs(mgem: Mgem, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    words = ("-m", "strategy=naive", "seed=0,1", *SMALL, "hydra.sweep.dir=sweep")
    step = BaseSGDTemplate.optimizer_step

    def failing(self: Any) -> None:
        if self.clock.train_exp_counter == 2:
            raise OSError("the disk is away")
        step(self)

    with monkeypatch.context() as patch:
        patch.setattr(BaseSGDTemplate, "optimizer_step", failing)
        assert mgem(*words).status == 2
    again = mgem(*words)
    assert again.status == 0
    assert again.err.count("goes on after experience 1 of 0..2\n") == 2
    assert len(list((tmp_path / "sweep").glob("*/summary.json"))) == 2
    assert not list((tmp_path / "sweep").glob("*/checkpoint*"))


def test_a_complete_run_that_kept_its_checkpoint_loses_it(mgem: Mgem, tmp_path: Path) -> None:
    words = ("-m", "strategy=naive", "seed=0", *SMALL, "hydra.sweep.dir=sweep")
    assert mgem(*words).status == 0
    (summary,) = (tmp_path / "sweep").glob("*/summary.json")
    (summary.parent / "checkpoint.pt").touch()  # cut between the summary and the end
    assert mgem(*words).status == 0
    assert not (summary.parent / "checkpoint.pt").exists()


def test_the_model_is_kept_where_it_is_asked_for(tmp_path: Path) -> None:
    result = execute(compose("strategy=naive", *SMALL, "save_model=true"), tmp_path / "run")
    weights = torch.load(tmp_path / "run/model.pt", weights_only=True)
    expected = result.model.state_dict()
    assert weights.keys() == expected.keys()
    assert all(torch.equal(weights[name], expected[name]) for name in expected)
    execute(compose("strategy=naive", *SMALL), tmp_path / "plain")
    assert not (tmp_path / "plain/model.pt").exists()
    with pytest.raises(UserError, match="save_model=true needs a folder"):
        execute(compose("strategy=naive", *SMALL, "save_model=true"), None)


def test_results_are_kept_where_the_model_cannot_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path, model: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    monkeypatch.setattr("avalanche_mgem.experiment.api.write_model", full)
    with pytest.raises(
        UserError, match=r"model\.pt: No space left on device; the model is lost, the results"
    ):
        execute(compose("strategy=naive", *SMALL, "save_model=true"), tmp_path / "run")
    assert is_complete(tmp_path / "run")


@pytest.mark.parametrize("key", ["checkpoint", "save_model"])
def test_both_keys_are_checked(tmp_path: Path, key: str) -> None:
    with pytest.raises(UserError, match=f"{key}=sometimes: it must be true or false"):
        execute(compose("strategy=naive", *SMALL, f"{key}=sometimes"), tmp_path / "run")
