"""Stock Avalanche, with the least that lets its results be compared with ours."""

from collections.abc import Callable
from typing import Any

import torch
from avalanche.training.plugins import GEMPlugin
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from avalanche_mgem.memory import EpisodicMemory


class SameMemoryGEMPlugin(GEMPlugin):  # type: ignore[misc]
    """Avalanche's GEM, its memory filled with the samples that ours keeps at the same seed.

    Avalanche's draws them from torch's global generator, which changes every later minibatch. What is timed,
    reference gradients and projection, is Avalanche's own.

    Args:
        patterns_per_experience: as in Avalanche.
        memory_strength: as in Avalanche.
        seed: of our memory.
    """

    def __init__(self, patterns_per_experience: int, memory_strength: float, *, seed: int) -> None:
        super().__init__(patterns_per_experience, memory_strength)
        self._memory = EpisodicMemory(patterns_per_experience, seed=seed)

    def before_training_exp(self, strategy: Any, **kwargs: Any) -> None:
        """Puts our memory where Avalanche's GEM looks for its own."""
        number = str(strategy.experience.current_experience)
        for t, kept in enumerate(self._memory.groups(but=number, device=strategy.device)):
            self.memory_x[t], self.memory_y[t], self.memory_tid[t] = kept.x, kept.y, kept.task_labels

    def after_training_exp(self, strategy: Any, **kwargs: Any) -> None:
        """Takes samples of the experience as ours does."""
        experience = strategy.experience
        key = str(experience.current_experience)
        self._memory.remember(experience.dataset.eval(), key=key)


class KeepsGradients(torch.optim.SGD):
    """SGD whose ``zero_grad`` writes zeros.

    Avalanche's GEM drops the update of every parameter that the minibatch does not reach, such as other
    tasks' heads, because torch leaves those without a gradient. With zeros there it computes what ours does.
    """

    def zero_grad(self, set_to_none: bool = False) -> None:
        """Zeros unless asked otherwise."""
        super().zero_grad(set_to_none=set_to_none)


def blas_threads(number: int, call: Callable[[], object]) -> Callable[[], object]:
    """The call with so many threads of NumPy's BLAS."""

    def limited() -> object:
        with threadpool_limits(number, user_api="blas"):
            return call()

    return limited
