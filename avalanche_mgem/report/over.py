"""The figure of what a setting does: accuracies over its values, and against the seconds that they take."""

from math import ceil

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter

from avalanche_mgem.report.comparisons import Front
from avalanche_mgem.report.fronts import family_looks
from avalanche_mgem.report.panels import grid
from avalanche_mgem.report.results import Results
from avalanche_mgem.report.style import PAGE, Look
from avalanche_mgem.report.tables import COMPARED, results_table
from avalanche_mgem.runs import LABELS, sort_key, text

_SECONDS = "seconds_train"
_HEIGHT, _LINE = 2.3, 0.16  # inches: of a row of panels, and of a line of the legend
_COLUMNS = 2  # of the legend


def over_figure(results: Results, axis: Front) -> Figure:
    """ACC, BWD and LA over a setting, and ACC against seconds of training, with 95 % intervals.

    Args:
        results: all runs.
        axis: the setting, and the methods that differ in it only. There is no panel of seconds if a method
            has none, or its runs may have shared their machine with others.
    """
    table = results_table(results).set_index("method")
    families = axis.curves
    look = family_looks(results, axis)
    drawn = [method for methods in families.values() for method in methods]
    every = {text(value): value for methods in families.values() for value in methods.values()}
    values = sorted(every.values(), key=sort_key)
    places = {text(value): place for place, value in enumerate(values)}
    is_timed = bool(table.loc[drawn, f"{_SECONDS}_mean"].notna().all())
    number = len(COMPARED) + is_timed
    across = 2 if is_timed else number
    height = _HEIGHT * ceil(number / across) + _LINE * ceil(len(families) / _COLUMNS)
    figure = Figure(figsize=(PAGE, height), layout="constrained")
    panels = grid(figure, number, across)
    for axes, metric in zip(panels, COMPARED, strict=False):
        for name, methods in families.items():
            at = [float(places[text(value)]) for value in methods.values()]
            _curve(axes, name, look[name], np.array(at), None, _means(table.loc[list(methods)], metric))
        axes.set(ylabel=LABELS[metric], xticks=range(len(values)), xticklabels=places)
        axes.set_xlabel(",\n".join(key.rpartition(".")[2] for key in axis.settings))
    if is_timed:
        for name, methods in families.items():
            rows = table.loc[list(methods)]
            _curve(panels[-1], name, look[name], *_means(rows, _SECONDS), _means(rows, "acc"))
        panels[-1].set(xlabel="seconds of training", ylabel=LABELS["acc"], xscale="log")
        panels[-1].xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        panels[-1].xaxis.set_major_formatter("{x:g}")
        panels[-1].xaxis.set_minor_formatter(NullFormatter())
    figure.legend(
        *panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=_COLUMNS, handlelength=3.6
    )
    return figure


def _means(rows: pd.DataFrame, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Means and half-widths; that of a single seed is 0."""
    half_widths = rows[f"{name}_half_width"].fillna(0.0)
    return rows[f"{name}_mean"].to_numpy(dtype=float), half_widths.to_numpy(dtype=float)


def _curve(
    axes: Axes,
    name: str,
    look: Look,
    x: np.ndarray,
    x_half: np.ndarray | None,
    y: tuple[np.ndarray, np.ndarray],
) -> None:
    """One family, from value to value, with the intervals of its means."""
    (line,) = axes.plot(x, y[0], color=look.colour, marker=look.marker, linewidth=0.9, label=name)
    line.set_dashes(look.dashes)
    axes.errorbar(x, *y, x_half, fmt="none", ecolor=look.colour, elinewidth=0.7, alpha=0.6)
