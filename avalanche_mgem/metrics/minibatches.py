"""Loss and accuracy of single training minibatches, of which only some are measured."""

from typing import Any

from avalanche.evaluation.metrics import MinibatchAccuracy, MinibatchLoss


class _Sampled:
    """Measures one of every so many minibatches, and does nothing in the others."""

    every = 1

    def before_training_iteration(self, strategy: Any) -> Any:
        """Forgets the last one."""
        return super().before_training_iteration(strategy) if self._is_due(strategy) else None  # type: ignore[misc]

    def after_training_iteration(self, strategy: Any) -> Any:
        """Measures the minibatch."""
        return super().after_training_iteration(strategy) if self._is_due(strategy) else None  # type: ignore[misc]

    def _is_due(self, strategy: Any) -> bool:
        return bool(strategy.clock.train_iterations % self.every == 0)


class _Loss(_Sampled, MinibatchLoss):  # type: ignore[misc]
    pass


class _Accuracy(_Sampled, MinibatchAccuracy):  # type: ignore[misc]
    pass


def minibatch_metrics(every: int = 50) -> list[Any]:
    """Avalanche's loss and accuracy of minibatches, for the first minibatch and every so many after it.

    They have Avalanche's names, ``Loss_MB`` and ``Top1_Acc_MB``, and are those of one minibatch, not means.

    Args:
        every: training minibatches, counted over all experiences. The default of 50 gives 40 points in a
            run of GEM's protocol, which has 20 experiences of 100 minibatches.

    Returns:
        Metrics for Avalanche's ``EvaluationPlugin``.

    Raises:
        ValueError: if ``every`` is not at least 1.

    Example:
        >>> [str(metric) for metric in minibatch_metrics(every=100)]
        ['Loss_MB', 'Top1_Acc_MB']
    """
    if every < 1:
        raise ValueError(f"every is {every}; it must be at least 1.")
    metrics = [_Loss(), _Accuracy()]
    for metric in metrics:
        metric.every = every
    return metrics
