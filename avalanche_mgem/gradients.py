"""The gradients of a strategy's model: on memory samples, and where its optimizer reads."""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from avalanche.models import MultiTaskModule, avalanche_forward
from torch import Tensor, nn

from avalanche_mgem import functional
from avalanche_mgem.functional._gram import all_finite
from avalanche_mgem.memory import MemoryGroups
from avalanche_mgem.references import BatchNormPolicy, ReferenceComputer, reference_mode


def reference_gradients(
    strategy: Any,
    constraints: MemoryGroups,
    references: ReferenceComputer,
    parameters: Sequence[nn.Parameter],
    *,
    batchnorm: BatchNormPolicy,
    dropout: bool,
    autocast: bool = False,
) -> Tensor | functional.GradientRows:
    """The gradients of a strategy's loss at its current weights; leaves ``.grad`` alone.

    Args:
        strategy: gives model, criterion and device.
        constraints: the samples, on that device.
        references: makes the gradients.
        parameters: with respect to these, all trainable ones of the model.
        batchnorm: what BatchNorm does, see :func:`~avalanche_mgem.references.reference_mode`.
        dropout: whether dropout draws.
        autocast: whether to compute in bfloat16.

    Returns:
        G ``[K, P]``, or what stands for it.

    Raises:
        ValueError: if BatchNorm would have to normalise a group of one sample.
    """
    model, device = strategy.model, strategy.device
    if not isinstance(model, MultiTaskModule):  # without heads, all tasks go in one pass
        constraints = replace(constraints, task_labels=None, tasks=(None,) * len(constraints))

    def forward(x: Tensor, task_labels: Tensor | None) -> Tensor:
        output: Tensor = avalanche_forward(model, x, task_labels)
        return output

    mode = reference_mode(model, batchnorm=batchnorm, dropout=dropout, device=device)
    try:
        with mode, torch.autocast(device.type, torch.bfloat16, enabled=autocast):
            return references(constraints, model, forward, strategy._criterion, parameters)
    except ValueError as error:
        if min(constraints.sizes) > 1 or "more than 1 value per channel" not in str(error):
            raise
        experience, group = constraints.origins[constraints.sizes.index(1)]
        raise ValueError(
            f"BatchNorm cannot normalise the one sample that group {group} of experience {experience} has in "
            "a step; give it more samples, or reference_batchnorm='running'."
        ) from error


def write_gradients(z: Tensor, parameters: list[nn.Parameter]) -> None:
    """Puts z into ``.grad``, making the gradients that the minibatch did not reach but a constraint did.

    Those of another task's head are an example: without them the constraints would not hold after the step.
    Where z is zero too, no gradient is made: momentum and weight decay would move such a parameter.
    """
    for p, part in zip(parameters, torch.split(z, [p.numel() for p in parameters]), strict=True):
        if p.grad is None and not part.any():
            continue
        part = part.view_as(p)
        if p.grad is None:
            p.grad = part.to(p.dtype, copy=True)
        elif p.grad.is_sparse:  # its optimizer takes nothing else
            p.grad = part.to(p.dtype).to_sparse(p.grad.sparse_dim())
        else:
            p.grad.copy_(part)


def is_finite(strategy: Any, *, with_gradient: bool) -> bool:
    """Whether the loss is finite; and the gradient, without constraints, where no product of it shows it."""
    values = [strategy.loss.detach()]
    if with_gradient:
        grads = [p.grad.to_dense() for p in strategy.model.parameters() if p.grad is not None]
        values.append(torch.nn.utils.get_total_norm(grads, math.inf))
    return all_finite(*values)
