"""The record of a row: one JSON file with the numbers and everything that they depend on."""

import json
import os
import platform
import subprocess
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any

import torch
from threadpoolctl import threadpool_info  # type: ignore[import-untyped]

from avalanche_mgem.experiment._environment import environment
from bench.row import Measured, Options, Row, headline, quartiles

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "docs" / "performance"

Record = dict[str, Any]


def record(row: Row, measured: Measured, options: Options, machine: Record) -> Record:
    """The record of a row that was just measured, as it is written to its JSON file.

    Args:
        row: the row that was measured.
        measured: the numbers.
        options: those of the command line.
        machine: the result of :func:`machine`, read before the first row.
    """
    ratio, spread = headline(row, measured)
    return {
        "row": row.name,
        "ratio": ratio,
        "ratio_quartiles": spread,
        "unit": measured.unit,
        "ours": _summary(measured.ours),
        "other": _summary(measured.other),
        "agreement": None if measured.agreement is None else asdict(measured.agreement),
        "record": dict(measured.record),
        "settings": dict(measured.settings),
        "seed": options.seed,
        "threads": {"torch": torch.get_num_threads(), "blas": _blas_threads()},
        "device": options.device if options.device == "cpu" else torch.cuda.get_device_name(options.device),
        "date": datetime.now(UTC).date().isoformat(),
        **machine,
    }


def machine() -> Record:
    """Source revision, versions and processor."""
    found = environment("cpu")
    del found["git"], found["device"], found["threads"]  # rows differ in their threads
    return {
        "revision": _git("rev-parse", "HEAD"),
        # Results do not depend on docs/, where they are written.
        "dirty": bool(_git("status", "--porcelain", "--", ".", ":!docs")),
        "machine": {"cpu": _cpu(), "cores": os.cpu_count(), "platform": found.pop("platform")},
        "versions": {name: found[name] for name in sorted(found)},
    }


def write(kept: Record) -> None:
    """Replaces the file of the row. The files of other rows stay."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    (FOLDER / f"{kept['row']}.json").write_text(json.dumps(kept, indent=2) + "\n", encoding="utf-8")


def read(row: Row) -> Record | None:
    """The last record of the row, or None."""
    path = FOLDER / f"{row.name}.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None


def _summary(values: list[float]) -> Record:
    return {
        "median": median(values),
        "quartiles": quartiles(values),
        "min": min(values),
        "max": max(values),
        "n": len(values),
    }


def _blas_threads() -> int:
    """Number of threads of NumPy's BLAS."""
    return max(int(pool["num_threads"]) for pool in threadpool_info() if pool["user_api"] == "blas")


def _cpu() -> str:
    """The name of the processor, from the kernel: on Linux ``platform.processor`` is empty."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    fields = dict(line.split(":", 1) for line in reversed(lines) if ":" in line)
    found = {name.strip(): value.strip() for name, value in fields.items()}
    names = [found.get(key, "") for key in ("model name", "cpu family", "model")]
    return "{} (family {}, model {})".format(*names)


def _git(*arguments: str) -> str | None:
    try:
        done = subprocess.run(["git", *arguments], cwd=ROOT, check=True, capture_output=True, text=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()
