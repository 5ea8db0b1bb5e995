import json
import os
from pathlib import Path

import pytest
from runs.conftest import write

from avalanche_mgem.runs import (
    FolderTakenError,
    UserError,
    check_claimable,
    claimed,
    is_complete,
    is_marked,
    is_running,
    write_failure,
)

NAMES = (
    ".lock",
    ".mgem.lock",
    ".unfinished",
    ".unfinished.tmp",
    "error.txt",
    "config.yaml",
    "wandb",
    ".hydra",
)


def contents(folder: Path) -> dict[str, str | None]:
    """Everything below a folder, with the text of the files."""
    return {
        str(path.relative_to(folder)): path.read_text() if path.is_file() else None
        for path in sorted(folder.rglob("*"))
    }


def leave_as_killed(run: Path) -> None:
    write_failure(run, "old")
    (run / "error.txt").unlink()
    (run / ".mgem.lock").touch()


def refuse(folder: Path, name: str) -> None:
    before = contents(folder)
    with (
        pytest.raises(UserError, match=f"holds {name}( and [0-9]+ more)?, which no run wrote"),
        claimed(folder),
    ):
        pytest.fail("not reached")
    write_failure(folder, "refused")
    assert contents(folder) == before


def test_a_folder_in_use_is_refused_untouched(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("precious")
    refuse(tmp_path, "mine.txt")


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("text", ["", "{}", '{"package": "mine", "format": 1}', "\x00"])
def test_a_name_alone_does_not_make_a_folder_ours(tmp_path: Path, name: str, text: str) -> None:
    if name in ("wandb", ".hydra"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "run-1").write_text(text)
    else:
        (tmp_path / name).write_text(text)
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis/paper.tex").write_text("precious")
    refuse(tmp_path, r"\S+")


@pytest.mark.parametrize("size", [0, 10, 43, 60, None])
def test_a_run_that_was_killed_while_it_wrote_its_mark_is_no_obstacle(
    tmp_path: Path, size: int | None
) -> None:
    with claimed(tmp_path):
        mark = (tmp_path / ".unfinished").read_text()
        (tmp_path / ".unfinished").rename(tmp_path / "kept")
    (tmp_path / "kept").unlink()
    (tmp_path / ".mgem.lock").touch()
    (tmp_path / ".unfinished.tmp").write_text(mark[:size])
    with claimed(tmp_path):
        assert sorted(os.listdir(tmp_path)) == [".mgem.lock", ".unfinished"]


@pytest.mark.parametrize(
    "text", ["{}", '{"package": "mine", "format": 1}', "\x00", '{"package": "avalanche-mgem2"']
)
def test_the_name_of_a_mark_that_was_cut_is_not_enough(tmp_path: Path, text: str) -> None:
    (tmp_path / ".unfinished.tmp").write_text(text)
    refuse(tmp_path, r"\.unfinished\.tmp")


@pytest.mark.parametrize("text", ["", "{}", '{"package": "mine", "format": 1}', "\x00"])
def test_files_with_the_names_of_ours_are_not_ours(tmp_path: Path, text: str) -> None:
    (tmp_path / ".unfinished").write_text(text)
    (tmp_path / "config.yaml").write_text("precious")
    refuse(tmp_path, r"\.unfinished")


@pytest.mark.parametrize("name", ["paper.tex", "csv/paper.tex", "tensorboard/paper.tex", "wandb/paper.tex"])
def test_what_no_run_wrote_is_kept_where_a_run_has_died(tmp_path: Path, name: str) -> None:
    leave_as_killed(tmp_path)
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text("precious")
    (tmp_path / "config.yaml").write_text("of the run")
    refuse(tmp_path, Path(name).parts[0])


@pytest.mark.parametrize("name", [".unfinished", ".mgem.lock", "config.yaml", "wandb"])
def test_no_run_writes_a_link(tmp_path: Path, name: str) -> None:
    leave_as_killed(tmp_path / "other")
    run = tmp_path / "run"
    leave_as_killed(run)
    (run / name).unlink(missing_ok=True)
    (run / name).symlink_to(tmp_path / "other" / ".unfinished" if name != "wandb" else tmp_path / "other")
    refuse(run, r"\S+")
    assert (run / name).is_symlink()


def test_a_summary_of_something_else_is_kept(tmp_path: Path) -> None:
    (tmp_path / "summary.json").write_text("{}")
    with pytest.raises(FolderTakenError, match="holds a complete run"), claimed(tmp_path):
        pytest.fail("not reached")
    write_failure(tmp_path, "refused")
    assert contents(tmp_path) == {"summary.json": "{}"}


def test_two_runs_cannot_hold_one_folder(tmp_path: Path) -> None:
    run = tmp_path / "run"
    assert not is_complete(run)
    with claimed(run):
        assert is_running(run)
        with pytest.raises(FolderTakenError, match="another process is running"), claimed(run):
            pytest.fail("not reached")
        assert is_running(run)
    run.mkdir()
    (run / ".mgem.lock").touch()  # of a process that has died
    assert not is_running(run)
    with claimed(run):
        assert is_running(run)


def test_a_run_leaves_its_mark(tmp_path: Path) -> None:
    with claimed(tmp_path / "run"):
        assert is_marked(tmp_path / "run")
        mark = json.loads((tmp_path / "run/.unfinished").read_text())
    assert list(mark) == ["package", "format", "host", "pid", "started"]
    assert (mark["package"], mark["pid"]) == ("avalanche-mgem", os.getpid())


def test_what_a_dead_run_has_left_is_cleared(tmp_path: Path) -> None:
    run = tmp_path / "run"
    leave_as_killed(run)
    for name in ("tensorboard/events.out.tfevents.1", "csv/eval_results.csv", "wandb/run-1/files/a"):
        (run / name).parent.mkdir(parents=True)
        (run / name).write_text("old")
    for name in ("error.txt", "config.yaml", "summary.json.tmp"):
        (run / name).write_text("old")
    (run / "wandb_run_id.txt").write_text("abc")
    with claimed(run):
        assert sorted(os.listdir(run)) == [".mgem.lock", ".unfinished", "wandb_run_id.txt"]
        write(run)
    assert not (run / ".unfinished").exists()
    with pytest.raises(FolderTakenError, match="holds a complete run"), claimed(run):
        pytest.fail("not reached")


def test_a_broken_run_keeps_what_loggers_wrote(tmp_path: Path) -> None:
    run = tmp_path / "run"

    def die() -> None:
        (run / "csv").mkdir()
        raise ValueError("x")

    with pytest.raises(ValueError, match="x"), claimed(run):
        die()
    assert sorted(os.listdir(run)) == [".unfinished", "csv"]
    write_failure(run, "why")
    assert (run / "error.txt").read_text() == "why\n"
    (run / "csv/eval_results.csv").touch()
    with claimed(run):
        assert "csv" not in os.listdir(run)


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_a_broken_run_leaves_nothing(tmp_path: Path, error: type[BaseException]) -> None:
    with pytest.raises(error), claimed(tmp_path / "run"):
        raise error
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("name", [".", "empty", "link"])
def test_a_broken_run_leaves_the_users_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "link").symlink_to("empty")
    monkeypatch.chdir(tmp_path / "empty" if name == "." else tmp_path)
    with pytest.raises(ValueError, match="x"), claimed(Path(name)):
        raise ValueError("x")
    assert contents(tmp_path) == {"empty": None, "link": None}
    assert (tmp_path / "link").is_symlink()


def test_a_folder_that_vanishes_hides_no_error(tmp_path: Path) -> None:
    run = tmp_path / "run"

    def vanish() -> None:
        for path in run.iterdir():
            path.unlink()
        run.rmdir()
        raise ValueError("x")

    with pytest.raises(ValueError, match="x"), claimed(run):
        vanish()
    assert not run.exists()


def test_what_hydra_writes_first_is_no_obstacle(tmp_path: Path) -> None:
    (tmp_path / ".hydra").mkdir()
    (tmp_path / ".hydra/config.yaml").write_text("x")
    (tmp_path / "mgem.log").write_text("x")
    check_claimable(tmp_path)
    with pytest.raises(UserError, match=r"holds \.hydra and 1 more"):
        check_claimable(tmp_path, hydra_has_begun=False)
    with claimed(tmp_path):
        assert (tmp_path / ".hydra/config.yaml").read_text() == "x"
