"""The trainable parameters of a model as one vector, and back."""

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn


def trainable_parameters(model: nn.Module) -> list[tuple[str, nn.Parameter]]:
    """Names and parameters that require a gradient, in ``named_parameters`` order; a shared one comes once.

    Raises:
        ValueError: if the model has none, or a complex one.

    Example:
        >>> [name for name, _ in trainable_parameters(nn.Linear(2, 1))]
        ['weight', 'bias']
    """
    parameters = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    if not parameters:
        raise ValueError("the model has no trainable parameter: every requires_grad is False.")
    for name, p in parameters:
        if p.is_complex():
            raise ValueError(
                f"the parameter {name!r} is complex; a constraint is defined for real ones only."
            )
    return parameters


def flatten(gradients: Iterable[Tensor | None], parameters: Sequence[Tensor]) -> Tensor:
    """Concatenates gradients into one vector ``[P]``; zeros for a missing one, sparse ones made dense."""
    return torch.cat(
        [
            torch.zeros_like(p).flatten() if grad is None else grad.to_dense().flatten()
            for grad, p in zip(gradients, parameters, strict=True)
        ]
    )


def current_gradient(parameters: Sequence[Tensor]) -> Tensor:
    """What stands in ``.grad`` of the parameters, as one vector ``[P]``."""
    return flatten((p.grad for p in parameters), parameters)


def write_gradient(z: Tensor, parameters: Sequence[Tensor]) -> None:
    """Puts z ``[P]`` into ``.grad``: as views of z where that is possible, so z is not to be changed later.

    Makes the gradients that the minibatch did not reach but a constraint did, such as those of another task's
    head: without them the constraints would not hold after the step. Where z is zero too, no gradient is
    made: momentum and weight decay would move such a parameter.
    """
    pairs = list(zip(parameters, torch.split(z, [p.numel() for p in parameters]), strict=True))
    unreached = [part.any() for p, part in pairs if p.grad is None]
    is_constrained = iter(torch.stack(unreached).tolist() if unreached else ())  # a GPU is waited for once
    for p, part in pairs:
        if p.grad is None and not next(is_constrained):
            continue
        part = part.view_as(p)
        if p.grad is None:
            p.grad = part.to(p.dtype, copy=True)
        elif p.grad.is_sparse:  # its optimizer takes nothing else
            p.grad = part.to(p.dtype).to_sparse(p.grad.sparse_dim())
        elif type(p.grad) is Tensor and p.grad.dtype == part.dtype and p.grad.is_contiguous():
            p.grad = part
        else:
            p.grad.copy_(part)
