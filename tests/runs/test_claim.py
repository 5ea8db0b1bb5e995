import os
from pathlib import Path

import pytest
from runs.conftest import write

from avalanche_mgem.runs import FolderTakenError, UserError, claimed, is_complete, is_running, write_failure


def test_a_folder_in_use_is_refused_untouched(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("precious")
    with pytest.raises(UserError, match="is not empty"), claimed(tmp_path):
        pytest.fail("not reached")
    assert os.listdir(tmp_path) == ["mine.txt"]


def test_two_runs_cannot_hold_one_folder(tmp_path: Path) -> None:
    run = tmp_path / "run"
    assert not is_complete(run)
    with claimed(run):
        assert is_running(run)
        with pytest.raises(FolderTakenError, match="another process is running"), claimed(run):
            pytest.fail("not reached")
        assert is_running(run)
    run.mkdir()
    (run / ".lock").touch()  # of a process that has died
    assert not is_running(run)


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


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_a_broken_run_leaves_nothing(tmp_path: Path, error: type[BaseException]) -> None:
    with pytest.raises(error), claimed(tmp_path / "run"):
        raise error
    assert os.listdir(tmp_path) == []
