"""All figures of a report, and their files."""

from collections.abc import Collection
from pathlib import Path

import matplotlib as mpl
from matplotlib.figure import Figure

from avalanche_mgem.report.comparisons import Front
from avalanche_mgem.report.curves import average_accuracy_figure, constraint_figures
from avalanche_mgem.report.fronts import front_figure
from avalanche_mgem.report.heatmaps import matrix_figures
from avalanche_mgem.report.over import over_figure
from avalanche_mgem.report.results import Results
from avalanche_mgem.report.style import SETTINGS

_BANDS = "with 95 % intervals over seeds of at most six methods in a panel"


def write_figures(
    results: Results,
    front: Front | None,
    folder: Path,
    first: Collection[str] = (),
    *,
    over: Front | None = None,
) -> dict[str, str]:
    """Draws the figures that the results allow, and writes each as PDF and as PNG of 300 dpi.

    Args:
        results: all runs.
        front: for the figure of fronts, if a setting varies.
        folder: where they go.
        first: methods whose curves have a band in any case, such as baselines.
        over: for the figure of what a setting does, if one was asked for.

    Returns:
        A caption for each, by the name of its files without the ending.
    """
    with mpl.rc_context(SETTINGS):
        drawn = _draw(results, front, first, over)
        for name, (figure, _) in drawn.items():
            # No date: the same results give the same bytes.
            figure.savefig(folder / f"{name}.pdf", metadata={"CreationDate": None})
            figure.savefig(folder / f"{name}.png")
    return {name: caption for name, (_, caption) in drawn.items()}


def _draw(
    results: Results, front: Front | None, first: Collection[str], over: Front | None = None
) -> dict[str, tuple[Figure, str]]:
    drawn: dict[str, tuple[Figure, str]] = {}
    if over is not None:
        drawn[f"over_{over.name}"] = (
            over_figure(results, over),
            f"{' and '.join(over.settings)}: ACC, BWD and LA over its values, and ACC against the seconds of "
            "training where these were measured alone, with 95 % intervals over seeds.",
        )
    if front is not None:
        figure = front_figure(results, front)
        if figure is not None:
            drawn[f"front_{front.name}"] = (
                figure,
                f"BWD against LA over {front.names}: all fronts by their means, then each with its 95 % "
                f"intervals. Numbers are values of {front.names}; above, some are left out where points are "
                "close. A hollow point is dominated by another of its front.",
            )
    drawn["average_accuracy"] = (
        average_accuracy_figure(results, first),
        f"Mean accuracy on the experiences so far, after each of them (counted from 0), {_BANDS}.",
    )
    for name, figure in matrix_figures(results).items():
        drawn[name] = (
            figure,
            "Accuracy on each experience after each one in training (none: untrained), mean over seeds. "
            "Experiences are counted from 0.",
        )
    for name, figure in constraint_figures(results, first).items():
        drawn[name] = (figure, f"{name} of constraints.csv by experience (counted from 0), {_BANDS}.")
    return drawn
