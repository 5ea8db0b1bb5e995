"""Reading run folders, one by one."""

import json
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError  # type: ignore[import-untyped]

from avalanche_mgem.runs._errors import UserError
from avalanche_mgem.runs._files import (
    CONFIG_FILE,
    CONSTRAINTS_FILE,
    ENVIRONMENT_FILE,
    ERROR_FILE,
    MATRIX_FILE,
    SUMMARY_FILE,
    UNFINISHED_FILE,
)
from avalanche_mgem.runs._keys import flatten
from avalanche_mgem.runs._names import COSTS, METRICS

if TYPE_CHECKING:
    import pandas as pd

# A folder with one of these is a run folder.
_SIGNS = {SUMMARY_FILE, ERROR_FILE, MATRIX_FILE, ENVIRONMENT_FILE, UNFINISHED_FILE}


@dataclass(frozen=True, repr=False)
class Run:
    """A complete run, as its folder has it.

    Attributes:
        path: the folder.
        strategy: its name.
        benchmark: its name.
        seed: of the run.
        numbers: metrics and costs; NaN where the run could not have the number.
        config: the configuration by dotted keys.
        environment: versions, machine and source revision, by dotted keys.
        matrix: accuracies [T + 1, T], the untrained model's first; [2, T] of a model trained on all at once.
        constraints: a row for each experience that had constraints, or None.
    """

    path: Path
    strategy: str
    benchmark: str
    seed: int
    numbers: dict[str, float]
    config: dict[str, Any]
    environment: dict[str, Any]
    matrix: np.ndarray
    constraints: "pd.DataFrame | None"

    def __repr__(self) -> str:
        name = f"{self.strategy} on {self.benchmark}, seed {self.seed}"
        return f"Run({name}: ACC {self.numbers['acc']:.3f}, in {self.path})"


def find_runs(folders: Iterable[str | os.PathLike[str]]) -> tuple[list[Path], dict[Path, str]]:
    """Looks for run folders at any depth, and in the given folders themselves.

    Returns:
        The complete ones, and the reason for each that is not: its error, or ``"unfinished"``.

    Raises:
        UserError: for a folder that does not exist.
    """
    complete: dict[Path, Path] = {}  # by the real path: folders may be given twice, or one inside another
    incomplete: dict[Path, tuple[Path, str]] = {}
    for folder in map(Path, folders):
        if not folder.is_dir():
            raise UserError(f"{folder}: there is no such folder")
        for path, files in _walk(folder):
            if SUMMARY_FILE in files:
                complete.setdefault(path.resolve(), path)
            else:
                incomplete.setdefault(path.resolve(), (path, error_line(path) or "unfinished"))
    return list(complete.values()), dict(incomplete.values())


def error_line(folder: Path) -> str | None:
    """The first line of the error that a failed run has left; None if there is no error."""
    if not (folder / ERROR_FILE).is_file():
        return None
    return _text(folder / ERROR_FILE).strip().partition("\n")[0] or "failed without a message"


def _walk(folder: Path) -> Iterator[tuple[Path, set[str]]]:
    for name, folders, files in os.walk(folder):
        if _SIGNS.isdisjoint(files):
            folders[:] = sorted(inner for inner in folders if not inner.startswith("."))
        else:
            folders.clear()  # what loggers have put into a run folder is no run
            yield Path(name), set(files)


def read_run(path: Path) -> Run:
    """Reads the files of a complete run.

    Raises:
        UserError: in one line that begins with the file that is missing or not as it should be.
    """
    summary = _json(path / SUMMARY_FILE)
    for key, kind in (("strategy", str), ("benchmark", str), ("seed", int), ("acc", float)):
        if not isinstance(summary.get(key), kind if kind is not float else (int, float)):
            raise UserError(f"{path / SUMMARY_FILE}: {key!r} must be there and of type {kind.__name__}")
    constraints = path / CONSTRAINTS_FILE
    return Run(
        path=path,
        strategy=summary["strategy"],
        benchmark=summary["benchmark"],
        seed=summary["seed"],
        numbers={name: _number(path / SUMMARY_FILE, summary, name) for name in (*METRICS, *COSTS)},
        config=_config(path / CONFIG_FILE),
        environment=flatten(_json(path / ENVIRONMENT_FILE)),
        matrix=_matrix(path / MATRIX_FILE),
        constraints=_constraints(constraints) if constraints.is_file() else None,
    )


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is no UTF-8 text"
        raise UserError(f"{path}: cannot be read: {reason}") from error


def _json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(_text(path))
    except json.JSONDecodeError as error:
        raise UserError(f"{path}: not valid JSON: {error}") from error
    if not isinstance(value, dict):
        raise UserError(f"{path}: it must hold a JSON object")
    return value


def _number(path: Path, summary: dict[str, Any], name: str) -> float:
    value = summary.get(name)
    if value is None:
        return float("nan")
    if isinstance(value, bool) or not isinstance(value, int | float) or not isfinite(value):
        raise UserError(f"{path}: {name}={value}: it must be a finite number or null")
    return float(value)


def _config(path: Path) -> dict[str, Any]:
    try:
        # Not PyYAML's own loader, for which 1e-05 is a text.
        config = OmegaConf.to_container(OmegaConf.create(_text(path)))
    except (YAMLError, OmegaConfBaseException) as error:
        raise UserError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from error
    if not isinstance(config, dict) or not config:
        raise UserError(f"{path}: it must hold a configuration")
    return flatten({str(key): value for key, value in config.items()})


def _matrix(path: Path) -> np.ndarray:
    matrix = _csv(path).to_numpy(dtype=float)
    rows, experiences = matrix.shape
    if rows not in (2, experiences + 1):
        raise UserError(
            f"{path}: {rows} rows for {experiences} experiences; it must have 2 or {experiences + 1}"
        )
    if not ((matrix >= 0) & (matrix <= 1)).all():
        raise UserError(f"{path}: accuracies must be from 0 to 1, none missing")
    return matrix


def _constraints(path: Path) -> "pd.DataFrame":
    frame = _csv(path)
    if "experience" not in frame or frame["experience"].isna().any():
        raise UserError(f"{path}: it must have a column 'experience' with a number in each row")
    return frame.astype({"experience": int})


def _csv(path: Path) -> "pd.DataFrame":
    import pandas as pd  # here: its import takes a third of a second, which the command's --help saves

    _text(path)
    try:
        frame = pd.read_csv(path, dtype=str)  # pandas 2 would read the last digit of some numbers wrong
    except ValueError as error:  # pandas' errors of parsing are of this type
        raise UserError(f"{path}: not valid CSV: {' '.join(str(error).split())}") from error
    for column in frame:
        try:
            frame[column] = frame[column].astype(float)
        except ValueError as error:
            raise UserError(f"{path}: column {column!r} must hold numbers only") from error
    return frame
