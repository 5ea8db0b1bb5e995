"""Whether the files of a run folder fit one another, so that a damaged one is seen."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from avalanche_mgem.runs._errors import UserError
from avalanche_mgem.runs._files import CONFIG_FILE, CONSTRAINTS_FILE, MATRIX_FILE, SUMMARY_FILE
from avalanche_mgem.runs._formulas import Matrix, all_metrics

if TYPE_CHECKING:
    import pandas as pd

_ROUNDING = 1e-9  # of a metric, from the order in which numbers are added

# Strategies of this package, whose steps are constrained in every experience after the first.
_CONSTRAINED = {
    f"{module}.{name}"
    for module in ("avalanche_mgem", "avalanche_mgem.strategies")
    for name in ("MGEM", "PMGEM", "DMGEM")
}


def has_constraints(config: Mapping[str, Any], matrix: Matrix | np.ndarray) -> bool:
    """Whether the run must have a ``constraints.csv``.

    Args:
        config: its configuration, by dotted keys.
        matrix: its accuracies.
    """
    is_measured = "gap_every" in config  # a version before this key measured no constraints
    return is_measured and config.get("strategy._target_") in _CONSTRAINED and len(matrix) > 2


def constrained_experiences(matrix: Matrix | np.ndarray) -> range:
    """The experiences of which ``constraints.csv`` has a row: all but the first, which has no past."""
    return range(1, len(matrix) - 1)


def check_agreement(
    folder: Path,
    summary: Mapping[str, Any],
    config: Mapping[str, Any],
    matrix: np.ndarray,
    constraints: "pd.DataFrame | None",
) -> None:
    """Checks the files of a run against one another.

    Args:
        folder: of the run, for the error.
        summary: the contents of ``summary.json``.
        config: those of ``config.yaml``, by dotted keys.
        matrix: accuracies [T + 1, T], or [2, T].
        constraints: the rows of ``constraints.csv``; None without it.

    Raises:
        UserError: in one line that begins with the file that does not fit.
    """
    _check_metrics(folder, summary, matrix)
    _check_names(folder, summary, config)
    experiences = config.get("inferred.n_experiences")
    if experiences is not None and experiences != matrix.shape[1]:
        raise UserError(
            f"{folder / MATRIX_FILE}: it has {matrix.shape[1]} experiences, "
            f"but {CONFIG_FILE} says {experiences}"
        )
    _check_rows(folder, config, matrix, constraints)


def _check_metrics(folder: Path, summary: Mapping[str, Any], matrix: np.ndarray) -> None:
    for name, value in all_metrics(matrix.tolist()).items():
        said = summary.get(name)
        if said is None and value is None:
            continue
        if said is None or value is None or abs(said - value) > _ROUNDING:
            gives, has = ("null" if number is None else f"{number:.9g}" for number in (value, said))
            raise UserError(f"{folder / SUMMARY_FILE}: {name} is {has}, but {MATRIX_FILE} gives {gives}")


def _check_names(folder: Path, summary: Mapping[str, Any], config: Mapping[str, Any]) -> None:
    for key, known in (("seed", "seed"), ("strategy", "names.strategy"), ("benchmark", "names.benchmark")):
        there = config.get(known)
        if there is not None and str(there) != str(summary[key]):
            raise UserError(
                f"{folder / SUMMARY_FILE}: {key} is {summary[key]}, but {CONFIG_FILE} says {there}"
            )


def _check_rows(
    folder: Path, config: Mapping[str, Any], matrix: np.ndarray, constraints: "pd.DataFrame | None"
) -> None:
    path = folder / CONSTRAINTS_FILE
    if constraints is None:
        if has_constraints(config, matrix):
            raise UserError(f"{path}: it is missing, and the strategy has constraints")
        return
    found, wanted = constraints["experience"].tolist(), list(constrained_experiences(matrix))
    if found not in (wanted, [0, *wanted]):
        raise UserError(
            f"{path}: it has rows for {_listed(found)}; it must have one for each experience from 1 to "
            f"{matrix.shape[1] - 1}, in their order"
        )


def _listed(experiences: list[int]) -> str:
    return ", ".join(map(str, experiences)) if experiences else "no experience"
