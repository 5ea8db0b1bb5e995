"""Tries the layer-wise way on a few samples: are its gradients those of the loop?"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn

from avalanche_mgem.memory import Draw, StepGroups
from avalanche_mgem.references._capture import LayerwiseError
from avalanche_mgem.references._layerwise import Layerwise
from avalanche_mgem.references._loop import Criterion, Forward, loop

_GROUPS, _SAMPLES = 3, 32
# Of a parameter's gradient, and of the whole row: a ReLU at zero changes 5e-3 of a row in float32.
_TOLERANCES = {torch.float64: (1e-5, 1e-7)}
_TOLERANCE = (0.05, 0.01)


def trial(
    groups: StepGroups,
    model: nn.Module,
    forward: Forward,
    criterion: Criterion,
    parameters: Sequence[nn.Parameter],
) -> tuple[str | None, bool]:
    """Compares the layer-wise gradients on some groups with those of the loop.

    No rule can see what a model does with a weight outside of its layer. So the gradients are compared.

    Args:
        groups: of these; see :func:`few`.
        model: the model, which is left as it was.
        forward: the model's output on inputs and task labels.
        criterion: the scalar mean loss.
        parameters: with respect to these.

    Returns:
        the problem or None, and whether a parameter has no gradient, which shows nothing.
    """
    with as_before(model, groups.device), exact_products(groups.device):
        expected = loop(groups, model, forward, criterion, parameters)
        state = [buffer.clone() for buffer in model.buffers()]
    parts = torch.split(expected, [p.numel() for p in parameters], dim=1)
    has_untried = not all(part.any() for part in parts)
    with as_before(model, groups.device), exact_products(groups.device):
        try:
            found = Layerwise(sample_bytes=1.0)(groups, model, forward, criterion, parameters).dense()
        except Exception as error:  # of a model or criterion that takes no samples of several groups
            return reason_of(error), has_untried
        problem = _other_state(model, state, expected.dtype)
    return problem or _other_gradients(found, expected, model, parameters), has_untried


def few(groups: StepGroups) -> StepGroups:
    """A few samples of a few groups: the first, the last, and two that go in one pass where not all do."""
    last = len(groups) - 1
    chosen = {round(i * last / (_GROUPS - 1)) for i in range(_GROUPS)}
    if groups.task_labels is not None or groups.end_of_form(0) <= last:
        for k in islice(filter(partial(_meets_the_next, groups), range(last)), 1):
            chosen |= {k, k + 1}
    kept = sorted(chosen)
    sizes = tuple(max(1, min(groups.sizes[k], _SAMPLES - i)) for i, k in enumerate(kept))
    starts = [sum(groups.sizes[:k]) for k in kept]
    positions = [start + i for start, size in zip(starts, sizes, strict=True) for i in range(size)]
    return groups.take(Draw(torch.tensor(positions).numpy(), sizes, tuple(kept)))


def _meets_the_next(groups: StepGroups, k: int) -> bool:
    """Whether a group and the next one go through the whole model together."""
    is_one_task = groups.task_labels is None or groups.tasks[k] == groups.tasks[k + 1] is not None
    return is_one_task and groups.end_of_form(k) > k + 1


def reason_of(error: Exception) -> str:
    """The first line of an error, with its type where it is none of ours or torch's."""
    line = str(error).partition("\n")[0]
    return line if isinstance(error, LayerwiseError | RuntimeError) else f"{type(error).__name__}: {line}"


@contextmanager
def as_before(model: nn.Module, device: torch.device) -> Iterator[None]:
    """Undoes what passes do to the model's buffers, such as running statistics, and to the generators."""
    before = copies_of_buffers(model)
    try:
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            yield
    finally:
        put_back(before)


@contextmanager
def exact_products(device: torch.device) -> Iterator[None]:
    """No TF32 on a GPU: convolutions round to ten bits by default there, and every algorithm otherwise.

    Through some layers of BatchNorm such differences grow to those of another model.
    """
    if device.type != "cuda":
        yield
        return
    cudnn: Any = torch.backends.cudnn
    matmul: Any = torch.backends.cuda.matmul
    places: list[tuple[Any, str, Any, Any]]
    try:
        places = [(place, "allow_tf32", place.allow_tf32, False) for place in (cudnn, matmul)]
    except RuntimeError:  # the user has set precisions by the names that torch has since 2.9
        places = [(place, "fp32_precision", place.fp32_precision, "ieee") for place in (cudnn.conv, matmul)]
    for place, name, _, exact in places:
        setattr(place, name, exact)
    try:
        yield
    finally:
        for place, name, before, _ in places:
            setattr(place, name, before)


def copies_of_buffers(model: nn.Module) -> list[tuple[Tensor, Tensor]]:
    buffers = {id(b): b for layer in model.modules() for b in layer._buffers.values() if b is not None}
    return [(buffer, buffer.clone()) for buffer in buffers.values()]


@torch.no_grad()
def put_back(copies: list[tuple[Tensor, Tensor]]) -> None:
    for buffer, value in copies:
        buffer.copy_(value)


def _other_state(model: nn.Module, expected: Sequence[Tensor], dtype: torch.dtype) -> str | None:
    """The problem with what the passes have left in the model's buffers, such as running statistics."""
    _, tolerance = _TOLERANCES.get(dtype, _TOLERANCE)
    for (name, found), value in zip(model.named_buffers(), expected, strict=True):
        difference, norm = (float(x.double().norm()) for x in (found.double() - value.double(), value))
        if difference > tolerance * norm:
            return f"{name!r} is not what the loop makes of it"
    return None


def _other_gradients(
    found: Tensor, expected: Tensor, model: nn.Module, parameters: Sequence[nn.Parameter]
) -> str | None:
    """The problem with gradients that are not the expected ones."""
    start = 0
    names = {id(p): name for name, p in model.named_parameters()}
    of_parameter, of_row = _TOLERANCES.get(expected.dtype, _TOLERANCE)
    scale = torch.linalg.vector_norm(expected.double(), dim=1)
    for p in parameters:
        columns = slice(start, start + p.numel())
        start += p.numel()
        difference = torch.linalg.vector_norm((found[:, columns] - expected[:, columns]).double(), dim=1)
        norm = torch.linalg.vector_norm(expected[:, columns].double(), dim=1)
        is_missed = (found[:, columns] == 0).all(dim=1) & (norm > 1e-6 * scale)
        if not bool(((difference <= of_parameter * norm + of_row * scale) & ~is_missed).all()):
            return f"the gradients of {names[id(p)]!r} are not those of the loop"
    return None
