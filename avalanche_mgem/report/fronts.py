"""The figure of BWD against LA over a setting such as the memory strength."""

from dataclasses import dataclass
from math import ceil

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from matplotlib.transforms import Bbox

from avalanche_mgem.report.comparisons import Front
from avalanche_mgem.report.pareto import non_dominated
from avalanche_mgem.report.results import Results
from avalanche_mgem.report.style import PAGE, look
from avalanche_mgem.runs import LABELS, mean_interval, text

_ACROSS = 3  # panels
# Offsets of a label from its point, in typographic points. The first free one is taken.
_PLACES = [
    (radius * np.cos(np.pi * turn / 6), radius * np.sin(np.pi * turn / 6))
    for radius in (8, 12, 17, 23)
    for turn in (1, 11, 5, 7, 2, 10, 4, 8, 0, 6, 3, 9)
]


@dataclass(frozen=True)
class _Curve:
    """A family of methods: means and half-widths [n, 2] of LA and BWD, and the setting's values."""

    strategy: str
    means: np.ndarray
    half_widths: np.ndarray
    values: list[str]


def front_figure(results: Results, front: Front) -> Figure | None:
    """BWD against LA: all fronts by their means, then each with its intervals.

    Returns:
        None if no front has two methods with both metrics.
    """
    drawn = {name: _curve(results, front, methods) for name, methods in front.curves.items()}
    curves = {name: curve for name, curve in drawn.items() if len(curve.means) > 1}
    if not curves:
        return None
    figure, panels = _panels(1 + len(curves))
    panels[0].set_title("means")
    for name, curve in curves.items():
        _draw(panels[0], name, curve)
    panels[0].legend(fontsize=6.5)
    for axes, (name, curve) in zip(panels[1:], curves.items(), strict=True):
        axes.set_title(f"{name} by {front.name}")
        _draw(axes, name, curve)
        _draw_intervals(axes, curve)
    for axes in panels:
        axes.xaxis.set_major_locator(MaxNLocator(nbins=5))
    figure.supxlabel(f"{LABELS['la']} (accuracy when learnt)", fontsize=8)
    figure.supylabel(f"{LABELS['bwd']} (change since then)", fontsize=8)
    figure.draw_without_rendering()  # fixes the layout, by which labels are placed
    figure.set_layout_engine("none")
    for axes, curve in zip(panels[1:], curves.values(), strict=True):
        _label(figure, axes, curve)
    return figure


def _curve(results: Results, front: Front, methods: list[str]) -> _Curve:
    runs = results.runs.dropna(subset=["la", "bwd"])
    by_method = {method: runs[runs["method"] == method] for method in methods}
    present = [method for method in methods if len(by_method[method])]
    intervals = [
        [mean_interval(by_method[method][axis].tolist()) for axis in ("la", "bwd")] for method in present
    ]
    return _Curve(
        str(results.methods.loc[methods[0], "strategy"]),
        np.array([[interval.mean for interval in both] for both in intervals], dtype=float).reshape(-1, 2),
        np.array([[interval.half_width or 0.0 for interval in both] for both in intervals]).reshape(-1, 2),
        [text(front.values[method]) for method in present],
    )


def _panels(number: int) -> tuple[Figure, list[Axes]]:
    columns = 2 if number in (2, 4) else _ACROSS
    rows = ceil(number / columns)
    figure = Figure(figsize=(PAGE, 2.4 * rows), layout="constrained")
    grid = list(figure.subplots(rows, columns, squeeze=False).flat)
    for axes in grid[2:number]:
        axes.sharex(grid[1])
        axes.sharey(grid[1])
    for empty in grid[number:]:
        empty.set_axis_off()
    return figure, grid[:number]


def _draw(axes: Axes, name: str, curve: _Curve) -> None:
    style = look(curve.strategy)
    (line,) = axes.plot(*curve.means.T, color=style.colour, linewidth=0.9, label=name)
    line.set_marker(style.marker)
    line.set_markevery([int(index) for index in np.flatnonzero(non_dominated(curve.means))])
    dominated = curve.means[~non_dominated(curve.means)]
    axes.plot(
        *dominated.T, color=style.colour, marker=style.marker, markerfacecolor="white", linestyle="none"
    )


def _draw_intervals(axes: Axes, curve: _Curve) -> None:
    la, bwd = curve.means.T
    colour = look(curve.strategy).colour
    half_la, half_bwd = curve.half_widths.T
    axes.errorbar(la, bwd, half_bwd, half_la, fmt="none", ecolor=colour, elinewidth=0.6, alpha=0.45, zorder=1)


def _label(figure: Figure, axes: Axes, curve: _Curve) -> None:
    """Writes the values beside their points, where neither a point nor another value is."""
    renderer = FigureCanvasAgg(figure).get_renderer()  # type: ignore[no-untyped-call]
    scale = figure.dpi / 72
    points = axes.transData.transform(curve.means)
    taken = [Bbox.from_bounds(x - 3 * scale, y - 3 * scale, 6 * scale, 6 * scale) for x, y in points]
    steps = np.linspace(0, 1, 12)[:, None, None]
    along = (points[:-1] + steps * np.diff(points, axis=0)).reshape(-1, 2)  # the curve
    inside = axes.get_window_extent(renderer)
    for number, value in enumerate(curve.values):
        label = axes.annotate(value, curve.means[number], (0, 0), textcoords="offset points", fontsize=6.5)
        label.set(ha="center", va="center")
        size = label.get_window_extent(renderer)
        boxes = [size.translated(x * scale, y * scale) for x, y in _PLACES]
        costs = [
            50 * (not _contains(inside, box))
            + 5 * sum(box.overlaps(other) for other in taken)
            + 3 * (_nearest(points, box) != number)  # nearer to another point than to its own
            + sum(box.contains(x, y) for x, y in along)
            for box in boxes
        ]
        best = int(np.argmin(costs))  # the first of the cheapest
        label.set_position(_PLACES[best])
        taken.append(boxes[best])


def _nearest(points: np.ndarray, box: Bbox) -> int:
    center = (box.p0 + box.p1) / 2
    return int(np.argmin(((points - center) ** 2).sum(axis=1)))


def _contains(outer: Bbox, inner: Bbox) -> bool:
    return bool(outer.x0 < inner.x0 and inner.x1 < outer.x1 and outer.y0 < inner.y0 and inner.y1 < outer.y1)
