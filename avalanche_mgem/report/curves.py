"""Figures with a curve for each method over the experiences."""

from math import ceil
from textwrap import fill

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from pandas.core.groupby import SeriesGroupBy

from avalanche_mgem.report.results import Results
from avalanche_mgem.report.style import COLUMN, PAGE, look, rank
from avalanche_mgem.runs import LABELS, mean_interval

_TOGETHER = 7  # methods in one panel at most; if there are more, each strategy has a panel
_ACROSS = 3  # panels
_WIDTHS = (20, 12)  # characters of the longest label that lets two, and three, stand side by side
_LABEL = 34  # characters of a line of a label
_LINE = 0.14  # inches, of a legend
_MARGIN = 0.02  # around shares, which lie between 0 and 1, though intervals can be wider
_LIGHTEST = 0.6  # of the way from a strategy's colour to white
_DASHES = ((), (4, 1.5), (1, 1.2), (4, 1.2, 1, 1.2), (7, 2))

_CONSTRAINTS = ("violated_steps", "gap_violated")  # columns of constraints.csv that have a figure


def average_accuracy_figure(results: Results) -> Figure:
    """Mean accuracy on the experiences seen so far, after each of them."""
    seen = results.matrices.query("experience < after")
    values = seen.groupby(["run", "after"])["accuracy"].mean().reset_index()
    return _curves(results, values, "after", "accuracy", ("experiences trained", "mean accuracy on them"))


def constraint_figures(results: Results) -> dict[str, Figure]:
    """What the constraints did in each experience, for each measure that some run has."""
    frame = results.constraints
    figures = {}
    for column in _CONSTRAINTS:
        if column not in frame or not frame[column].notna().any():
            continue
        values = frame.dropna(subset=[column]).assign(trained=lambda rows: rows["experience"] + 1)
        figures[column] = _curves(
            results, values, "trained", column, ("experience in training", LABELS[column])
        )
    return figures


def _curves(results: Results, values: pd.DataFrame, x: str, y: str, labels: tuple[str, str]) -> Figure:
    """Mean over runs with a band of the 95 % interval, in one panel or in one for each strategy."""
    values = values.join(results.runs[["method", "strategy"]], on="run")
    present = set(values["method"])
    methods = {
        str(strategy): [str(name) for name in names.index if name in present]
        for strategy, names in results.methods.groupby("strategy", sort=False)
    }
    methods = {strategy: names for strategy, names in methods.items() if names}
    # Strategies differ in colour and marker, the methods of one strategy in tints and dashes only.
    is_together = sum(map(len, methods.values())) <= max(_TOGETHER, len(methods))
    names = [name for names_of_strategy in methods.values() for name in names_of_strategy]
    across = 1 + sum(max(map(len, names)) <= width for width in _WIDTHS)
    legend_rows = ceil(len(names) / across) if is_together else max(map(len, methods.values()))
    figure, panels = _panels(1 if is_together else len(methods), legend_rows)
    for number, (strategy, members) in enumerate(methods.items()):
        axes = panels[0 if is_together else number]
        for place, name in enumerate(members):
            groups = values[values["method"] == name].groupby(x)[y]
            _curve(axes, strategy, groups, place, len(members))
        if not is_together:
            axes.set_title(strategy)
            _legend(axes, [_without(strategy, name) for name in members], columns=1)
    if is_together:
        _legend(panels[0], names, columns=across)
    for axes in panels:
        axes.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))
        axes.set(xlabel=labels[0], ylabel=labels[1])
        axes.label_outer(remove_inner_ticks=False)
        low, high = axes.get_ylim()
        axes.set_ylim(max(low, -_MARGIN), min(high, 1 + _MARGIN))
    return figure


def _legend(axes: Axes, names: list[str], columns: int) -> None:
    """Puts the legend below the panel, because the bands leave no corner free."""
    lines = axes.get_lines()
    axes.legend(
        lines,
        [fill(name, _LABEL) for name in names],
        loc="upper center",
        bbox_to_anchor=(0.5, 0),
        borderaxespad=4.5,  # in heights of a letter: room for the axis label
        ncols=columns,
        handlelength=2.8,
        fontsize=6.5,
    )


def _panels(number: int, legend_rows: int) -> tuple[Figure, list[Axes]]:
    if number == 1:
        figure = Figure(figsize=(COLUMN, 2.4 + _LINE * legend_rows), layout="constrained")
        return figure, [figure.subplots()]
    rows, columns = ceil(number / _ACROSS), min(number, _ACROSS)
    figure = Figure(figsize=(PAGE, (2.2 + _LINE * legend_rows) * rows), layout="constrained")
    grid = figure.subplots(rows, columns, sharey=True, squeeze=False).flat
    panels = list(grid)
    for empty in panels[number:]:
        empty.set_axis_off()
    return figure, panels[:number]


def _curve(axes: Axes, strategy: str, groups: SeriesGroupBy, place: int, number: int) -> None:  # type: ignore[type-arg]
    """One method's curve: the strategy's colour and marker, with a tint and dashes of its own."""
    means = {float(at): mean_interval(group.tolist()) for at, group in groups}
    at = np.array(list(means))
    mean = np.array([value.mean for value in means.values()], dtype=float)
    half_width = np.array([value.half_width or 0.0 for value in means.values()])
    style = look(strategy)
    colour = _tint(style.colour, _LIGHTEST * place / max(1, number - 1))
    (line,) = axes.plot(at, mean, color=colour, marker=style.marker, linestyle=style.line)
    # Markers of one curve do not hide those of another, where there are enough points to choose from.
    step = max(1, len(at) // 6)
    line.set_markevery((rank(strategy)[0] % step, step))
    if place:
        line.set_dashes(_DASHES[place % len(_DASHES)])
    if len(at) == 1:  # a model that was trained on all at once; a band needs two points
        axes.vlines(at, mean - half_width, mean + half_width, color=colour, linewidth=0.8)
        return
    # Bands of one strategy lie on each other.
    axes.fill_between(
        at, mean - half_width, mean + half_width, color=colour, alpha=0.18 / number, linewidth=0
    )


def _tint(colour: str, share: float) -> tuple[float, float, float]:
    """A colour mixed with white."""
    red, green, blue = (part + share * (1 - part) for part in to_rgb(colour))
    return red, green, blue


def _without(strategy: str, method: str) -> str:
    return method.removeprefix(strategy).strip() or method
