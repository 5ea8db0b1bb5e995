"""The run folder: its files, and the promise that a folder is whole or not there."""

import csv
import json
import os
import platform
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from io import StringIO
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf

from avalanche_mgem.experiment.errors import UserError
from avalanche_mgem.experiment.metrics import Matrix, all_metrics
from avalanche_mgem.experiment.runner import Result

_PACKAGES = ("torchvision", "avalanche-lib", "avalanche-mgem", "numpy", "daqp", "quadprog")
_CLAIM = ".running"


@contextmanager
def claimed(folder: Path) -> Iterator[None]:
    """Holds a folder for one run; it is empty again, or gone, if the run does not end well.

    Raises:
        UserError: if there is anything in the folder, be it another run that has just begun.
    """
    folder.mkdir(parents=True, exist_ok=True)
    claim = folder / _CLAIM
    full = UserError(
        f"the run folder {folder} is not empty; nothing is overwritten: give another hydra.run.dir"
    )
    if any(folder.iterdir()):
        raise full
    try:
        claim.open("x").close()
    except FileExistsError as error:
        raise full from error
    try:
        yield
    finally:
        claim.unlink()
        if not any(folder.iterdir()):
            folder.rmdir()


def write_run(
    folder: Path, cfg: DictConfig, result: Result, *, names: dict[str, str], overrides: list[str]
) -> dict[str, Any]:
    """Writes a finished run. Each file appears whole, and ``summary.json`` last: where it is, all is.

    Args:
        folder: an empty run folder.
        cfg: the configuration as it was used.
        result: what was measured.
        names: the chosen ``strategy`` and ``benchmark``.
        overrides: what the user changed on the command line.

    Returns:
        The contents of ``summary.json``.
    """
    summary = {
        **all_metrics(result.matrix),
        "seconds_train": result.seconds_train,
        "seconds_eval": result.seconds_eval,
        "seconds_data": result.seconds_data,
        "peak_memory_mb": peak_memory_mb(cfg.device),
        **names,
        "seed": cfg.seed,
    }
    _write(folder / "config.yaml", OmegaConf.to_yaml(cfg, resolve=True))
    _write(folder / "environment.json", _json({**environment(cfg.device), "overrides": overrides}))
    _write(folder / "accuracy_matrix.csv", _csv(result.matrix))
    _write(folder / "summary.json", _json(summary))
    return summary


def environment(device: str) -> dict[str, Any]:
    """Versions, machine and source revision, as far as results can depend on them."""
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,  # with the CUDA that it was built for
        **{package: _version(package) for package in _PACKAGES},
        "device": torch.cuda.get_device_name(device) if device.startswith("cuda") else device,
        "platform": platform.platform(),
        "threads": torch.get_num_threads(),
        "git": _git(Path(__file__).parent),
    }


def peak_memory_mb(device: str) -> float | None:
    """The largest amount of memory used, in MiB; None on Windows.

    On a GPU torch's allocations; else the whole process, and of a sweep's later runs so far.
    """
    if device.startswith("cuda"):
        return torch.cuda.max_memory_allocated(device) / 2**20
    if sys.platform == "win32":
        return None
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**20 if sys.platform == "darwin" else peak / 2**10  # bytes on macOS, else KiB


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _git(folder: Path) -> dict[str, Any] | None:
    """Revision of the repository that holds the package's source, or null outside of one."""

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(folder), *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    try:
        return {"revision": git("rev-parse", "HEAD"), "dirty": bool(git("status", "--porcelain"))}
    except (OSError, subprocess.CalledProcessError):  # no git, no repository, or no commit yet
        return None


def _csv(matrix: Matrix) -> str:
    text = StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(f"exp_{number}" for number in range(len(matrix[0])))
    writer.writerows(matrix)
    return text.getvalue()


def _json(value: dict[str, Any]) -> str:
    return json.dumps(value, indent=2) + "\n"


def _write(path: Path, text: str) -> None:
    """All or nothing, also when the process dies in between."""
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(text, encoding="utf-8")
    os.replace(temporary, path)
