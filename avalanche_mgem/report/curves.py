"""Figures with a curve for each method over the experiences."""

from collections.abc import Collection, Sequence
from math import ceil
from textwrap import fill
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.textpath import TextPath
from matplotlib.ticker import MaxNLocator
from pandas.core.groupby import SeriesGroupBy

from avalanche_mgem.report.panels import grid, label_outer
from avalanche_mgem.report.results import Results
from avalanche_mgem.report.style import COLUMN, PAGE, Look, looks, rank
from avalanche_mgem.runs import LABELS, mean_interval

_TOGETHER = 7  # methods in one panel at most; if there are more, each strategy has a panel
_BANDS = 6  # in one panel at most: more hide each other
_ACROSS = 3  # panels
_COLUMNS = 3  # of a legend at most
_LETTERS, _HANDLE = 6.5, 3.6  # of a legend: points, and letters of the drawn piece of a line
_LABEL = 34  # characters of a line of a label
_LINE = 0.14  # inches, of a legend
_MARGIN = 0.02  # around shares, which lie between 0 and 1

_CONSTRAINTS = ("violated_steps", "gap_violated")  # columns of constraints.csv that have a figure


def average_accuracy_figure(results: Results, first: Collection[str] = ()) -> Figure:
    """Mean accuracy on the experiences seen so far, after each of them.

    Args:
        results: all runs.
        first: methods that have a band in any case, such as baselines.
    """
    seen = results.matrices.query("experience < after")
    values = seen.groupby(["run", "after"])["accuracy"].mean().reset_index()
    values["experience"] = values["after"] - 1
    labels = ("after experience", "mean accuracy on the\nexperiences so far")
    return _curves(results, values, "accuracy", labels, first)


def constraint_figures(results: Results, first: Collection[str] = ()) -> dict[str, Figure]:
    """What the constraints did in each experience, for each measure that some run has.

    Args:
        results: all runs.
        first: methods that have a band in any case, such as baselines.
    """
    frame = results.constraints
    figures = {}
    for column in _CONSTRAINTS:
        if column not in frame or not frame[column].notna().any():
            continue
        values = frame.dropna(subset=[column])
        figures[column] = _curves(results, values, column, ("experience in training", LABELS[column]), first)
    return figures


def _curves(
    results: Results, values: pd.DataFrame, column: str, labels: tuple[str, str], first: Collection[str]
) -> Figure:
    """Mean over runs with a band of the 95 % interval, in one panel or in one for each strategy."""
    values = values.join(results.runs["method"], on="run")
    present = set(values["method"])
    methods = {
        str(strategy): [str(name) for name in names.index if name in present]
        for strategy, names in results.methods.groupby("strategy", sort=False)
    }
    methods = {strategy: names for strategy, names in methods.items() if names}
    is_together = sum(map(len, methods.values())) <= max(_TOGETHER, len(methods))
    names = [name for names_of_strategy in methods.values() for name in names_of_strategy]
    in_panels = [names] if is_together else list(methods.values())
    style = looks({str(name): str(strategy) for name, strategy in results.methods["strategy"].items()})
    across = _side_by_side(names) if is_together else 1
    shown = [
        members
        if is_together
        else [_without(str(results.methods.loc[name, "strategy"]), name) for name in members]
        for members in in_panels
    ]
    figure, panels, columns = _panels(len(in_panels), max(_lines(labels, across) for labels in shown))
    for axes, members, names_of_panel in zip(panels, in_panels, shown, strict=True):
        banded = _with_bands(members, first)
        for name in members:
            groups = values[values["method"] == name].groupby("experience")[column]
            strategy = str(results.methods.loc[name, "strategy"])
            of_strategy = len(banded.intersection(methods[strategy]))
            _curve(axes, style[name], rank(strategy)[0], groups, 0.18 / of_strategy if name in banded else 0)
        strategy = str(results.methods.loc[members[0], "strategy"])
        if not is_together:
            axes.set_title(strategy)
            # Below the panel, because bands leave no corner free, with room in letters for the axis label.
            place = {"loc": "upper center", "bbox_to_anchor": (0.5, 0), "borderaxespad": 4.5}
            _legend(axes, axes.get_lines(), names_of_panel, **place)
        axes.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))
    low, high = panels[0].get_ylim()  # which all share; set earlier, it would stay that of the first
    panels[0].set_ylim(max(low, -_MARGIN), min(high, 1 + _MARGIN))
    label_outer(panels, columns, *labels)
    if is_together:
        _legend(figure, panels[0].get_lines(), names, loc="outside lower center", ncols=across)
    return figure


def _lines(names: Sequence[str], across: int) -> int:
    """The lines of text of a legend's longest column; Matplotlib fills one column after the other."""
    rows = ceil(len(names) / across)
    lines = [fill(name, _LABEL).count("\n") + 1 for name in names]
    return max(sum(lines[start : start + rows]) for start in range(0, len(lines), rows))


def _side_by_side(names: Sequence[str]) -> int:
    """How many labels of a legend fit beside each other in the width of a column."""
    longest = max(TextPath((0, 0), fill(name, _LABEL), size=_LETTERS).get_extents().width for name in names)
    beside = mpl.rcParams["legend.handletextpad"], mpl.rcParams["legend.columnspacing"]
    one = longest + (_HANDLE + sum(beside)) * _LETTERS
    return max(1, min(_COLUMNS, int(COLUMN * 72 // one)))


def _with_bands(members: Sequence[str], first: Collection[str]) -> set[str]:
    """The methods of a panel that have a band: some first, then in the order of tables."""
    ordered = [*(name for name in members if name in first), *(name for name in members if name not in first)]
    return set(ordered[:_BANDS])


def _legend(of: Axes | Figure, lines: Sequence[Line2D], names: Sequence[str], **place: Any) -> None:
    labels = [fill(name, _LABEL) for name in names]
    of.legend(list(lines), labels, handlelength=_HANDLE, fontsize=_LETTERS, **place)


def _panels(number: int, legend_lines: int) -> tuple[Figure, list[Axes], int]:
    if number == 1:
        figure = Figure(figsize=(COLUMN, 2.4 + _LINE * legend_lines), layout="constrained")
        return figure, grid(figure, 1, 1), 1
    rows, columns = ceil(number / _ACROSS), min(number, _ACROSS)
    figure = Figure(figsize=(PAGE, (2.2 + _LINE * legend_lines) * rows), layout="constrained")
    return figure, grid(figure, number, columns, sharey=True), columns


def _curve(axes: Axes, look: Look, place: int, groups: SeriesGroupBy, alpha: float) -> None:  # type: ignore[type-arg]
    """One method's curve, with a band if ``alpha`` is above 0; ``place`` is that of its markers."""
    means = {float(at): mean_interval(group.tolist()) for at, group in groups}
    at = np.array(list(means))
    mean = np.array([value.mean for value in means.values()], dtype=float)
    half_width = np.array([value.half_width or 0.0 for value in means.values()])
    low, high = (np.clip(end, 0, 1) for end in (mean - half_width, mean + half_width))  # a share's interval
    (line,) = axes.plot(at, mean, color=look.colour, marker=look.marker)
    line.set_dashes(look.dashes)
    # Markers of one curve do not hide those of another, where there are enough points to choose from.
    step = max(1, len(at) // 6)
    line.set_markevery((place % step, step))
    if not alpha:
        return
    if len(at) == 1:  # a model that was trained on all at once; a band needs two points
        axes.vlines(at, low, high, color=look.colour, linewidth=0.8)
        return
    axes.fill_between(at, low, high, color=look.colour, alpha=alpha, linewidth=0)


def _without(strategy: str, method: str) -> str:
    return method.removeprefix(strategy).strip() or method
