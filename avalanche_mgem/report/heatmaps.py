"""Figures of accuracy matrices."""

from collections.abc import Sequence
from math import ceil
from textwrap import wrap

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from avalanche_mgem.report.panels import grid, label_outer
from avalanche_mgem.report.results import Results
from avalanche_mgem.report.style import PAGE

_TITLE = 26  # characters that fit above the narrowest panel
_NUMBERS = 10  # experiences at most of which each accuracy is written
_PANELS = {4: 8, 3: 6}  # in one figure, by how many stand side by side
_BRIGHT = 0.6  # accuracies above have a colour on which black is read


def matrix_figures(results: Results) -> dict[str, Figure]:
    """The mean accuracy matrix over seeds, a panel for each method, in as many figures as that takes."""
    methods = [str(name) for name in results.methods.index]
    last = int(results.matrices["after"].max())
    across = 3 if _NUMBERS // 2 < last <= _NUMBERS else 4  # numbers need room
    parts = ceil(len(methods) / _PANELS[across])
    size = ceil(len(methods) / parts)
    chunks = [methods[start : start + size] for start in range(0, len(methods), size)]
    names = ["accuracy_matrices"] if parts == 1 else [f"accuracy_matrices_{n + 1}" for n in range(parts)]
    accuracies = results.matrices.join(results.runs["method"], on="run")
    return {name: _matrices(accuracies, chunk, across) for name, chunk in zip(names, chunks, strict=True)}


def _matrices(accuracies: pd.DataFrame, methods: Sequence[str], across: int) -> Figure:
    last = int(accuracies["after"].max())
    rows, columns = ceil(len(methods) / across), min(len(methods), across)
    width = PAGE * (columns + 0.5) / (across + 0.5)
    figure = Figure(figsize=(max(width, PAGE / 2), 7 / across * rows + 0.35), layout="constrained")
    panels = grid(figure, len(methods), columns, sharex=True, sharey=True)
    for axes, method in zip(panels, methods, strict=True):
        measured = accuracies[accuracies["method"] == method]
        mean = measured.pivot_table(index="after", columns="experience", values="accuracy", aggfunc="mean")
        matrix = mean.reindex(range(last + 1)).to_numpy(dtype=float)  # white where nothing was tested
        # The row of the untrained model is -1, so that row i is after experience i.
        ends = (-0.5, last - 0.5, last - 0.5, -1.5)
        image = axes.imshow(matrix, vmin=0, vmax=1, cmap="viridis", extent=ends)
        if last <= _NUMBERS:
            _write(axes, matrix, size=6 if last <= _NUMBERS // 2 else 5)
        strategy, _, settings = method.partition(" ")
        axes.set_title("\n".join([strategy, *wrap(settings, _TITLE)]), fontsize=7)
        axes.grid(visible=False)
        axes.xaxis.set_major_locator(MaxNLocator(nbins=5, integer=True, steps=[1, 2, 5, 10]))
        lowest = 0 if last <= _NUMBERS else 1  # 0 would cover "none" in a small panel
        axes.set_yticks([-1, *(at for at in axes.get_xticks() if lowest <= at < last)])
        axes.yaxis.set_major_formatter(FuncFormatter(lambda at, _: "none" if at < 0 else f"{at:.0f}"))
    label_outer(panels, columns)
    figure.colorbar(image, ax=panels, label="accuracy", shrink=0.9, pad=0.02, aspect=25)
    figure.supxlabel("tested experience", fontsize=8)
    figure.supylabel("after experience", fontsize=8)
    return figure


def _write(axes: Axes, matrix: np.ndarray, size: int) -> None:
    """Writes each accuracy into its place, without the nought before the point."""
    for (row, experience), accuracy in np.ndenumerate(matrix):
        if np.isnan(accuracy):
            continue
        colour = "black" if accuracy > _BRIGHT else "white"
        text = f"{accuracy:.2f}".removeprefix("0")
        axes.text(experience, row - 1, text, ha="center", va="center", fontsize=size, color=colour)
