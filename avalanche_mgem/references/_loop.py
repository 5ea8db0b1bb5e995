"""Reference gradients one memory group after another: serves every model."""

from collections.abc import Callable, Sequence
from typing import Any
from weakref import WeakSet

import torch
from torch import Tensor, nn

from avalanche_mgem.memory import StepGroups, Tree
from avalanche_mgem.parameters import flatten

Forward = Callable[[Tree, Tensor | None], Any]
Criterion = Callable[[Any, Tree], Tensor]

# Models whose checkpoints run a backward pass of their own inside of the backward pass. torch refuses
# autograd.grad for them, in an error that names the argument use_reentrant.
_REENTRANT: WeakSet[nn.Module] = WeakSet()

_WANTED = "it must give one number, the mean over the samples (reduction='mean')."


def loop(
    groups: StepGroups,
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

    Raises:
        ValueError: if the criterion gives no scalar.
    """
    rows = []
    for group in groups:
        gradients = None
        if model not in _REENTRANT:
            gradients = _gradients(_loss(criterion, forward, group), parameters, model)
        if gradients is None:
            gradients = _accumulated(_loss(criterion, forward, group), parameters)
        rows.append(flatten(gradients, parameters))
    return torch.stack(rows)


def check_reduction(criterion: Any) -> None:
    """Refuses a criterion that gives a loss for each sample, before it is used.

    Raises:
        ValueError: if its ``reduction`` is ``"none"``, as torch's may be.
    """
    if getattr(criterion, "reduction", None) == "none":
        raise ValueError(f"the criterion has reduction='none'; {_WANTED}")


def _loss(criterion: Criterion, forward: Forward, group: Any) -> Tensor:
    return checked_loss(criterion(forward(group.x, group.task_labels), group.y))


def checked_loss(loss: Any) -> Tensor:
    """What a criterion has given, if it is a tensor of one number.

    Raises:
        ValueError: if not.
    """
    if not isinstance(loss, Tensor) or loss.numel() != 1:
        found = f"loss of shape {list(loss.shape)}" if isinstance(loss, Tensor) else type(loss).__name__
        raise ValueError(f"the criterion gives a {found}; {_WANTED}")
    return loss


def _gradients(
    loss: Tensor, parameters: Sequence[Tensor], model: nn.Module
) -> Sequence[Tensor | None] | None:
    """The gradients of a loss; None where re-entrant checkpoints of the model refuse to give them so."""
    if not loss.requires_grad:  # every parameter on its way is frozen, such as a past task's trunk and head
        return [None] * len(parameters)
    try:
        return torch.autograd.grad(loss, parameters, allow_unused=True)
    except RuntimeError as error:
        if "use_reentrant" not in str(error):
            raise
    _REENTRANT.add(model)
    return None


def _accumulated(loss: Tensor, parameters: Sequence[Tensor]) -> Sequence[Tensor | None]:
    """The gradients as ``backward()`` leaves them, which a re-entrant checkpoint asks for.

    Raises:
        ValueError: for a parameter with a hook that is called after the accumulation, which may change it.
    """
    if any(getattr(p, "_post_accumulate_grad_hooks", None) for p in parameters):
        raise ValueError(
            "a re-entrant checkpoint and a hook after the accumulation of gradients do not go together; set "
            "use_reentrant=False."
        )
    before = [p.grad for p in parameters]
    try:
        for p in parameters:
            p.grad = None
        if loss.requires_grad:
            loss.backward()  # type: ignore[no-untyped-call]
        return [p.grad for p in parameters]
    finally:
        for p, grad in zip(parameters, before, strict=True):
            p.grad = grad
