"""Figures of accuracy matrices."""

from math import ceil
from textwrap import wrap

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from avalanche_mgem.report.results import Results
from avalanche_mgem.report.style import PAGE

_PANELS, _ACROSS = 8, 4  # in one figure, and side by side
_TITLE = 26  # characters that fit above a panel


def matrix_figures(results: Results) -> dict[str, Figure]:
    """The mean accuracy matrix over seeds, a panel for each method, in as many figures as that takes."""
    methods = [str(name) for name in results.methods.index]
    parts = ceil(len(methods) / _PANELS)
    size = ceil(len(methods) / parts)
    chunks = [methods[start : start + size] for start in range(0, len(methods), size)]
    names = ["accuracy_matrices"] if parts == 1 else [f"accuracy_matrices_{n + 1}" for n in range(parts)]
    return {name: _matrices(results, chunk) for name, chunk in zip(names, chunks, strict=True)}


def _matrices(results: Results, methods: list[str]) -> Figure:
    accuracies = results.matrices.join(results.runs["method"], on="run")
    last = int(accuracies["after"].max())
    rows, columns = ceil(len(methods) / _ACROSS), min(len(methods), _ACROSS)
    width = PAGE * (columns + 0.5) / (_ACROSS + 0.5)
    figure = Figure(figsize=(max(width, PAGE / 2), 1.75 * rows + 0.35), layout="constrained")
    panels = list(figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False).flat)
    for axes, method in zip(panels, methods, strict=False):
        measured = accuracies[accuracies["method"] == method]
        mean = measured.pivot_table(index="after", columns="experience", values="accuracy", aggfunc="mean")
        image = axes.imshow(
            mean.reindex(range(last + 1)).to_numpy(dtype=float),  # white where nothing was tested
            vmin=0,
            vmax=1,
            cmap="viridis",
            extent=(0.5, last + 0.5, last + 0.5, -0.5),
        )
        strategy, _, settings = method.partition(" ")
        axes.set_title("\n".join([strategy, *wrap(settings, _TITLE)]), fontsize=7)
        axes.grid(visible=False)
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_locator(MaxNLocator(nbins=5, integer=True, steps=[1, 2, 5, 10]))
    for empty in panels[len(methods) :]:
        empty.set_axis_off()
    figure.colorbar(image, ax=panels, label="accuracy", shrink=0.9, pad=0.02, aspect=25)
    figure.supxlabel("tested experience", fontsize=8)
    figure.supylabel("experiences trained", fontsize=8)
    return figure
