"""From a matrix of accuracies to the numbers of continual learning. Pure functions.

``R`` [T + 1, T] has the accuracies of the untrained model in row 0, and in row i those after training on
experience i; column j is test experience j (counted from 1 in the formulas). Accuracies are fractions. A
metric that its matrix does not determine is None: BWD, FWT and forgetting of a single experience, and all
but ACC of a model that was trained once on everything (joint training: two rows only).
"""

from collections.abc import Sequence

import numpy as np

Matrix = Sequence[Sequence[float]]


def acc(R: Matrix) -> float:
    """Mean accuracy at the end, ``mean_j R[T, j]``."""
    return float(np.mean(R[-1]))


def bwd(R: Matrix) -> float | None:
    """Backward transfer: mean of ``R[T, j] - R[j, j]`` over the T - 1 earlier experiences."""
    lower = _after_each(R)
    if lower is None or len(lower) < 2:
        return None
    return float(np.mean((lower[-1] - lower.diagonal())[:-1]))


def la(R: Matrix) -> float | None:
    """Learning accuracy, ``mean_j R[j, j]``: how well each experience was learnt when it came."""
    after = _after_each(R)
    return None if after is None else float(after.diagonal().mean())


def fwt(R: Matrix) -> float | None:
    """GEM's forward transfer: mean of ``R[j - 1, j] - b[j]`` over j > 1; b is the untrained row."""
    after = _after_each(R)
    if after is None or len(after) < 2:
        return None
    return float(np.mean(after.diagonal(1) - np.asarray(R[0], dtype=float)[1:]))


def forgetting(R: Matrix) -> float | None:
    """Avalanche's stream forgetting: mean of ``R[j, j] - R[T, j]`` over the T - 1 earlier experiences."""
    backward = bwd(R)
    return None if backward is None else 0.0 - backward  # never -0.0


def all_metrics(R: Matrix) -> dict[str, float | None]:
    """All of them by name, in the order of the run's summary."""
    return {"acc": acc(R), "bwd": bwd(R), "la": la(R), "fwt": fwt(R), "forgetting": forgetting(R)}


def _after_each(R: Matrix) -> "np.ndarray[tuple[int, int], np.dtype[np.float64]] | None":
    """The square part [T, T], or None where the model was not trained experience by experience."""
    after = np.asarray(R, dtype=float)[1:]
    return after if after.shape[0] == after.shape[1] else None
