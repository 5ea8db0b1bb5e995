"""Panels side by side in a figure of a paper's width."""

from collections.abc import Sequence
from math import ceil

from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure


def grid(
    figure: Figure | SubFigure, number: int, columns: int, *, sharex: bool = False, sharey: bool = False
) -> list[Axes]:
    """Puts panels into rows; what is left of the last row stays empty.

    Args:
        figure: for the panels.
        number: of the panels.
        columns: panels in a row.
        sharex: whether all have the same horizontal axis.
        sharey: whether all have the same vertical axis.
    """
    rows = ceil(number / columns)
    panels = list(figure.subplots(rows, columns, squeeze=False, sharex=sharex, sharey=sharey).flat)
    for empty in panels[number:]:
        empty.set_axis_off()
    return panels[:number]


def label_outer(panels: Sequence[Axes], columns: int, x: str = "", y: str = "") -> None:
    """Labels the lowest panel of each column and the first of each row.

    Matplotlib's own function takes the last row only, so that a panel above an empty place has no numbers.

    Args:
        panels: row by row.
        columns: panels in a row.
        x: name of the horizontal axis.
        y: name of the vertical axis.
    """
    for number, axes in enumerate(panels):
        is_lowest, is_first = number + columns >= len(panels), number % columns == 0
        axes.set(xlabel=x if is_lowest else "", ylabel=y if is_first else "")
        axes.tick_params(labelbottom=is_lowest, labelleft=is_first)
