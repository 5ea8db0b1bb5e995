"""Stock Avalanche, changed just enough that its results can be compared with ours."""

from collections.abc import Callable
from typing import Any

import torch
from avalanche.training.plugins import GEMPlugin
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from avalanche_mgem.memory import EpisodicMemory


class SameMemoryGEMPlugin(GEMPlugin):  # type: ignore[misc]
    """Avalanche's GEM with the samples that our memory keeps at the same seed.

    Avalanche draws its samples from torch's global generator, which changes every later minibatch. The timed
    parts, reference gradients and projection, are Avalanche's own.

    Args:
        patterns_per_experience: as in Avalanche.
        memory_strength: as in Avalanche.
        seed: of our memory.
    """

    def __init__(self, patterns_per_experience: int, memory_strength: float, *, seed: int) -> None:
        super().__init__(patterns_per_experience, memory_strength)
        self._memory = EpisodicMemory(patterns_per_experience, seed=seed)

    def before_training_exp(self, strategy: Any, **kwargs: Any) -> None:
        """Copies the samples of our memory to where Avalanche's GEM reads its own."""
        number = str(strategy.experience.current_experience)
        for t, kept in enumerate(self._memory.groups(but=number, device=strategy.device)):
            self.memory_x[t], self.memory_y[t], self.memory_tid[t] = kept.x, kept.y, kept.task_labels

    def after_training_exp(self, strategy: Any, **kwargs: Any) -> None:
        """Keeps samples of the experience as our memory does."""
        experience = strategy.experience
        key = str(experience.current_experience)
        self._memory.remember(experience.dataset.eval(), key=key)


class KeepsGradients(torch.optim.SGD):
    """SGD whose ``zero_grad`` writes zeros.

    Torch leaves parameters that a minibatch does not use without a gradient, such as the heads of other
    tasks. Avalanche's GEM then drops their update. With zeros as gradients it computes what ours does.
    """

    def zero_grad(self, set_to_none: bool = False) -> None:
        """Zeros unless asked otherwise."""
        super().zero_grad(set_to_none=set_to_none)


def blas_threads(number: int, call: Callable[[], object]) -> Callable[[], object]:
    """The same call, run with ``number`` threads of NumPy's BLAS."""

    def limited() -> object:
        with threadpool_limits(number, user_api="blas"):
            return call()

    return limited
