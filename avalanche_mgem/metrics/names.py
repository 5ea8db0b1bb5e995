"""From the metrics' values to Avalanche's names, and back to a row of them."""

import re
from collections.abc import Mapping
from typing import Any, Literal

from avalanche.evaluation import PluginMetric
from avalanche.evaluation.metric_results import MetricValue
from avalanche.evaluation.metric_utils import get_metric_name

from avalanche_mgem.runs import CONSTRAINT_METRICS

Level = Literal["iteration", "epoch", "experience"]
SUFFIXES: dict[Level, str] = {"iteration": "_MB", "epoch": "_Epoch", "experience": "_Exp"}


def packaged(
    metric: PluginMetric, values: Mapping[str, float], level: Level, strategy: Any
) -> list[MetricValue]:
    """Values by their names in ``CONSTRAINT_METRICS``, as Avalanche's loggers take them."""
    is_of_experience = level == "experience"
    return [
        MetricValue(
            metric,
            get_metric_name(_camel(key) + SUFFIXES[level], strategy, add_experience=is_of_experience),
            value,
            strategy.clock.train_iterations,
        )
        for key, value in values.items()
    ]


def constraint_row(metrics: Mapping[str, Any], experience: int) -> dict[str, float]:
    """The values for one trained experience, each a mean over its steps.

    Args:
        metrics: what ``strategy.train`` returns, or the evaluator's ``get_last_metrics``.
        experience: the experience's number in its stream.

    Returns:
        values by their names in ``CONSTRAINT_METRICS``, without those that were not emitted: all of them
        for a first experience, or without :func:`~avalanche_mgem.metrics.constraint_metrics`.
    """
    of_experience = re.compile(rf"(\w+)_Exp/train_phase/\w+_stream/(?:Task\d+/)?Exp{experience:03}")
    matches = [(of_experience.fullmatch(name), value) for name, value in metrics.items()]
    emitted = {match[1]: value for match, value in matches if match}
    return {key: float(emitted[_camel(key)]) for key in CONSTRAINT_METRICS if _camel(key) in emitted}


def _camel(key: str) -> str:
    return key.title().replace("_", "")
