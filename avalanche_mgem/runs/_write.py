"""Writing run folders. Each file appears whole, and the summary last."""

import csv
import json
import shutil
from collections.abc import Mapping
from io import StringIO
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

from omegaconf import DictConfig, OmegaConf

from avalanche_mgem.runs._agree import constrained_experiences, has_constraints
from avalanche_mgem.runs._claim import claimed, foreign_names, is_complete, mark_failed
from avalanche_mgem.runs._errors import UserError
from avalanche_mgem.runs._files import (
    CONFIG_FILE,
    CONSTRAINTS_FILE,
    ENVIRONMENT_FILE,
    ERROR_FILE,
    MATRIX_FILE,
    SUMMARY_FILE,
    VALID_MATRIX_FILE,
)
from avalanche_mgem.runs._formulas import Matrix
from avalanche_mgem.runs._keys import flatten
from avalanche_mgem.runs._names import CONSTRAINT_METRICS
from avalanche_mgem.runs._result import Result
from avalanche_mgem.runs._whole import write_whole
from avalanche_mgem.runs._written import written


def write_run(folder: Path, cfg: DictConfig, result: Result, environment: Mapping[str, Any]) -> None:
    """Writes a finished run. Each file appears whole, and ``summary.json`` last: where it is, all is.

    Args:
        folder: a claimed run folder.
        cfg: the configuration as it was used, of which :func:`written` is written, with ``output_dir`` as
            ``"."``, because the folder may be moved.
        result: what was measured.
        environment: the contents of ``environment.json``.
    """
    config = written(cfg)
    config.pop("output_dir", None)
    config["output_dir"] = "."  # at the end: a file without it is cut off
    write_whole(folder / CONFIG_FILE, OmegaConf.to_yaml(OmegaConf.create(config)))
    write_whole(folder / ENVIRONMENT_FILE, _json(environment))
    write_whole(folder / MATRIX_FILE, _matrix(result.matrix))
    if result.valid_matrix:
        write_whole(folder / VALID_MATRIX_FILE, _matrix(result.valid_matrix))
    if result.constraints or has_constraints(flatten(config), result.matrix):
        write_whole(folder / CONSTRAINTS_FILE, _constraints(result))
    write_whole(folder / SUMMARY_FILE, _json(result.summary))


def keep_run(folder: Path, cfg: DictConfig, result: Result, environment: Mapping[str, Any]) -> str | None:
    """Writes a finished run as :func:`write_run` does, or else somewhere: hours of training are in it.

    If the folder has vanished, it is made anew. If it cannot be written, as on a full disk, the run goes to a
    new folder in the system's temporary folder.

    Returns:
        What the user must know of it, in one line; None if there is nothing.

    Raises:
        UserError: naming the path that could not be written, and where the results are.
    """
    has_vanished = not folder.is_dir()
    try:
        if has_vanished:
            with claimed(folder):
                write_run(folder, cfg, result, environment)
            return f"the run folder {folder} had vanished; it was made anew for the results"
        write_run(folder, cfg, result, environment)
    except (OSError, UserError) as error:
        reason = f"{error.filename}: {error.strerror}" if isinstance(error, OSError) else str(error)
        raise UserError(f"{reason}; {_elsewhere(folder, cfg, result, environment)}") from error
    return None


def _elsewhere(folder: Path, cfg: DictConfig, result: Result, environment: Mapping[str, Any]) -> str:
    """Writes a run to a temporary folder, and says where it is or what is lost."""
    other = None
    try:
        other = Path(mkdtemp(prefix=f"mgem-{folder.name[:60]}-"))
        write_run(other, cfg, result, environment)
    except OSError:
        if other is not None:
            shutil.rmtree(other, ignore_errors=True)
        return (
            f"the temporary folder fails too; all that is left of the results: {json.dumps(result.summary)}"
        )
    return f"the results of this run are in {other}"


def write_failure(folder: Path, message: str) -> None:
    """Leaves the error of a run that has failed; the next attempt clears it.

    In a folder that holds anything that no run wrote, nothing is left.

    Args:
        folder: of the run.
        message: its first line is what lists of failed runs show.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if is_complete(folder):
        if not _is_ours(folder):
            return
    elif foreign_names(folder):
        return
    else:
        mark_failed(folder)
    write_whole(folder / ERROR_FILE, message + "\n")


def clear_failure(folder: Path) -> None:
    """Forgets that a complete run was refused, when it no longer is."""
    (folder / ERROR_FILE).unlink(missing_ok=True)


def _is_ours(folder: Path) -> bool:
    """Whether the summary is that of a run, by what it says."""
    try:
        summary = json.loads((folder / SUMMARY_FILE).read_text(encoding="utf-8"))
    except ValueError:
        return False
    return isinstance(summary, dict) and summary.keys() >= {"strategy", "benchmark", "seed", "acc"}


def _matrix(matrix: Matrix) -> str:
    text = StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(f"exp_{number}" for number in range(len(matrix[0])))
    writer.writerows(matrix)
    return text.getvalue()


def _constraints(result: Result) -> str:
    text = StringIO()
    writer = csv.DictWriter(text, ["experience", *CONSTRAINT_METRICS], lineterminator="\n")
    writer.writeheader()
    rows = {row["experience"]: row for row in result.constraints}
    # A row too for an experience whose steps nothing constrained, because it repeats all that came before:
    # so a file that lacks a row is known to be damaged.
    for number in constrained_experiences(result.matrix):
        rows.setdefault(number, {"experience": number})
    writer.writerows(rows[number] for number in sorted(rows))
    return text.getvalue()


def _json(value: Mapping[str, Any]) -> str:
    return json.dumps(value, indent=2) + "\n"
