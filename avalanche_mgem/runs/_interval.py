"""The mean of independent values with its 95 % interval."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Mean:
    """A mean with its interval.

    Attributes:
        mean: None of no values.
        half_width: of the 95 % interval by Student's t; None of fewer than two values.
        n: number of values.
    """

    mean: float | None
    half_width: float | None
    n: int


def mean_interval(values: Sequence[float]) -> Mean:
    """Mean and 95 % interval of the mean over independent values, by Student's t.

    >>> round(mean_interval([1.0, 2.0, 3.0]).half_width, 3)  # 4.303 standard errors
    2.484
    """
    from scipy import stats  # type: ignore[import-untyped]  # here: its import takes half a second

    n = len(values)
    if n < 2:
        return Mean(float(values[0]) if n else None, None, n)
    half_width = stats.t.ppf(0.5 + CONFIDENCE / 2, n - 1) * stats.sem(values)
    return Mean(float(np.mean(values)), float(half_width), n)
