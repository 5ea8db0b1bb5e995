"""From run folders to a results folder."""

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path

import pandas as pd

from avalanche_mgem.report._document import as_markdown, document
from avalanche_mgem.report.comparisons import (
    ALL_PAIRS,
    Baselines,
    Front,
    by_accuracy,
    family_of_baselines,
    find_axis,
    find_baselines,
    find_fronts,
    front_of_baseline,
    join_fronts,
)
from avalanche_mgem.report.figures import write_figures
from avalanche_mgem.report.load import load_results
from avalanche_mgem.report.notes import comparison_notes
from avalanche_mgem.report.output import check_folder, default_folder, replacing
from avalanche_mgem.report.page import html_table, page
from avalanche_mgem.report.published import published_table
from avalanche_mgem.report.results import Results
from avalanche_mgem.report.sheets import (
    Sheet,
    differences_sheet,
    gap_sheet,
    hypervolume_sheet,
    pairs_sheets,
    published_sheet,
    results_sheet,
    trends_sheet,
)
from avalanche_mgem.report.spelling import latex
from avalanche_mgem.report.tables import (
    Hypervolumes,
    differences_table,
    hypervolumes,
    results_table,
    trends_table,
)

PAGE_FILE = "report.html"


@dataclass(frozen=True, repr=False)
class Report:
    """What was written.

    Attributes:
        folder: of the report.
        results: all runs.
        tables: those of full precision, by their names.
        figures: the PNG files, by their names; a PDF is beside each.
        notes: what to know before comparing.
    """

    folder: Path
    results: Results
    tables: dict[str, pd.DataFrame]
    figures: dict[str, Path]
    notes: list[str]
    _sheets: list[Sheet] = field(default_factory=list)

    def __repr__(self) -> str:
        return f"Report({self.results!r}, tables: {', '.join(self.tables)}, in {self.folder})"

    def _repr_html_(self) -> str:
        """The tables, for a notebook."""
        return "\n".join(map(html_table, self._sheets))


def report(
    *runs: str | os.PathLike[str],
    out: str | os.PathLike[str] | None = None,
    where: Mapping[str, str | Sequence[str]] | None = None,
    baseline: str | None = None,
    front: str | Sequence[str] = (),
    reference: tuple[float, float] | None = None,
    over: str | Sequence[str] = (),
    busy: bool = False,
    html: bool = False,
    command: str = "report",
) -> Report:
    """Reads runs, compares them, and writes what ``mgem-report`` writes: ``report.md``, tables, ``figures/``.

    Args:
        runs: folders, see :func:`~avalanche_mgem.report.load_results`.
        out: a folder for the report; an older report there is replaced whole. None (default) takes a new one
            below ``reports``.
        where: takes only some runs.
        baseline: a method or strategy; None takes ``gem`` if there is one. ``"KEY=VALUE"`` of a setting that
            varies compares each method with the same one at that value. ``"all"`` compares all pairs of
            methods, and is the name of no baseline.
        front: a setting that varies within a strategy, or several, of which each has fronts of its own; none
            takes the memory strength if it does.
        reference: LA and BWD from which the areas of fronts are counted; None: the smallest means.
        over: a setting that varies, for a figure of what it does; several are one axis, where strategies call
            it otherwise.
        busy: whether other work ran beside the runs, so that their seconds are left out.
        html: also writes ``report.html``, one page to send.
        command: the one that the report names.

    Returns:
        Tables as frames, and the paths of the figures.

    Raises:
        ValueError: in one line, for what is wrong with the runs, the folder or the other arguments.

    Example, not run here because the folder is the reader's:
        >>> made = report("runs/sweeps/gamma", baseline="gem", out="results")  # doctest: +SKIP
        >>> made.tables["differences"].query("metric == 'acc'")  # doctest: +SKIP
    """
    folder = default_folder() if out is None else Path(out)
    check_folder(folder)
    results = load_results(*runs, where=where, busy=busy)
    fronts = find_fronts(results.methods, [front] if isinstance(front, str) else front)
    varying = join_fronts(fronts)
    axis = find_axis(results.methods, [over] if isinstance(over, str) else over) if over else None
    along = front_of_baseline(fronts, baseline)
    baselines = None if baseline == ALL_PAIRS else find_baselines(results.methods, along, baseline)
    used = set() if baselines is None else baselines.used
    volumes = _hypervolumes(results, varying, baselines, reference)
    tables = {"results": results_table(results)}
    sheets = {"Results": results_sheet(tables["results"])}
    if results.gap:
        sheets["Generalisation gap"] = gap_sheet(tables["results"], results.runs, results.gap)
    published = published_table(results, tables["results"])
    if len(published):
        tables["published"] = published
        sheets["Published numbers of the same protocol"] = published_sheet(published)
    order = by_accuracy(results.runs)
    compared = list(combinations(order, 2)) if baselines is None else list(baselines.of.items())
    in_files_only: list[Sheet] = []  # all pairs are too many rows to read
    if compared:
        tables["differences"] = differences_table(results, compared)
        listed = differences_sheet(tables["differences"])
        if baselines is None:
            sheets |= pairs_sheets(tables["differences"], order)
            in_files_only.append(listed)
        else:
            sheets["Differences to the baseline"] = listed
    if axis is not None and baselines is not None:
        trends = trends_table(results, axis, baselines.of)
        if len(trends):
            tables["trends"] = trends
            sheets[f"Differences over {axis.names}"] = trends_sheet(trends, axis.names)
    if volumes is not None and varying is not None:
        tables["hypervolumes"] = volumes.table
        sheets["Fronts"] = hypervolume_sheet(volumes, varying.names)
    notes = comparison_notes(results, baselines, varying, volumes)
    with replacing(folder, command, results.runs["path"].tolist()) as fresh:
        _write_tables(fresh, {**tables, "runs": results.runs}, [*sheets.values(), *in_files_only])
        (fresh / "figures").mkdir()
        figures = write_figures(results, varying, fresh / "figures", used, over=axis)
        made = document(results, sheets, figures, notes, command)
        (fresh / "report.md").write_text(as_markdown(made), encoding="utf-8")
        if html:
            (fresh / PAGE_FILE).write_text(page(made, fresh / "figures"), encoding="utf-8")
    paths = {name: folder / "figures" / f"{name}.png" for name in figures}
    return Report(folder, results, tables, paths, notes, list(sheets.values()))


def _hypervolumes(
    results: Results,
    front: Front | None,
    baselines: Baselines | None,
    reference: tuple[float, float] | None,
) -> Hypervolumes | None:
    if front is None:
        if reference is not None:
            raise ValueError("--reference: there is no front whose area it would bound; give --front")
        return None
    family = None if baselines is None else family_of_baselines(front, baselines)
    return hypervolumes(results, front, family, reference)


def _write_tables(folder: Path, tables: Mapping[str, pd.DataFrame], sheets: Iterable[Sheet]) -> None:
    for name, table in tables.items():
        table.to_csv(folder / f"{name}.csv", index=False, lineterminator="\n")
    for sheet in sheets:
        (folder / f"{sheet.name}.tex").write_text(latex(sheet), encoding="utf-8")
