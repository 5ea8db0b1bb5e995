"""From run folders to a results folder."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from avalanche_mgem.report._document import document
from avalanche_mgem.report.comparisons import Front, find_baselines, find_front
from avalanche_mgem.report.figures import write_figures
from avalanche_mgem.report.load import load_results
from avalanche_mgem.report.notes import comparison_notes
from avalanche_mgem.report.output import check_folder, replacing
from avalanche_mgem.report.results import Results
from avalanche_mgem.report.sheets import (
    Sheet,
    differences_sheet,
    hypervolume_sheet,
    latex,
    results_sheet,
)
from avalanche_mgem.report.tables import Hypervolumes, differences_table, hypervolumes, results_table


@dataclass(frozen=True, repr=False)
class Report:
    """What was written.

    Attributes:
        results: all runs.
        tables: those of full precision, by their names.
    """

    results: Results
    tables: dict[str, pd.DataFrame]

    def __repr__(self) -> str:
        return f"Report({self.results!r}, tables: {', '.join(self.tables)})"


def write_report(
    runs: Sequence[Path],
    folder: Path,
    *,
    where: Mapping[str, Sequence[str]] | None = None,
    baseline: str | None = None,
    front: str | None = None,
    reference: tuple[float, float] | None = None,
    command: str = "write_report",
) -> Report:
    """Reads runs, compares them, and writes ``report.md``, CSV and LaTeX tables, and ``figures/``.

    Args:
        runs: folders, see :func:`~avalanche_mgem.report.load_results`.
        folder: for the report; an older report there is replaced whole.
        where: takes only some runs.
        baseline: a method or strategy; None takes ``gem``.
        front: a setting that varies within a strategy; None takes the memory strength if it does.
        reference: LA and BWD from which the areas of fronts are counted; None: the smallest means.
        command: the one that the report names.

    Raises:
        ValueError: in one line, for what is wrong with the runs, the folder or the other arguments.
    """
    check_folder(folder)
    results = load_results(*runs, where=where)
    varying = find_front(results.methods, front)
    baselines = find_baselines(results.methods, varying, baseline)
    volumes = _hypervolumes(results, varying, baselines.of, reference)
    tables = {"results": results_table(results)}
    sheets = {"Results": results_sheet(tables["results"])}
    if baselines.of:
        tables["differences"] = differences_table(results, baselines.of)
        sheets["Differences to the baseline"] = differences_sheet(tables["differences"])
    if volumes is not None and varying is not None:
        tables["hypervolumes"] = volumes.table
        sheets["Fronts"] = hypervolume_sheet(volumes, varying.name)
    notes = comparison_notes(results, baselines, varying, volumes)
    with replacing(folder, command, results.runs["path"].tolist()) as fresh:
        _write_tables(fresh, {**tables, "runs": results.runs}, sheets)
        (fresh / "figures").mkdir()
        figures = write_figures(results, varying, fresh / "figures", set(baselines.of.values()))
        text = document(results, sheets, figures, notes, command)
        (fresh / "report.md").write_text(text, encoding="utf-8")
    return Report(results, tables)


def _hypervolumes(
    results: Results,
    front: Front | None,
    baselines: Mapping[str, str],
    reference: tuple[float, float] | None,
) -> Hypervolumes | None:
    if front is None:
        if reference is not None:
            raise ValueError("--reference: there is no front whose area it would bound; give --front")
        return None
    used = set(baselines.values())
    family = next((name for name, methods in front.curves.items() if used.intersection(methods)), None)
    return hypervolumes(results, front, family, reference)


def _write_tables(folder: Path, tables: Mapping[str, pd.DataFrame], sheets: Mapping[str, Sheet]) -> None:
    for name, table in tables.items():
        table.to_csv(folder / f"{name}.csv", index=False, lineterminator="\n")
    for sheet in sheets.values():
        (folder / f"{sheet.name}.tex").write_text(latex(sheet), encoding="utf-8")
