"""The run folder: its files, and the promise that a folder is whole, or says that it is not."""

import csv
import json
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from io import StringIO
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from omegaconf import DictConfig, OmegaConf

from avalanche_mgem.experiment.environment import environment
from avalanche_mgem.experiment.errors import FolderTakenError, UserError
from avalanche_mgem.experiment.runner import Result
from avalanche_mgem.experiment.sweep import ERROR_FILE, LOCK, SUMMARY, UNFINISHED
from avalanche_mgem.metrics import CONSTRAINT_METRICS

_KEPT = {LOCK, "wandb_run_id.txt"}  # of an earlier attempt: the W&B run goes on

# What a run may have been made with and still be the same run.
_OF_THE_MACHINE = {"device", "dataset_root", "eval_mb_size", "output_dir"}


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
    if _is_foreign(folder):
        raise UserError(full)
    lock = FileLock(folder / LOCK, timeout=0)
    try:
        lock.acquire()
    except Timeout as error:
        raise FolderTakenError(f"another process is running in the run folder {folder}") from error
    try:
        if is_complete(folder):
            raise FolderTakenError(full)
        _clear(folder)
        (folder / UNFINISHED).touch()
        yield
    finally:
        if is_complete(folder) or {path.name for path in folder.iterdir()} <= {LOCK, UNFINISHED}:
            (folder / UNFINISHED).unlink(missing_ok=True)
        lock.release()
        (folder / LOCK).unlink(missing_ok=True)  # on some systems its release leaves it
        if not any(folder.iterdir()):
            folder.rmdir()


def is_complete(folder: Path) -> bool:
    """Whether the folder holds a run that has ended well."""
    return (folder / SUMMARY).is_file()


def _is_foreign(folder: Path) -> bool:
    """Whether it holds files and no sign of a run: they are not ours to clear."""
    names = {path.name for path in folder.iterdir()}
    return bool(names - {ERROR_FILE}) and names.isdisjoint({LOCK, UNFINISHED, SUMMARY})


def check_same_run(folder: Path, cfg: DictConfig) -> None:
    """Checks that a complete run was made with this configuration, so that it need not be run again.

    Raises:
        UserError: naming what differs.
    """
    saved = OmegaConf.load(folder / "config.yaml")
    asked = cfg.copy()
    asked.inferred = OmegaConf.select(saved, "inferred")  # known only once the benchmark is built
    there, here = _flat(saved), _flat(asked)
    different = [
        f"{key} ({there.get(key, 'absent')} there, {here.get(key, 'absent')} here)"
        for key in sorted(there | here)
        if there.get(key, "absent") != here.get(key, "absent")
    ]
    if different:
        raise UserError(
            f"the folder {folder} holds a run with another {', '.join(different)}; nothing is overwritten: "
            "give another hydra.sweep.dir"
        )


def write_run(
    folder: Path, cfg: DictConfig, result: Result, *, overrides: Sequence[str], job: int | None = None
) -> None:
    """Writes a finished run. Each file appears whole, and ``summary.json`` last: where it is, all is.

    Args:
        folder: a claimed run folder.
        cfg: the configuration as it was used.
        result: what was measured.
        overrides: what the user changed.
        job: number of the run in its sweep.
    """
    cfg = cfg.copy()
    cfg.output_dir = "."  # the folder may be moved
    made_by = {**environment(cfg.device), "overrides": list(overrides), "job": job}
    _write(folder / "config.yaml", OmegaConf.to_yaml(cfg, resolve=True))
    _write(folder / "environment.json", _json(made_by))
    _write(folder / "accuracy_matrix.csv", _matrix(result))
    if result.constraints:
        _write(folder / "constraints.csv", _constraints(result))
    _write(folder / SUMMARY, _json(result.summary))


def write_failure(folder: Path, message: str) -> None:
    """Leaves the error of a run that has failed; the next attempt clears it."""
    folder.mkdir(parents=True, exist_ok=True)
    if not (is_complete(folder) or _is_foreign(folder)):
        (folder / UNFINISHED).touch()
    _write(folder / ERROR_FILE, message + "\n")


def clear_failure(folder: Path) -> None:
    """Forgets that a complete run was refused, when it no longer is."""
    (folder / ERROR_FILE).unlink(missing_ok=True)


def _clear(folder: Path) -> None:
    for path in folder.iterdir():
        if path.name in _KEPT:
            continue
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()


def _flat(cfg: Any) -> dict[str, Any]:
    """The values by their dotted keys, without those that make no other run."""
    values: dict[str, Any] = {}

    def walk(node: Any, prefix: str) -> None:
        for key, value in node.items():
            if key in _OF_THE_MACHINE or prefix + key == "logger":
                continue
            if isinstance(value, dict):
                walk(value, f"{prefix}{key}.")
            else:
                values[prefix + key] = value

    walk(OmegaConf.to_container(cfg, resolve=True), "")
    return values


def _matrix(result: Result) -> str:
    text = StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(f"exp_{number}" for number in range(len(result.matrix[0])))
    writer.writerows(result.matrix)
    return text.getvalue()


def _constraints(result: Result) -> str:
    text = StringIO()
    writer = csv.DictWriter(text, ["experience", *CONSTRAINT_METRICS], lineterminator="\n")
    writer.writeheader()
    writer.writerows(result.constraints)
    return text.getvalue()


def _json(value: dict[str, Any]) -> str:
    return json.dumps(value, indent=2) + "\n"


def _write(path: Path, text: str) -> None:
    """All or nothing, also when the process dies in between."""
    temporary = path.with_name(path.name + ".tmp")
    with temporary.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())  # or, after a power cut, the name could be there without the contents
    os.replace(temporary, path)
