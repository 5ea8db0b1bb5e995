"""Versions, machine and source, on which results can depend; and the memory that a run uses."""

import platform
import subprocess
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from joblib import cpu_count  # type: ignore[import-untyped]

_PACKAGES = ("torchvision", "avalanche-lib", "avalanche-mgem", "numpy", "daqp", "quadprog")


def environment(device: str) -> dict[str, Any]:
    """Versions, machine and source revision, as far as results can depend on them."""
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,  # with its CUDA, as in 2.15.0+cu132
        **{package: _version(package) for package in _PACKAGES},
        "device": torch.cuda.get_device_name(device) if device.startswith("cuda") else device,
        "platform": platform.platform(),
        "threads": torch.get_num_threads(),
        "git": _git(Path(__file__)),
    }


ALONE = {"name": None, "runs_at_once": 1}
"""The launcher of a run that no sweep has started."""


def launcher(config: Mapping[str, Any]) -> dict[str, Any]:
    """Which launcher makes the runs of a sweep, and how many of them at the same time.

    Args:
        config: Hydra's configuration of its launcher.

    Returns:
        Its ``name``, and ``runs_at_once``, the most runs at the same time; None where only the cluster knows.
    """
    name = str(config["_target_"]).rpartition(".")[2].removesuffix("Launcher").lower()
    if name == "basic":
        return {"name": name, "runs_at_once": 1}
    if name == "joblib":
        jobs = config.get("n_jobs", -1)  # -1 is all cores, -2 all but one
        return {"name": name, "runs_at_once": jobs if jobs > 0 else max(1, cpu_count() + 1 + jobs)}
    return {"name": name, "runs_at_once": None}


def reset_peak_memory() -> None:
    """Starts :func:`peak_memory_mb` again from the memory in use, so that each run of a sweep has its own."""
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        for number in range(torch.cuda.device_count()):
            torch.cuda.reset_peak_memory_stats(number)
    if platform.system() == "Linux":
        try:
            Path("/proc/self/clear_refs").write_text("5")  # proc(5): resets VmHWM
        except OSError:  # some containers forbid it: then the peak is that of all runs of the process so far
            return


def peak_memory_mb(device: str) -> float | None:
    """The largest amount of memory used, in MiB; None on Windows.

    On a GPU torch's allocations; else the whole process, interpreter and libraries included. On macOS it is
    that of all runs of the process so far.
    """
    if device.startswith("cuda"):
        return torch.cuda.max_memory_allocated(device) / 2**20
    if platform.system() == "Linux":
        status = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) for line in status if line.startswith("VmHWM")) / 2**10
    if platform.system() == "Windows":
        return None
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20  # bytes on macOS


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _git(file: Path) -> dict[str, Any] | None:
    """Revision of the repository that holds the file; None without one, as in a virtual environment."""

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(file.parent), *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    try:
        git("ls-files", "--error-unmatch", file.name)
        return {"revision": git("rev-parse", "HEAD"), "dirty": bool(git("status", "--porcelain"))}
    except (OSError, subprocess.CalledProcessError):  # no git, no repository of this file, or no commit
        return None
