"""The promise that a run folder is one process's, and that it is whole or says that it is not."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from avalanche_mgem.runs._errors import FolderTakenError, UserError
from avalanche_mgem.runs._files import (
    ERROR_FILE,
    LOCK_FILE,
    SUMMARY_FILE,
    UNFINISHED_FILE,
    WANDB_RUN_ID_FILE,
)

_KEPT = {LOCK_FILE, WANDB_RUN_ID_FILE}  # of an earlier attempt: the run of W&B goes on


@contextmanager
def claimed(folder: Path) -> Iterator[None]:
    """Holds a folder for one run, and clears what an earlier attempt has left in it.

    If the run does not end well, the folder is gone, or keeps what loggers have put there.

    Raises:
        UserError: if it holds anything but an attempt to run.
        FolderTakenError: if it holds a complete run, or another process runs in it.
    """
    full = f"the run folder {folder} is not empty; nothing is overwritten: give another hydra.run.dir"
    folder.mkdir(parents=True, exist_ok=True)
    if is_foreign(folder):
        raise UserError(full)
    lock = FileLock(folder / LOCK_FILE, timeout=0)
    try:
        lock.acquire()
    except Timeout as error:
        raise FolderTakenError(f"another process is running in the run folder {folder}") from error
    try:
        if is_complete(folder):
            raise FolderTakenError(full)
        _clear(folder)
        (folder / UNFINISHED_FILE).touch()
        yield
    finally:
        if is_complete(folder) or {path.name for path in folder.iterdir()} <= {LOCK_FILE, UNFINISHED_FILE}:
            (folder / UNFINISHED_FILE).unlink(missing_ok=True)
        lock.release()
        (folder / LOCK_FILE).unlink(missing_ok=True)  # on some systems its release leaves it
        if not any(folder.iterdir()):
            folder.rmdir()


def is_complete(folder: Path) -> bool:
    """Whether the folder holds a run that has ended well."""
    return (folder / SUMMARY_FILE).is_file()


def is_running(folder: Path) -> bool:
    """Whether a process holds the folder: the sweep may have been started twice."""
    if not (folder / LOCK_FILE).is_file():
        return False
    try:
        with FileLock(folder / LOCK_FILE, timeout=0):
            return False
    except Timeout:
        return True


def is_foreign(folder: Path) -> bool:
    """Whether it holds files and no sign of a run: they are not ours to clear."""
    names = {path.name for path in folder.iterdir()}
    return bool(names - {ERROR_FILE}) and names.isdisjoint({LOCK_FILE, UNFINISHED_FILE, SUMMARY_FILE})


def _clear(folder: Path) -> None:
    for path in folder.iterdir():
        if path.name in _KEPT:
            continue
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()
