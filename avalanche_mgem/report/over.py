"""The figure of what a setting does: accuracies over its values, and against the seconds that they take."""

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from avalanche_mgem.report.comparisons import Front
from avalanche_mgem.report.panels import grid
from avalanche_mgem.report.results import Results
from avalanche_mgem.report.style import PAGE, Look, looks
from avalanche_mgem.report.tables import COMPARED, results_table
from avalanche_mgem.runs import LABELS, sort_key, text

_HEIGHT, _LINE = 2.3, 0.16  # inches: of a row of panels, and of a line of the legend
_ACROSS = 2  # panels, and columns of the legend


def over_figure(results: Results, axis: Front) -> Figure:
    """ACC, BWD and LA over a setting, and ACC against seconds of training, with 95 % intervals.

    Args:
        results: all runs.
        axis: the setting, and the methods that differ in it only. There is no panel of seconds if a method
            has none, or its runs may have shared their machine with others.
    """
    table = results_table(results).set_index("method")
    families = axis.curves
    look = looks({name: str(results.methods.loc[names[0], "strategy"]) for name, names in families.items()})
    drawn = [method for methods in families.values() for method in methods]
    values = sorted({text(axis.values[name]): axis.values[name] for name in drawn}.values(), key=sort_key)
    places = {text(value): place for place, value in enumerate(values)}
    is_timed = bool(table.loc[drawn, "seconds_train_mean"].notna().all())
    rows = (len(COMPARED) + is_timed + 1) // _ACROSS
    legend_lines = -(-len(families) // _ACROSS)
    figure = Figure(figsize=(PAGE, _HEIGHT * rows + _LINE * legend_lines), layout="constrained")
    panels = grid(figure, len(COMPARED) + is_timed, _ACROSS)
    for axes, metric in zip(panels, COMPARED, strict=False):
        for name, methods in families.items():
            at = np.array([places[text(axis.values[method])] for method in methods], dtype=float)
            _curve(axes, name, look[name], at, table.loc[methods], metric)
        axes.set(xlabel=axis.name, ylabel=LABELS[metric], xticks=range(len(values)), xticklabels=places)
    if is_timed:
        for name, methods in families.items():
            rows_of = table.loc[methods]
            seconds = rows_of["seconds_train_mean"].to_numpy(dtype=float)
            _curve(panels[-1], name, look[name], seconds, rows_of, "acc")
            half = rows_of["seconds_train_half_width"].fillna(0.0)
            acc = rows_of["acc_mean"]
            panels[-1].errorbar(
                seconds, acc, xerr=half, fmt="none", ecolor=look[name].colour, elinewidth=0.6, alpha=0.6
            )
        panels[-1].set(xlabel="seconds of training", ylabel=LABELS["acc"], xscale="log")
    lines = panels[0].get_legend_handles_labels()
    figure.legend(*lines, loc="outside lower center", ncols=_ACROSS, handlelength=3.6)
    return figure


def _curve(axes: Axes, name: str, look: Look, at: np.ndarray, rows: pd.DataFrame, metric: str) -> None:
    """One family, from value to value, with the intervals of its means."""
    mean = rows[f"{metric}_mean"].to_numpy(dtype=float)
    half_width = rows[f"{metric}_half_width"].fillna(0.0).to_numpy(dtype=float)
    (line,) = axes.plot(at, mean, color=look.colour, marker=look.marker, linewidth=0.9, label=name)
    line.set_dashes(look.dashes)
    axes.errorbar(at, mean, half_width, fmt="none", ecolor=look.colour, elinewidth=0.8, alpha=0.6)
