"""Reference gradients of all memory groups in one vectorised pass (``torch.func``)."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.func import grad
from torch.func import vmap as vectorised
from torch.nn.modules.batchnorm import _NormBase

from avalanche_mgem.memory import MemoryGroups
from avalanche_mgem.references._loop import Criterion, Forward


def vmap(
    constraints: MemoryGroups,
    model: nn.Module,
    forward: Forward,
    criterion: Criterion,
    parameters: Sequence[nn.Parameter],
) -> Tensor:
    """The gradient of the loss on each constraint, computed for all constraints of equal size at once.

    Arguments and result are those of :func:`~avalanche_mgem.references.loop`.

    Raises:
        ValueError: if a layer has state that every pass changes, the model depends on task labels, or torch
            cannot vectorise one of its operations.
    """
    _check(constraints, model)
    names = [name for name, p in model.named_parameters() if any(p is q for q in parameters)]
    values = tuple(p.detach() for p in parameters)

    def loss(values: tuple[Tensor, ...], x: Tensor, y: Tensor) -> Tensor:
        with _values_in_place(model, names, values):
            return criterion(forward(x, None), y)

    G = torch.empty(0)
    for size in sorted(set(constraints.sizes)):
        chosen = [k for k, n in enumerate(constraints.sizes) if n == size]
        groups = list(constraints)
        x = torch.stack([groups[k].x for k in chosen])
        y = torch.stack([groups[k].y for k in chosen])
        try:
            gradients = vectorised(grad(loss), in_dims=(None, 0, 0), randomness="different")(values, x, y)
        except RuntimeError as error:
            reason = str(error).partition("\n")[0]
            raise ValueError(
                f"references='vmap': torch cannot vectorise this model ({reason}); use 'layerwise' or 'loop'."
            ) from error
        rows = torch.cat([part.flatten(1) for part in gradients], dim=1)
        if len(chosen) == len(groups):
            return rows
        G = G if G.numel() else rows.new_empty(len(groups), rows.shape[1])
        G[chosen] = rows
    return G


def _check(constraints: MemoryGroups, model: nn.Module) -> None:
    has_mixed = constraints.task_labels is not None and None in constraints.tasks
    if has_mixed or len(set(constraints.tasks)) > 1:
        raise ValueError(
            "references='vmap' cannot run a model that chooses its heads by the task labels of the samples; "
            "use 'layerwise' or 'loop'."
        )
    for layer in model.modules():
        if isinstance(layer, _NormBase) and layer.training and layer.track_running_stats:
            raise ValueError(
                f"references='vmap' cannot update the running statistics of a {type(layer).__name__}; "
                "set reference_batchnorm to 'batch' or 'running', or use 'layerwise' or 'loop'."
            )


@contextmanager
def _values_in_place(model: nn.Module, names: Sequence[str], values: Sequence[Tensor]) -> Iterator[None]:
    """Puts tensors where a model's parameters are, wherever they are shared."""
    of_parameter = {id(model.get_parameter(name)): v for name, v in zip(names, values, strict=True)}
    places = [
        (module, name, p)
        for module in model.modules()
        for name, p in module._parameters.items()
        if p is not None and id(p) in of_parameter
    ]
    try:
        for module, name, p in places:
            module._parameters[name] = of_parameter[id(p)]  # type: ignore[assignment]
        yield
    finally:
        for module, name, p in places:
            module._parameters[name] = p
