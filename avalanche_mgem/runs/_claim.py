"""The promise that a run folder is one process's, and that it is whole or says that it is not."""

import json
import os
import shutil
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from filelock import FileLock, Timeout

from avalanche_mgem.runs._errors import FolderTakenError, UserError
from avalanche_mgem.runs._files import (
    CHECKPOINT_FILES,
    ERROR_FILE,
    KEPT,
    LOCK_FILE,
    OF_HYDRA,
    SUMMARY_FILE,
    UNFINISHED_FILE,
    is_written_by_runs,
)
from avalanche_mgem.runs._whole import write_whole

_PACKAGE = "avalanche-mgem"
_FORMAT = 1
_BEGINNING = json.dumps({"package": _PACKAGE, "format": _FORMAT})[:-1].encode()  # of a mark


@contextmanager
def claimed(folder: Path, *, is_new: bool = False) -> Iterator[None]:
    """Holds a folder for one run, and clears what an earlier attempt has left in it.

    Only names that a run writes are ever removed, and only where a run has left its mark. If the run does not
    end well, a folder that it made is gone again, or keeps what loggers have put there.

    An attempt that was cut and has left a checkpoint keeps it, with what its loggers wrote: the run goes on.
    :func:`clear_attempt` clears it where the run cannot.

    Args:
        folder: of the run.
        is_new: whether the caller has just made the folder, empty.

    Raises:
        UserError: if it holds anything that no run wrote; all of it stays as it is.
        FolderTakenError: if it holds a complete run, or another process runs in it.
    """
    is_new = is_new or not os.path.lexists(folder)
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with _locked(folder):
            if has_checkpoint(folder):
                (folder / ERROR_FILE).unlink(missing_ok=True)
            else:
                clear_attempt(folder)
            _mark(folder)
            try:
                yield
            finally:
                _unmark(folder)
    finally:
        if is_new and folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()


def check_claimable(folder: Path, *, hydra_has_begun: bool = True) -> None:
    """Checks that a run can have the folder, and touches nothing.

    Args:
        folder: of the run.
        hydra_has_begun: whether what Hydra writes before a run is no obstacle.

    Raises:
        UserError: naming what no run wrote.
        FolderTakenError: if it holds a complete run.
    """
    if is_complete(folder):
        raise FolderTakenError(
            f"the run folder {folder} holds a complete run; nothing is overwritten: "
            "give another hydra.run.dir"
        )
    if names := foreign_names(folder, hydra_has_begun=hydra_has_begun):
        more = f" and {len(names) - 1} more" if len(names) > 1 else ""
        raise UserError(f"{folder} holds {names[0]}{more}, which no run wrote; give an empty folder")


def foreign_names(folder: Path, *, hydra_has_begun: bool = True) -> list[str]:
    """What is in a folder and no run wrote: without the mark of a run all but what comes before one."""
    has_mark = is_marked(folder)
    unmarked = {LOCK_FILE} | (OF_HYDRA if hydra_has_begun else frozenset())
    return sorted(
        path.name
        for path in folder.iterdir()
        if not is_written_by_runs(path) or not (has_mark or path.name in unmarked or _is_cut_mark(path))
    )


def is_marked(folder: Path) -> bool:
    """Whether a run of this package has begun here: by what its file says, not by the file's name."""
    file = folder / UNFINISHED_FILE
    if file.is_symlink() or not file.is_file():
        return False
    try:
        mark = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(mark, dict) and (mark.get("package"), mark.get("format")) == (_PACKAGE, _FORMAT)


def _is_cut_mark(file: Path) -> bool:
    """Whether a run was killed while it wrote its mark: the file has the beginning of one, or nothing."""
    if file.name != f"{UNFINISHED_FILE}.tmp":
        return False
    with file.open("rb") as found:
        text = found.read(len(_BEGINNING))
    return _BEGINNING.startswith(text)


def is_complete(folder: Path) -> bool:
    """Whether the folder holds a run that has ended well."""
    return (folder / SUMMARY_FILE).is_file()


def is_running(folder: Path) -> bool:
    """Whether a process holds the folder: the sweep may have been started twice."""
    file = folder / LOCK_FILE
    if not (file.is_file() and is_written_by_runs(file)):
        return False
    try:
        with FileLock(file, timeout=0):
            return False
    except Timeout:
        return True


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    taken = f"another process is running in the run folder {folder}"
    if is_running(folder):
        raise FolderTakenError(taken)
    check_claimable(folder)  # before a lock is made in it
    lock = FileLock(folder / LOCK_FILE, timeout=0)
    try:
        lock.acquire()
    except Timeout as error:
        raise FolderTakenError(taken) from error
    try:
        check_claimable(folder)  # again: another process may have ended here in between
        yield
    finally:
        lock.release()
        (folder / LOCK_FILE).unlink(missing_ok=True)  # on some systems its release leaves it


def _mark(folder: Path) -> None:
    now = datetime.now(UTC).isoformat(timespec="seconds")
    mark = {"package": _PACKAGE, "format": _FORMAT, "host": socket.gethostname(), "pid": os.getpid()}
    write_whole(folder / UNFINISHED_FILE, json.dumps({**mark, "started": now}) + "\n")


def mark_failed(folder: Path) -> None:
    """Leaves the mark in a folder that has none, so that the next attempt may clear it."""
    if not is_marked(folder):
        _mark(folder)


def _unmark(folder: Path) -> None:
    """Takes the mark away from a folder that needs none: it is complete, or nothing else is in it."""
    if not folder.is_dir():  # it vanished in the middle of the run
        return
    if is_complete(folder) or {path.name for path in folder.iterdir()} <= {LOCK_FILE, UNFINISHED_FILE}:
        (folder / UNFINISHED_FILE).unlink(missing_ok=True)


def has_checkpoint(folder: Path) -> bool:
    """Whether an attempt that was cut has left a checkpoint, whatever is in it."""
    return is_marked(folder) and any((folder / name).is_file() for name in CHECKPOINT_FILES)


def clear_attempt(folder: Path) -> None:
    """Removes what an earlier attempt has left; ``check_claimable`` has found nothing else."""
    if not is_marked(folder):
        return
    for path in folder.iterdir():
        if path.name in KEPT or path.name == UNFINISHED_FILE:
            continue
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()


def clear_checkpoints(folder: Path) -> None:
    """Removes the checkpoints of a run that is complete, and needs them no more."""
    for name in CHECKPOINT_FILES:
        for path in (folder / name, folder / f"{name}.tmp"):
            path.unlink(missing_ok=True)
