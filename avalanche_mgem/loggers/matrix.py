"""The accuracy matrix as W&B shows it."""

from collections.abc import Sequence
from typing import Any

import wandb
from matplotlib.figure import Figure


def matrix_media(matrix: Sequence[Sequence[float]]) -> dict[str, Any]:
    """The accuracy matrix of a run as a table and as an image, by their names in W&B.

    Args:
        matrix: accuracies from 0 to 1, as in ``accuracy_matrix.csv``. Row 0 is the untrained model, row i is
            the model after i training experiences. Each column is a test experience.
    """
    columns: list[str | int] = ["experiences_trained", *(f"exp_{number}" for number in range(len(matrix[0])))]
    table = wandb.Table(columns=columns, data=[[number, *row] for number, row in enumerate(matrix)])
    return {"accuracy_matrix": table, "accuracy_heatmap": wandb.Image(_heatmap(matrix))}


def _heatmap(matrix: Sequence[Sequence[float]]) -> Figure:
    figure = Figure(layout="constrained")  # pyplot would keep every figure
    axes = figure.subplots()
    image = axes.imshow(matrix, vmin=0, vmax=1)
    axes.set_xlabel("test experience")
    axes.set_ylabel("experiences trained")
    figure.colorbar(image, label="accuracy")
    return figure
