"""All figures of a report, and their files."""

from pathlib import Path

import matplotlib as mpl
from matplotlib.figure import Figure

from avalanche_mgem.report.comparisons import Front
from avalanche_mgem.report.curves import average_accuracy_figure, constraint_figures
from avalanche_mgem.report.fronts import front_figure
from avalanche_mgem.report.heatmaps import matrix_figures
from avalanche_mgem.report.results import Results
from avalanche_mgem.report.style import SETTINGS


def write_figures(results: Results, front: Front | None, folder: Path) -> dict[str, str]:
    """Draws the figures that the results allow, and writes each as PDF and as PNG of 300 dpi.

    Args:
        results: all runs.
        front: for the figure of fronts, if a setting varies.
        folder: where they go.

    Returns:
        A caption for each, by the name of its files without the ending.
    """
    with mpl.rc_context(SETTINGS):
        drawn = _draw(results, front)
        for name, (figure, _) in drawn.items():
            # No date: the same results give the same bytes.
            figure.savefig(folder / f"{name}.pdf", metadata={"CreationDate": None})
            figure.savefig(folder / f"{name}.png")
    return {name: caption for name, (_, caption) in drawn.items()}


def _draw(results: Results, front: Front | None) -> dict[str, tuple[Figure, str]]:
    drawn: dict[str, tuple[Figure, str]] = {}
    if front is not None:
        figure = front_figure(results, front)
        if figure is not None:
            drawn[f"front_{front.name}"] = (
                figure,
                f"BWD against LA over {front.name}: the means, then each front with its 95 % intervals and "
                f"the values of {front.name}. A hollow point is dominated by another of its front.",
            )
    drawn["average_accuracy"] = (
        average_accuracy_figure(results),
        "Mean accuracy on the experiences trained so far, with 95 % intervals over seeds.",
    )
    for name, figure in matrix_figures(results).items():
        drawn[name] = (
            figure,
            "Accuracy on each experience after each training (0: untrained), mean over seeds.",
        )
    for name, figure in constraint_figures(results).items():
        drawn[name] = (figure, f"{name} of constraints.csv, with 95 % intervals over seeds.")
    return drawn
