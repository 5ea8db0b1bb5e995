"""The figure of BWD against LA over a setting such as the memory strength."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import ceil
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from matplotlib.transforms import Bbox

from avalanche_mgem.report.comparisons import Front
from avalanche_mgem.report.panels import grid
from avalanche_mgem.report.pareto import non_dominated
from avalanche_mgem.report.results import Results
from avalanche_mgem.report.style import PAGE, Look, looks
from avalanche_mgem.runs import LABELS, mean_interval, text

_ACROSS = 3  # panels
_WHOLE, _EACH = 3.0, 2.4  # inches: heights of the panel of all fronts, and of a front's own
_COVERED = 5  # cost of a label's place for each point or label that it covers
# Offsets of a label from its point, in typographic points. The first free one is taken.
_PLACES = [
    (radius * np.cos(np.pi * turn / 6), radius * np.sin(np.pi * turn / 6))
    for radius in (8, 12, 17, 23)
    for turn in (1, 11, 5, 7, 2, 10, 4, 8, 0, 6, 3, 9)
]


@dataclass(frozen=True)
class _Curve:
    """A family of methods: its look, means and half-widths [n, 2] of LA and BWD, and the setting's values."""

    look: Look
    means: np.ndarray
    half_widths: np.ndarray
    values: list[str]


def front_figure(results: Results, front: Front) -> Figure | None:
    """BWD against LA: all fronts by their means, then each with its intervals.

    Returns:
        None if no front has two methods with both metrics.
    """
    look = family_looks(results, front)
    drawn = {name: _curve(results, look[name], values) for name, values in front.curves.items()}
    curves = {name: curve for name, curve in drawn.items() if len(curve.means) > 1}
    if not curves:
        return None
    figure, whole, panels = _panels(len(curves))
    whole.set_title("all, by their means")
    for name, curve in curves.items():
        _draw(whole, name, curve)
    whole.margins(0.12)  # room for values beside the points at the edge
    whole.legend(fontsize=6.5, loc="upper left", bbox_to_anchor=(1, 1), handlelength=3.6)
    for axes, (name, curve) in zip(panels, curves.items(), strict=True):
        # Joined fronts are named by their setting; no panel is wide enough for that on one line.
        axes.set_title(
            name.replace(" over ", "\nover ") if len(front.settings) > 1 else f"{name} by {front.name}"
        )
        _draw(axes, name, curve)
        _draw_intervals(axes, curve)
    for axes in panels:
        axes.xaxis.set_major_locator(MaxNLocator(nbins=5))
    whole.xaxis.set_major_locator(MaxNLocator(nbins=8))
    figure.supxlabel(f"{LABELS['la']} (accuracy when learnt)", fontsize=8)
    figure.supylabel(f"{LABELS['bwd']} (change since then)", fontsize=8)
    figure.draw_without_rendering()  # fixes the layout, by which labels are placed
    figure.set_layout_engine("none")
    _label(figure, whole, list(curves.values()))
    for axes, curve in zip(panels, curves.values(), strict=True):
        _label(figure, axes, [curve])
    return figure


def family_looks(results: Results, front: Front) -> dict[str, Look]:
    """The look of each family with more than one method, that of its strategy."""
    strategies = results.methods["strategy"]
    return looks({name: str(strategies[next(iter(values))]) for name, values in front.curves.items()})


def _curve(results: Results, look: Look, values: Mapping[str, Any]) -> _Curve:
    runs = results.runs.dropna(subset=["la", "bwd"])
    by_method = {method: runs[runs["method"] == method] for method in values}
    present = [method for method in values if len(by_method[method])]
    intervals = [
        [mean_interval(by_method[method][axis].tolist()) for axis in ("la", "bwd")] for method in present
    ]
    return _Curve(
        look,
        np.array([[interval.mean for interval in both] for both in intervals], dtype=float).reshape(-1, 2),
        np.array([[interval.half_width or 0.0 for interval in both] for both in intervals]).reshape(-1, 2),
        [text(values[method]) for method in present],
    )


def _panels(number: int) -> tuple[Figure, Axes, list[Axes]]:
    """A panel of the whole width for all fronts, and below it one for each."""
    columns = 2 if number in (2, 4) else min(number, _ACROSS)
    heights = (_WHOLE, _EACH * ceil(number / columns))
    figure = Figure(figsize=(PAGE, sum(heights)), layout="constrained")
    above, below = figure.subfigures(2, 1, squeeze=False, height_ratios=heights)[:, 0]
    whole, panels = above.subplots(), grid(below, number, columns)
    for axes in panels[1:]:
        axes.sharex(panels[0])
        axes.sharey(panels[0])
    return figure, whole, panels


def _draw(axes: Axes, name: str, curve: _Curve) -> None:
    style = curve.look
    (line,) = axes.plot(*curve.means.T, color=style.colour, linewidth=0.9, label=name)
    line.set_dashes(style.dashes)
    line.set_marker(style.marker)
    line.set_markevery([int(index) for index in np.flatnonzero(non_dominated(curve.means))])
    dominated = curve.means[~non_dominated(curve.means)]
    axes.plot(
        *dominated.T, color=style.colour, marker=style.marker, markerfacecolor="white", linestyle="none"
    )


def _draw_intervals(axes: Axes, curve: _Curve) -> None:
    la, bwd = curve.means.T
    half_la, half_bwd = curve.half_widths.T
    colour = curve.look.colour
    axes.errorbar(la, bwd, half_bwd, half_la, fmt="none", ecolor=colour, elinewidth=0.6, alpha=0.45, zorder=1)


def _label(figure: Figure, axes: Axes, curves: Sequence[_Curve]) -> None:
    """Writes the values beside their points, where neither a point nor another value is.

    Beside several curves each value has its curve's colour, and one without a free place is left out.
    """
    renderer = FigureCanvasAgg(figure).get_renderer()  # type: ignore[no-untyped-call]
    scale = figure.dpi / 72
    every = [axes.transData.transform(curve.means) for curve in curves]
    points = np.concatenate(every)
    taken = [Bbox.from_bounds(x - 3 * scale, y - 3 * scale, 6 * scale, 6 * scale) for x, y in points]
    steps = np.linspace(0, 1, 12)[:, None, None]
    lines = [(ends[:-1] + steps * np.diff(ends, axis=0)).reshape(-1, 2) for ends in every]
    along = np.concatenate(lines)
    inside = axes.get_window_extent(renderer)
    is_alone = len(curves) == 1
    values = [(curve, place) for curve in curves for place in range(len(curve.values))]
    for number, (curve, place) in enumerate(values):
        at, value = curve.means[place], curve.values[place]
        label = axes.annotate(value, at, (0, 0), textcoords="offset points", fontsize=6.5)
        label.set(ha="center", va="center", color="black" if is_alone else curve.look.colour)
        size = label.get_window_extent(renderer)
        boxes = [size.translated(x * scale, y * scale) for x, y in _PLACES]
        costs = [
            50 * (not _contains(inside, box))
            + _COVERED * sum(box.overlaps(other) for other in taken)
            + 3 * (_nearest(points, box) != number)  # nearer to another point than to its own
            + sum(box.contains(x, y) for x, y in along)
            for box in boxes
        ]
        best = int(np.argmin(costs))  # the first of the cheapest
        if not is_alone and costs[best] >= _COVERED:
            label.remove()
            continue
        label.set_position(_PLACES[best])
        taken.append(boxes[best])


def _nearest(points: np.ndarray, box: Bbox) -> int:
    center = (box.p0 + box.p1) / 2
    return int(np.argmin(((points - center) ** 2).sum(axis=1)))


def _contains(outer: Bbox, inner: Bbox) -> bool:
    return bool(outer.x0 < inner.x0 and inner.x1 < outer.x1 and outer.y0 < inner.y0 and inner.y1 < outer.y1)
