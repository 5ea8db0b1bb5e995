"""Reading run folders, one by one."""

import csv
import json
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from io import StringIO
from math import inf, isfinite, isnan, nan
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError  # type: ignore[import-untyped]

from avalanche_mgem.runs._agree import check_agreement
from avalanche_mgem.runs._errors import UserError
from avalanche_mgem.runs._files import (
    CONFIG_FILE,
    CONSTRAINTS_FILE,
    ENVIRONMENT_FILE,
    ERROR_FILE,
    MATRIX_FILE,
    SUMMARY_FILE,
    UNFINISHED_FILE,
    VALID_MATRIX_FILE,
)
from avalanche_mgem.runs._keys import GROUPS, flatten, without_added
from avalanche_mgem.runs._names import CONSTRAINT_METRICS, COSTS, METRICS
from avalanche_mgem.runs._one_line import one_line, printable
from avalanche_mgem.runs._result import Result

if TYPE_CHECKING:
    import pandas as pd

# A folder with one of these is a run folder.
_SIGNS = {SUMMARY_FILE, ERROR_FILE, MATRIX_FILE, ENVIRONMENT_FILE, UNFINISHED_FILE}

_DEEPEST = 50  # levels of a file: ours have five, and Python's own limit ends in a traceback
_LARGEST_SEED = 2**32 - 1  # NumPy's generator takes no larger one
_LARGEST_NUMBER = 1e300  # JSON has integers that no float holds

# The range of each column of constraints.csv; a cosine may be rounded a little beyond its own.
_SHARE, _POSITIVE, _COSINE = (0.0, 1.0), (0.0, inf), (-1.001, 1.001)
_RANGES = dict.fromkeys(CONSTRAINT_METRICS, _POSITIVE) | {
    "violated_steps": _SHARE,
    "cosine_gradient": _COSINE,
    "cosine_worst": _COSINE,
    "gap_violated": _SHARE,
    "gap_depth": (0.0, 1.001),
    "gap_violated_acting": _SHARE,
    "gap_depth_acting": (0.0, 1.001),
}


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
    try:
        message = (folder / ERROR_FILE).read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        return f"failed, and its {ERROR_FILE} cannot be read: {error.strerror}"
    first = message.strip().partition("\n")[0]
    return one_line(first) if first else "failed without a message"


def _walk(folder: Path) -> Iterator[tuple[Path, set[str]]]:
    for name, folders, files in os.walk(folder):
        if _SIGNS.isdisjoint(files):
            folders[:] = sorted(inner for inner in folders if not inner.startswith("."))
        else:
            folders.clear()  # what loggers have put into a run folder is no run
            yield Path(name), set(files)


def read_run(path: Path) -> Run:
    """Reads the files of a complete run, and checks them against one another.

    Raises:
        UserError: in one line that begins with the file that is missing or not as it should be.
    """
    summary = _shown(_summary(path / SUMMARY_FILE))
    config = _shown(without_added(flatten(read_config(path / CONFIG_FILE))))
    matrix = _matrix(path / MATRIX_FILE)
    constraints = _constraints(path / CONSTRAINTS_FILE) if (path / CONSTRAINTS_FILE).exists() else None
    environment = _shown(flatten(_json(path / ENVIRONMENT_FILE)))
    check_agreement(path, summary, config, matrix, constraints)
    return Run(
        path=path,
        strategy=summary["strategy"],
        benchmark=summary["benchmark"],
        seed=summary["seed"],
        numbers={
            name: nan if summary.get(name) is None else float(summary[name]) for name in (*METRICS, *COSTS)
        },
        config=config,
        environment=environment,
        matrix=matrix,
        constraints=constraints,
    )


def read_result(path: Path) -> Result:
    """What a complete run measured, as it was before it was written; without the model.

    Raises:
        UserError: as :func:`read_run`.
    """
    run = read_run(path)
    memory = run.numbers["peak_memory_mb"]
    rows = [] if run.constraints is None else run.constraints.to_dict("records")
    measured = [{str(key): value for key, value in row.items() if not isnan(value)} for row in rows]
    return Result(
        matrix=run.matrix.tolist(),
        seconds_train=run.numbers["seconds_train"],
        seconds_eval=run.numbers["seconds_eval"],
        seconds_data=run.numbers["seconds_data"],
        peak_memory_mb=None if isnan(memory) else memory,
        names={"strategy": run.strategy, "benchmark": run.benchmark},
        seed=run.seed,
        constraints=[row for row in measured if len(row) > 1],  # the rest were written for completeness
        valid_matrix=_matrix(valid).tolist() if (valid := path / VALID_MATRIX_FILE).is_file() else [],
    )


def read_config(path: Path) -> dict[str, Any]:
    """Reads a ``config.yaml``. Nothing in it is executed: interpolations stay as they are.

    Raises:
        UserError: in one line that begins with the file, if it holds no configuration of a run.
    """

    def parse(text: str) -> Any:
        # Not PyYAML's own loader, for which 1e-05 is a text.
        try:
            config = OmegaConf.to_container(OmegaConf.create(text))
        except AssertionError:  # for YAML that is a number
            return None
        _check_depth(config)
        return config

    config = _parsed(path, "YAML", parse, (YAMLError, OmegaConfBaseException))
    if not isinstance(config, dict) or not config:
        raise UserError(f"{path}: it must hold a configuration")
    flat = flatten({str(key): value for key, value in config.items()})
    for key, kind in (("seed", int), *((f"{group}._target_", str) for group in GROUPS)):
        if type(flat.get(key)) is not kind or flat[key] == "":
            raise UserError(f"{path}: {key!r} must be there and of type {kind.__name__}")
    # It is written last. The first version had none, and the number of experiences at its end.
    is_old = "channels_last" not in flat and "inferred.n_experiences" in flat
    if flat.get("output_dir") is None and not is_old:
        raise UserError(f"{path}: it is cut off: its last key must be 'output_dir'")
    return {str(key): value for key, value in config.items()}


def _summary(path: Path) -> dict[str, Any]:
    summary = _json(path)
    for key, kind in (("strategy", str), ("benchmark", str), ("seed", int)):
        if type(summary.get(key)) is not kind or summary[key] == "":
            raise UserError(f"{path}: {key!r} must be there and of type {kind.__name__}")
    if not 0 <= summary["seed"] <= _LARGEST_SEED:
        raise UserError(f"{path}: seed={summary['seed']}: it must be from 0 to {_LARGEST_SEED}")
    for name in (*METRICS, *COSTS):
        value = summary.get(name)
        if value is None:
            continue
        if type(value) not in (int, float) or not abs(value) < inf or abs(value) > _LARGEST_NUMBER:
            raise UserError(f"{path}: {name}={value}: it must be a finite number or null")
        if name in COSTS and value < 0:
            raise UserError(f"{path}: {name}={value}: it must be at least 0")
    return summary


def _shown(flat: dict[str, Any]) -> dict[str, Any]:
    """Without codes that a terminal would obey: names and values come into tables, figures and messages."""
    return {
        printable(key): printable(value) if isinstance(value, str) else value for key, value in flat.items()
    }


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is no UTF-8 text"
        raise UserError(f"{path}: cannot be read: {reason}") from error


def _parsed(
    path: Path, form: str, parse: Callable[[str], Any], errors: tuple[type[Exception], ...] = ()
) -> Any:
    text = _text(path)
    # A ValueError too for a number of more than 4,300 digits.
    expected: tuple[type[Exception], ...] = (ValueError, *errors)
    try:
        return parse(text)
    except RecursionError as error:
        raise UserError(f"{path}: it is nested more than {_DEEPEST} levels deep") from error
    except expected as error:
        raise UserError(f"{path}: not valid {form}: {one_line(error)}") from error


def _check_depth(value: Any) -> None:
    """Raises RecursionError for what is nested too deeply, without recursion."""
    level = [value]
    for _ in range(_DEEPEST):
        level = [
            inner
            for node in level
            if isinstance(node, dict | list)
            for inner in (node.values() if isinstance(node, dict) else node)
        ]
    if level:
        raise RecursionError


def _json(path: Path) -> dict[str, Any]:
    def parse(text: str) -> Any:
        value = json.loads(text)
        _check_depth(value)
        return value

    value = _parsed(path, "JSON", parse)
    if not isinstance(value, dict):
        raise UserError(f"{path}: it must hold a JSON object")
    return value


def _matrix(path: Path) -> np.ndarray:
    frame = _csv(path)
    rows, experiences = frame.shape
    if list(frame) != [f"exp_{number}" for number in range(experiences)]:
        raise UserError(f"{path}: its columns must be exp_0, exp_1 and so on")
    if rows not in (2, experiences + 1):
        raise UserError(
            f"{path}: {rows} rows for {experiences} experiences; it must have 2 or {experiences + 1}"
        )
    matrix = frame.to_numpy(dtype=float)
    if not ((matrix >= 0) & (matrix <= 1)).all():
        raise UserError(f"{path}: accuracies must be from 0 to 1, none missing")
    return matrix


def _constraints(path: Path) -> "pd.DataFrame":
    frame = _csv(path)
    if "experience" not in frame or (frame["experience"] % 1 != 0).any():
        raise UserError(f"{path}: it must have a column 'experience' with a number in each row")
    for column in frame.columns.drop("experience"):
        low, high = _RANGES.get(column, (-inf, inf))
        values = frame[column].dropna()
        if not values.between(low, high).all():
            ends = f"from {low:.0f} to {high:.0f}" if high < inf else f"at least {low:.0f}"
            raise UserError(f"{path}: {column!r} must be {ends}")
    return frame.astype({"experience": int})


def _csv(path: Path) -> "pd.DataFrame":
    """Numbers in lines of equal length; what is not there is NaN."""
    import pandas as pd  # here: its import takes a third of a second, which the command's --help saves

    lines = _parsed(path, "CSV", lambda text: list(csv.reader(StringIO(text), strict=True)), (csv.Error,))
    if not lines or not lines[0] or len(set(lines[0])) < len(lines[0]):
        raise UserError(f"{path}: not valid CSV: its first line must name the columns, each once")
    header, *rows = lines
    for number, row in enumerate(rows, 2):
        if len(row) != len(header):
            raise UserError(f"{path}: line {number} has {len(row)} values for {len(header)} columns")
    if not _text(path).endswith("\n"):
        raise UserError(f"{path}: its last line is cut off: it does not end in a newline")
    columns = {name: [_cell(path, name, row[place]) for row in rows] for place, name in enumerate(header)}
    return pd.DataFrame(columns, columns=header, dtype=float)


def _cell(path: Path, column: str, cell: str) -> float:
    if not cell:
        return nan
    try:
        value = float(cell)
    except ValueError as error:
        raise UserError(f"{path}: column {column!r} must hold numbers only") from error
    if not isfinite(value):
        raise UserError(f"{path}: column {column!r} must hold finite numbers only")
    return value
