"""The folder of a report: written whole or not at all."""

import json
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

MANIFEST = "mgem-report.json"  # says what made the folder, and lists its files


def default_folder() -> Path:
    """A new folder below ``reports``."""
    return Path("reports") / datetime.now().strftime("%Y%m%d-%H%M%S")


def check_folder(folder: Path) -> None:
    """Checks that a folder can be written: it is absent, empty, or an older report and nothing else.

    Raises:
        ValueError: naming a file that a report has not made.
    """
    if Path.cwd().is_relative_to(folder.resolve()):
        raise ValueError(
            f"--output {folder}: a report replaces its whole folder; give another than you are in"
        )
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"--output {folder}: it is a file")
    there = _files(folder) if folder.is_dir() else []
    if not there:
        return
    if MANIFEST not in there:
        raise ValueError(f"--output {folder}: the folder is not empty and holds no report; give another")
    try:
        made = {str(name) for name in json.loads((folder / MANIFEST).read_text(encoding="utf-8"))["files"]}
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise ValueError(f"--output {folder}: its {MANIFEST} cannot be read; give another folder") from error
    if others := sorted(set(there) - {MANIFEST, *made}):
        raise ValueError(
            f"--output {folder}: a report replaces the whole folder, and {others[0]} is none of its files; "
            "move it, or give another folder"
        )


@contextmanager
def replacing(folder: Path, command: str, runs: Sequence[str]) -> Iterator[Path]:
    """Gives an empty folder beside the report's, which replaces the report's at the end.

    If anything fails, the report's folder stays as it was.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    fresh = folder.with_name(f".{folder.name}.{os.getpid()}.new")
    old = folder.with_name(f".{folder.name}.{os.getpid()}.old")
    fresh.mkdir()
    try:
        yield fresh
        manifest = {"command": command, "runs": list(runs), "files": _files(fresh)}
        (fresh / MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")
        if folder.exists():
            folder.rename(old)
        fresh.rename(folder)
    finally:
        for rest in (fresh, old):
            shutil.rmtree(rest, ignore_errors=True)


def _files(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if not path.is_dir())
