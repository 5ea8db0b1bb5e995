"""Writing run folders. Each file appears whole, and the summary last."""

import csv
import json
import os
from collections.abc import Mapping
from io import StringIO
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from avalanche_mgem.runs._claim import is_complete, is_foreign
from avalanche_mgem.runs._files import (
    CONFIG_FILE,
    CONSTRAINTS_FILE,
    ENVIRONMENT_FILE,
    ERROR_FILE,
    MATRIX_FILE,
    SUMMARY_FILE,
    UNFINISHED_FILE,
)
from avalanche_mgem.runs._names import CONSTRAINT_METRICS
from avalanche_mgem.runs._result import Result


def write_run(folder: Path, cfg: DictConfig, result: Result, environment: Mapping[str, Any]) -> None:
    """Writes a finished run. Each file appears whole, and ``summary.json`` last: where it is, all is.

    Args:
        folder: a claimed run folder.
        cfg: the configuration as it was used; it is written resolved, with ``output_dir`` as ``"."``,
            because the folder may be moved.
        result: what was measured.
        environment: the contents of ``environment.json``.
    """
    config: Any = OmegaConf.to_container(cfg, resolve=True)
    config["output_dir"] = "."
    _write(folder / CONFIG_FILE, OmegaConf.to_yaml(OmegaConf.create(config)))
    _write(folder / ENVIRONMENT_FILE, _json(environment))
    _write(folder / MATRIX_FILE, _matrix(result))
    if result.constraints:
        _write(folder / CONSTRAINTS_FILE, _constraints(result))
    _write(folder / SUMMARY_FILE, _json(result.summary))


def write_failure(folder: Path, message: str) -> None:
    """Leaves the error of a run that has failed; the next attempt clears it.

    Args:
        folder: of the run.
        message: its first line is what lists of failed runs show.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if not (is_complete(folder) or is_foreign(folder)):
        (folder / UNFINISHED_FILE).touch()
    _write(folder / ERROR_FILE, message + "\n")


def clear_failure(folder: Path) -> None:
    """Forgets that a complete run was refused, when it no longer is."""
    (folder / ERROR_FILE).unlink(missing_ok=True)


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


def _json(value: Mapping[str, Any]) -> str:
    return json.dumps(value, indent=2) + "\n"


def _write(path: Path, text: str) -> None:
    """All or nothing, also when the process dies in between."""
    temporary = path.with_name(path.name + ".tmp")
    with temporary.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())  # or, after a power cut, the name could be there without the contents
    os.replace(temporary, path)
