"""Reference gradients one memory group after another: serves every model."""

from collections.abc import Callable, Sequence
from typing import TypeVar

import torch
from torch import Tensor

Batch = TypeVar("Batch")


def loop(batches: Sequence[Batch], loss: Callable[[Batch], Tensor], parameters: Sequence[Tensor]) -> Tensor:
    """The gradient of the loss on each batch.

    Leaves ``.grad`` of the parameters alone, so that a user's accumulated gradients survive.

    Args:
        batches: the memory groups, anything that ``loss`` takes.
        loss: the scalar mean loss on a batch.
        parameters: with respect to these; P coordinates in all.

    Returns:
        G ``[K, P]``, a row for each batch. A parameter that a batch does not reach has zeros there.
    """
    return torch.stack([flatten(_gradients(loss(batch), parameters), parameters) for batch in batches])


def _gradients(loss: Tensor, parameters: Sequence[Tensor]) -> Sequence[Tensor | None]:
    if not loss.requires_grad:  # every parameter on its way is frozen, such as a past task's trunk and head
        return [None] * len(parameters)
    return torch.autograd.grad(loss, parameters, allow_unused=True)


def flatten(gradients: Sequence[Tensor | None], parameters: Sequence[Tensor]) -> Tensor:
    """Concatenates gradients into one vector ``[P]``; zeros for a missing one, sparse ones made dense."""
    return torch.cat(
        [
            torch.zeros_like(p).flatten() if grad is None else grad.to_dense().flatten()
            for grad, p in zip(gradients, parameters, strict=True)
        ]
    )
