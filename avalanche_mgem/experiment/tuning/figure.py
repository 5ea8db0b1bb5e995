"""The picture of a study: its trials as lines through their values, and the objective against each value."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.collections import LineCollection
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from avalanche_mgem.experiment.tuning.space import Choices, Range, Space
from avalanche_mgem.experiment.tuning.study import Study
from avalanche_mgem.report.style import PAGE, SETTINGS
from avalanche_mgem.runs import LABELS, VALID_ACC, text

_COLUMNS = 4  # panels side by side
_GREY, _BLUE, _BEST = "#B0B0B0", "#0072B2", "#D55E00"


def write_figure(path: Path, study: Study, trials: pd.DataFrame) -> None:
    """Writes the picture as PDF and PNG.

    Args:
        path: without a suffix.
        study: its space and its best trial.
        trials: its rows of the frame.
    """
    best = study.best
    assert best is not None
    with mpl.rc_context(SETTINGS):
        figure = _draw(study.space, trials, best.number)
        figure.savefig(path.with_suffix(".pdf"), metadata={"CreationDate": None})
        figure.savefig(path.with_suffix(".png"))


def _draw(space: Space, trials: pd.DataFrame, best: int) -> Figure:
    keys = list(space)
    columns = min(_COLUMNS, len(keys))
    rows = math.ceil(len(keys) / columns)
    figure = Figure(figsize=(PAGE, 2.2 + 1.8 * rows), layout="constrained")
    grid = figure.add_gridspec(1 + rows, columns, height_ratios=[1.25, *[1] * rows])
    _lines(figure, figure.add_subplot(grid[0, :]), space, trials, best)
    for number, key in enumerate(keys):
        row, column = divmod(number, columns)
        panel = figure.add_subplot(grid[1 + row, column])
        _points(panel, key, space[key], trials, best)
        if column == 0:
            panel.set_ylabel(LABELS[VALID_ACC])
    handles, labels = panel.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels))
    return figure


def _lines(figure: Figure, axes: Axes, space: Space, trials: pd.DataFrame, best: int) -> None:
    """Parallel coordinates: a line for each trial, coloured by its objective; grey if it was not complete."""
    complete = trials[trials["state"] == "complete"]
    low, high = complete[VALID_ACC].min(), complete[VALID_ACC].max()
    colours = ScalarMappable(Normalize(low, high if high > low else low + 1e-3), "viridis")
    others = trials[trials["state"] != "complete"]
    axes.add_collection(LineCollection(_paths(space, others), colors=_GREY, linewidths=0.5, alpha=0.6))
    ordered = complete.sort_values(VALID_ACC)  # the best on top
    shades = colours.to_rgba(ordered[VALID_ACC].to_numpy())
    axes.add_collection(LineCollection(_paths(space, ordered), colors=shades, linewidths=1.0))
    chosen = trials[trials["trial"] == best]
    axes.add_collection(LineCollection(_paths(space, chosen), colors=_BEST, linewidths=2.0))
    axes.set_xlim(-0.25, len(space) - 1 + 0.45)
    axes.set_ylim(-0.06, 1.06)
    axes.set_xticks(range(len(space)), [_short(key) for key in space])
    axes.set_yticks([])
    axes.grid(visible=False)
    for spine in axes.spines.values():
        spine.set_visible(False)
    for place, part in enumerate(space.values()):
        axes.axvline(place, color="black", linewidth=0.6)
        for height, label in _ticks(part):
            axes.annotate(
                label, (place, height), (3, 0), textcoords="offset points", va="center", fontsize=6,
                bbox={"boxstyle": "square,pad=0.1", "facecolor": "white", "edgecolor": "none", "alpha": 0.7},
            )  # fmt: skip
    figure.colorbar(colours, ax=axes, label=LABELS[VALID_ACC], pad=0.01)


def _points(axes: Axes, key: str, part: Choices | Range, trials: pd.DataFrame, best: int) -> None:
    """The objective against the values of a key."""
    looks: dict[str, dict[str, Any]] = {
        "pruned": {"facecolors": "none", "edgecolors": _GREY, "s": 12},
        "complete": {"color": _BLUE, "s": 12},
    }
    for state, look in looks.items():
        rows = trials[trials["state"] == state]
        axes.scatter(_places(part, rows[key].tolist()), rows[VALID_ACC], label=state, linewidths=0.7, **look)
    row = trials[trials["trial"] == best]
    axes.scatter(
        _places(part, row[key].tolist()),
        row[VALID_ACC],
        color=_BEST,
        marker="*",
        s=50,
        label="best",
        zorder=3,
    )
    failed = trials[trials["state"] == "failed"]
    if not failed.empty:
        axes.scatter(
        _places(part, failed[key].tolist()), [0.03] * len(failed), color="black", marker="x", s=12,
        linewidths=0.7, label="failed", transform=axes.get_xaxis_transform(),
    )  # fmt: skip
    if isinstance(part, Choices):
        values = _ordered(part)
        axes.set_xticks(range(len(values)), [text(value) for value in values])
        axes.set_xlim(-0.5, len(values) - 0.5)
    elif part.kind == "log":
        axes.set_xscale("log")
    axes.set_xlabel(_short(key))


def _paths(space: Space, trials: pd.DataFrame) -> list[list[tuple[float, float]]]:
    heights = [_heights(part, trials[key].tolist()) for key, part in space.items()]
    return [list(enumerate(path)) for path in zip(*heights, strict=True)]


def _places(part: Choices | Range, values: Sequence[Any]) -> list[float]:
    """Where values are on an axis: a choice at its number, a number at itself."""
    if isinstance(part, Range):
        return [float(value) for value in values]
    places = {text(value): float(place) for place, value in enumerate(_ordered(part))}
    return [places[text(_plain(value))] for value in values]


def _heights(part: Choices | Range, values: Sequence[Any]) -> list[float]:
    """The same from 0 to 1."""
    if isinstance(part, Choices):
        last = len(part.values) - 1
        return [place / last if last else 0.5 for place in _places(part, values)]
    scale = math.log if part.kind == "log" else float
    low, high = scale(part.low), scale(part.high)
    return [(scale(value) - low) / (high - low) for value in values]


def _ticks(part: Choices | Range) -> list[tuple[float, str]]:
    if isinstance(part, Choices):
        values: list[Any] = _ordered(part)
    elif part.kind == "log":
        values = [part.low, math.sqrt(part.low * part.high), part.high]
    elif part.kind == "int":
        values = sorted({int(part.low), int(part.low + part.high) // 2, int(part.high)})
    else:
        values = [part.low, (part.low + part.high) / 2, part.high]
    labels = [f"{value:.2g}" if isinstance(part, Range) else text(value) for value in values]
    return list(zip(_heights(part, values), labels, strict=True))


def _ordered(part: Choices) -> list[Any]:
    """Numbers by their size, then the others as they were given."""
    numbers = [value for value in part.values if _is_number(value)]
    return sorted(numbers) + [value for value in part.values if not _is_number(value)]


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _plain(value: Any) -> Any:
    """A cell of a frame as the value that went in: pandas makes its own types, and NaN of None."""
    value = value.item() if hasattr(value, "item") else value
    return None if isinstance(value, float) and math.isnan(value) else value


def _short(key: str) -> str:
    return key.rpartition(".")[2]
