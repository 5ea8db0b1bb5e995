"""What the constraints did to the gradients, as the plugin's own products tell it."""

from typing import Any

import torch
from avalanche.evaluation import GenericPluginMetric, Metric, PluginMetric
from avalanche.evaluation.metric_results import MetricValue
from torch import Tensor

from avalanche_mgem.metrics.names import SUFFIXES, Level, packaged
from avalanche_mgem.plugins import MGEMPlugin
from avalanche_mgem.projector import ConstrainedStep
from avalanche_mgem.runs import STEP_METRICS


def constraint_metrics(
    *, minibatch: bool = False, epoch: bool = False, experience: bool = False
) -> list[PluginMetric]:
    """What the constraints did in training, for strategies with an ``MGEMPlugin``.

    Each metric emits seven values: the share of violated steps, the number of active constraints, the
    relative change of the gradient, its cosine with what it was and the worst with a reference gradient, and
    the seconds that reference gradients and solver took; means over the steps that had constraints. Without
    such steps, as in the first experience or for other strategies, nothing is emitted.

    Args:
        minibatch: after each iteration; for a GPU this is a wait.
        epoch: after each epoch.
        experience: after each training experience.

    Returns:
        the metrics, for Avalanche's ``EvaluationPlugin``.
    """
    asked: dict[Level, bool] = {"iteration": minibatch, "epoch": epoch, "experience": experience}
    return [ConstraintMetrics(level) for level, is_asked in asked.items() if is_asked]


class ConstraintMetrics(GenericPluginMetric):  # type: ignore[misc]
    """The values of :func:`constraint_metrics` at one level.

    Args:
        level: when they are emitted, and begin anew.
    """

    def __init__(self, level: Level):
        super().__init__(_StepMeans(), reset_at=level, emit_at=level, mode="train")

    def before_training_exp(self, strategy: Any) -> None:
        """Asks the plugin to keep what its steps did."""
        super().before_training_exp(strategy)
        watch(strategy)

    def update(self, strategy: Any) -> None:
        """Takes in the last step, if it had constraints."""
        step = last_step(strategy)
        if step is not None:
            self._metric.update(step)

    def _package_result(self, strategy: Any) -> list[MetricValue]:
        return packaged(self, self.result(), self._emit_at, strategy)

    def __str__(self) -> str:
        return "Constraints" + SUFFIXES[self._emit_at]


class _StepMeans(Metric):  # type: ignore[misc]
    """Means over steps. What is computed on a GPU stays there until it is asked for."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Forgets all steps."""
        self._steps = self._violated = 0
        self._seconds_references = self._seconds_solver = 0.0
        self._sums: Tensor | None = None  # of the values where they are defined, and how often: [2, 4]

    def update(self, step: ConstrainedStep) -> None:
        """Adds a step."""
        done = step.report
        self._steps += 1
        self._violated += done.is_violated
        self._seconds_references += step.seconds_references
        self._seconds_solver += done.seconds_solver
        active = done.active_constraints.to(done.norm.dtype)
        values = torch.stack([active, done.relative_change, done.cosine_gradient, done.cosine_worst])
        is_defined = values.isfinite()
        added = torch.stack([values.masked_fill(~is_defined, 0.0), is_defined.to(values.dtype)])
        self._sums = added if self._sums is None else self._sums + added

    def result(self) -> dict[str, float]:
        """The means, without those that no step defines."""
        if self._sums is None:
            return {}
        sums, numbers = self._sums.tolist()
        means = (
            self._violated / self._steps,
            *(total / number if number else None for total, number in zip(sums, numbers, strict=True)),
            self._seconds_references / self._steps,
            self._seconds_solver / self._steps,
        )
        return {key: mean for key, mean in zip(STEP_METRICS, means, strict=True) if mean is not None}


def watch(strategy: Any) -> None:
    """Has the strategy's plugin, if there is one, keep its last step."""
    plugin = MGEMPlugin.of(strategy)
    if plugin is not None:
        plugin.projector.keeps_last_step = True


def last_step(strategy: Any) -> ConstrainedStep | None:
    """The step that a watched strategy has just taken; None if nothing constrained it."""
    plugin = MGEMPlugin.of(strategy)
    return None if plugin is None else plugin.last_step
