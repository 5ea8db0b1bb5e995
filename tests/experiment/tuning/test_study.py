"""A study goes on after any cut as if there had been none, and processes share it."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf
from optuna.storages.journal import JournalFileBackend

from avalanche_mgem.experiment.tuning import study as module
from avalanche_mgem.experiment.tuning.api import _made
from avalanche_mgem.experiment.tuning.settings import read_settings
from avalanche_mgem.experiment.tuning.space import parse
from avalanche_mgem.experiment.tuning.study import JOURNAL, Storage, Study

SPACE = {
    "optimizer.lr": parse("optimizer.lr", "log(0.001,1)"),
    "strategy.gamma": parse("strategy.gamma", "[0,0.1,0.5]"),
    "strategy.m": parse("strategy.m", "int(1,4)"),
}


class Cut(BaseException):
    """As SIGKILL does, it leaves everything as it is."""


def runs(values: dict[str, Any]) -> Iterator[float]:
    """Stands for three runs: some trials are best, some fall behind, and some fail."""
    for step in range(3):
        if values["optimizer.lr"] > 0.5 and step == 1:
            raise FloatingPointError("the loss is nan")
        yield values["optimizer.lr"] * (1 - values["strategy.gamma"]) + values["strategy.m"] / 10 + step / 100


def make(folder: Path, *words: str) -> list[tuple[Any, ...]]:
    """Makes a study to its end, and gives what there is to know of its trials."""
    folder.mkdir(exist_ok=True)
    module.silence()
    storage = Storage(folder)
    study = Study(storage, "gem", SPACE, read_settings(["tune.trials=14", "tune.seeds=3", *words]), seed=0)
    with storage.working():
        while (found := study.next()) is not None:
            trial, values = found
            _made(study, trial, runs(values), OmegaConf.create())
    return [
        (t.number, t.state.name, t.value, t.params, t.intermediate_values, t.user_attrs.get("reason"))
        for t in study.trials
    ]


@pytest.fixture(scope="module", autouse=True)
def _no_waiting_for_the_disk() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda _: None)
        yield


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[tuple[Any, ...]], int]:
    """The trials of an undisturbed study, and how often it wrote to its journal."""
    folder = tmp_path_factory.mktemp("whole") / "study"
    trials = make(folder)
    return trials, len((folder / JOURNAL).read_text().splitlines())


@contextmanager
def cut_at(write: int, *, torn: bool) -> Iterator[None]:
    """Cuts the process at a write of its journal: before it, or in its middle."""
    append, count = JournalFileBackend.append_logs, 0

    def cutting(self: Any, logs: list[dict[str, Any]]) -> None:
        nonlocal count
        count += 1
        if count < write:
            append(self, logs)
            return
        if torn:
            with Path(self._file_path).open("a") as file:
                file.write('{"op_code":5,"work')
        raise Cut

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(JournalFileBackend, "append_logs", cutting)
        yield


def test_it_ends_with_trials_of_each_kind(whole: tuple[list[tuple[Any, ...]], int]) -> None:
    trials, _ = whole
    assert [number for number, *_ in trials] == list(range(14))
    assert {state for _, state, *_ in trials} == {"COMPLETE", "PRUNED"}
    assert {reason for *_, reason in trials} == {None, "the loss is nan"}


@settings(max_examples=5)
@given(data=st.data(), torn=st.booleans(), cuts=st.integers(1, 2))
def test_a_cut_at_any_write_changes_nothing(
    whole: tuple[list[tuple[Any, ...]], int], tmp_path_factory: pytest.TempPathFactory, data: Any, torn: bool,
    cuts: int,
) -> None:  # fmt: skip
    trials, writes = whole
    folder = tmp_path_factory.mktemp("cut") / "study"
    for _ in range(cuts):
        with cut_at(data.draw(st.integers(1, writes // cuts)), torn=torn), pytest.raises(Cut):
            make(folder)
    assert make(folder) == trials


@pytest.mark.parametrize("sampler", ["random", "tpe"])
def test_the_seed_decides(sampler: str, tmp_path: Path) -> None:
    one, same = (make(tmp_path / name, f"tune.sampler={sampler}", "tune.trials=4") for name in "ab")
    assert one == same
    assert len({str(params) for _, _, _, params, *_ in one}) == 4


def test_a_larger_number_of_trials_goes_on(tmp_path: Path, whole: tuple[list[tuple[Any, ...]], int]) -> None:
    assert make(tmp_path / "study", "tune.trials=5") == whole[0][:5]
    assert make(tmp_path / "study") == whole[0]


def test_without_pruning_every_trial_is_complete_or_failed(tmp_path: Path) -> None:
    trials = make(tmp_path / "study", "tune.prune=false")
    assert all((state == "COMPLETE") == (reason is None) for _, state, *_, reason in trials)


def test_a_trial_ends_between_its_runs_or_is_complete(whole: tuple[list[tuple[Any, ...]], int]) -> None:
    pruned = [steps for _, state, _, _, steps, reason in whole[0] if state == "PRUNED" and reason is None]
    assert pruned
    assert all(len(steps) < 3 for steps in pruned)
    assert all(len(steps) == 3 for _, state, _, _, steps, _ in whole[0] if state == "COMPLETE")


def test_a_trial_of_one_run_is_complete_however_low_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(globals(), "runs", lambda values: iter([values["optimizer.lr"]]))
    assert {state for _, state, *_ in make(tmp_path / "study", "tune.seeds=1")} == {"COMPLETE"}


def test_a_grid_is_made_once_each(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(SPACE, "optimizer.lr")
    monkeypatch.setitem(globals(), "runs", lambda values: iter([values["strategy.gamma"]]))
    trials = make(tmp_path / "study", "tune.sampler=grid", "tune.seeds=1")
    assert {tuple(params.values()) for _, _, _, params, *_ in trials} == {
        (gamma, m) for gamma in (0, 0.1, 0.5) for m in (1, 2, 3, 4)
    }
    assert len(trials) == 12
    assert make(tmp_path / "study", "tune.sampler=grid", "tune.seeds=1") == trials


def test_processes_share_the_trials_and_take_over_from_a_dead_one(tmp_path: Path) -> None:
    one, other = Storage(tmp_path), Storage(tmp_path)
    asked = read_settings(["tune.trials=3"])
    first, second = (Study(storage, "gem", SPACE, asked, seed=0) for storage in (one, other))
    with other.working():
        with one.working():
            made = [study.next() for study in (first, second)]
            assert [found[0].number for found in made if found] == [0, 1]
            second.complete(made[1][0], 0.5)  # type: ignore[index]
            third = second.next()
            assert third is not None
            assert third[0].number == 2
            second.complete(third[0], 0.4)
            assert second.next() is None  # the first is alive, and at the last one
        taken = second.next()
        assert taken is not None
        assert (taken[0].number, taken[1]) == (0, made[0][1])  # type: ignore[index]
        second.complete(taken[0], 0.6)
        assert second.next() is None
    assert second.best is not None
    assert second.best.number == 0
    assert {path.name for path in (tmp_path / ".locks").iterdir()} == {"study", "journal"}
