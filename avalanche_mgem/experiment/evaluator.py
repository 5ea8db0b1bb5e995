"""What a run measures, with Avalanche's evaluation plugin, and where it is logged."""

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from avalanche.evaluation.metrics import (
    accuracy_metrics,
    bwt_metrics,
    forgetting_metrics,
    forward_transfer_metrics,
    loss_metrics,
    ram_usage_metrics,
    timing_metrics,
)
from avalanche.logging import BaseLogger, CSVLogger, TextLogger
from avalanche.training.plugins import EvaluationPlugin
from omegaconf import DictConfig

from avalanche_mgem.experiment.settings import build
from avalanche_mgem.metrics import constraint_metrics, generalization_gap_metrics, minibatch_metrics

_BY_EPOCH = (CSVLogger, TextLogger)  # they show the last value of an epoch


def make_loggers(cfg: DictConfig) -> list[BaseLogger]:
    """The loggers of the configuration's ``logger`` group; none by default."""
    return [build(f"logger.{name}", node, BaseLogger) for name, node in (cfg.get("logger") or {}).items()]


def make_evaluator(cfg: DictConfig, loggers: Sequence[BaseLogger]) -> EvaluationPlugin:
    """Measures accuracy and what the constraints did. The rest costs time, and is for loggers only."""
    metrics = [accuracy_metrics(experience=True), constraint_metrics(experience=True)]
    if cfg.gap_patterns_per_exp is not None:
        metrics.append(
            generalization_gap_metrics(cfg.gap_patterns_per_exp, every=cfg.gap_every, seed=cfg.seed)
        )
    if loggers:
        metrics += [
            accuracy_metrics(epoch=True, stream=True),
            loss_metrics(epoch=True, experience=True),
            bwt_metrics(experience=True, stream=True),
            forgetting_metrics(experience=True, stream=True),
            forward_transfer_metrics(experience=True, stream=True),
            timing_metrics(epoch=True, experience=True),
            ram_usage_metrics(every=0.1, epoch=True),
        ]
    if cfg.log_every is not None and not all(isinstance(logger, _BY_EPOCH) for logger in loggers):
        metrics.append(minibatch_metrics(every=cfg.log_every))
    # A logger that does nothing: the default one prints every metric.
    return EvaluationPlugin(*metrics, loggers=[*loggers] or [BaseLogger()])


@contextmanager
def accuracy_only(evaluator: EvaluationPlugin) -> Iterator[None]:
    """Measures accuracy and loss alone, in evaluations of another stream than the test stream.

    Avalanche's forgetting and transfer know an experience by its number, whatever its stream, and its CSV
    files have no column for the stream.
    """
    metrics, loggers = evaluator.metrics, evaluator.loggers
    evaluator.metrics = [metric for metric in metrics if str(metric).startswith(("Top1_Acc", "Loss"))]
    evaluator.loggers = [logger for logger in loggers if not isinstance(logger, CSVLogger)]
    try:
        yield
    finally:
        evaluator.metrics, evaluator.loggers = metrics, loggers


def accuracies(metrics: dict[str, Any], stream: str = "test") -> list[float]:
    """The accuracy on each experience of a stream. The stream's accuracy would be weighted by samples."""
    by_experience = {}
    for name, value in metrics.items():
        match = re.fullmatch(rf"Top1_Acc_Exp/eval_phase/{stream}_stream/(?:Task\d+/)?Exp(\d+)", name)
        if match:
            by_experience[int(match[1])] = float(value)
    return [by_experience[number] for number in sorted(by_experience)]
