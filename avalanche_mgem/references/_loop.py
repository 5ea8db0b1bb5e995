"""Reference gradients one memory group after another: serves every model."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from avalanche_mgem.memory import MemoryGroups
from avalanche_mgem.parameters import flatten

Forward = Callable[[Tensor, Tensor | None], Tensor]
Criterion = Callable[[Tensor, Tensor], Tensor]


def loop(
    groups: MemoryGroups,
    model: nn.Module,
    forward: Forward,
    criterion: Criterion,
    parameters: Sequence[nn.Parameter],
) -> Tensor:
    """The gradient of the loss on each memory group.

    Leaves ``.grad`` of the parameters alone, so that a user's accumulated gradients survive.

    Args:
        groups: the memory groups.
        model: the model, which only ``forward`` needs here.
        forward: the model's output on inputs and task labels.
        criterion: the scalar mean loss.
        parameters: with respect to these; P coordinates in all.

    Returns:
        G ``[K, P]``, a row for each group. A parameter that a group does not reach has zeros there.
    """
    rows = []
    for group in groups:
        loss = criterion(forward(group.x, group.task_labels), group.y)
        rows.append(flatten(_gradients(loss, parameters), parameters))
    return torch.stack(rows)


def _gradients(loss: Tensor, parameters: Sequence[Tensor]) -> Sequence[Tensor | None]:
    if not loss.requires_grad:  # every parameter on its way is frozen, such as a past task's trunk and head
        return [None] * len(parameters)
    return torch.autograd.grad(loss, parameters, allow_unused=True)
