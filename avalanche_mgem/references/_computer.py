"""Which way of making reference gradients fits a model."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Literal

import torch
from torch import Tensor, nn

from avalanche_mgem.memory import Draw, MemoryGroups
from avalanche_mgem.references._capture import LayerwiseError
from avalanche_mgem.references._factors import Factors
from avalanche_mgem.references._layerwise import KEPT_ROWS_BYTES, Layerwise
from avalanche_mgem.references._loop import Criterion, Forward, loop
from avalanche_mgem.references._vmap import vmap

Backend = Literal["auto", "loop", "vmap", "layerwise"]
BACKENDS = ("auto", "loop", "vmap", "layerwise")

_Compute = Callable[[MemoryGroups, nn.Module, Forward, Criterion, Sequence[nn.Parameter]], Tensor | Factors]

_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_LOOP_SAMPLES = 32  # a group; with fewer, one pass over several groups is faster

_PROBE_CONSTRAINTS, _PROBE_SAMPLES = 3, 4
_PROBE_TOLERANCE = 0.05  # a ReLU at zero differs by 5e-3 in float32; gradients mixed up differ by order 1


class ReferenceComputer:
    """Makes reference gradients by one of the backends; ``"auto"`` picks it.

    - ``"loop"``: one group after another, as Avalanche's GEM. Serves every model.
    - ``"vmap"``: all groups vectorised by ``torch.func``. No heads by task label, no running statistics.
    - ``"layerwise"``: one pass over all groups, and each layer's gradients from its input and output
      gradient; G is never held where that is larger. Serves whatever :class:`Capture` can watch.
    - ``"auto"``: layerwise, if on a few samples of the memory its gradients are those of the loop; else the
      loop. And the loop for convolutions on a CPU, unless G is large, or groups are small and the model is
      not compiled.

    Args:
        backend: one of these.

    Attributes:
        chosen: the backend in use; None until the first step with a constraint.
        reason: why ``"auto"`` has chosen it.

    Raises:
        ValueError: if there is no such backend.
    """

    def __init__(self, backend: Backend = "auto"):
        if backend not in BACKENDS:
            raise ValueError(f"references must be one of {BACKENDS}; got {backend!r}.")
        self.backend = backend
        self.chosen: Backend | None = None
        self.reason = ""
        self._compute: _Compute | None = None
        self._layerwise = Layerwise()
        self._probed: tuple[object, str | None] = (None, None)

    def reset(self) -> None:
        """Frees memory, and lets the next step choose anew, because model and memory may have changed."""
        self._compute = None
        self._layerwise.free()

    def __call__(
        self,
        constraints: MemoryGroups,
        model: nn.Module,
        forward: Forward,
        criterion: Criterion,
        parameters: Sequence[nn.Parameter],
    ) -> Tensor | Factors:
        """The gradients of the loss on each constraint: G ``[K, P]``, or what stands for it.

        Args:
            constraints: the memory groups.
            model: the model, in the state in which the gradients are taken.
            forward: its output on inputs and task labels.
            criterion: the scalar mean loss.
            parameters: with respect to these, all trainable ones of ``model``.

        Raises:
            ValueError: if the backend does not fit the model.
        """
        arguments = (model, forward, criterion, parameters)
        if self._compute is None:
            self._choose(constraints, *arguments)
        assert self._compute is not None
        try:
            return self._compute(constraints, *arguments)
        except LayerwiseError as error:
            if self.backend == "layerwise":
                raise _refusal(str(error)) from error
            self._take("loop", loop, str(error))
            return loop(constraints, *arguments)

    def _choose(
        self,
        constraints: MemoryGroups,
        model: nn.Module,
        forward: Forward,
        criterion: Criterion,
        parameters: Sequence[nn.Parameter],
    ) -> None:
        if self.backend == "loop":
            return self._take("loop", loop)
        if self.backend == "vmap":
            return self._take("vmap", vmap)
        if self.backend == "auto" and _gains_nothing(constraints, model, parameters):
            return self._take("loop", loop, "on a CPU these convolutions gain nothing from larger batches")
        state = _state(model, parameters)
        if self._probed[0] != state:
            self._probed = state, _problem(constraints, model, forward, criterion, parameters)
        problem = self._probed[1]
        if problem is None:
            return self._take("layerwise", self._layerwise, "its gradients are those of the loop")
        if self.backend == "layerwise":
            raise _refusal(problem)
        return self._take("loop", loop, problem)

    def _take(self, name: Backend, compute: _Compute, reason: str = "") -> None:
        self.chosen, self._compute, self.reason = name, compute, reason


def _gains_nothing(constraints: MemoryGroups, model: nn.Module, parameters: Sequence[nn.Parameter]) -> bool:
    """Whether one pass over all groups is no faster (as measured, see docs/performance.md), nor smaller."""
    if parameters[0].device.type != "cpu" or not any(
        isinstance(layer, _CONVOLUTIONS) for layer in model.modules()
    ):
        return False
    row_bytes = sum(p.numel() * p.element_size() for p in parameters)
    is_small = len(constraints) * row_bytes <= KEPT_ROWS_BYTES
    has_many_samples = len(constraints.y) >= _LOOP_SAMPLES * len(constraints)
    return is_small and (has_many_samples or _is_compiled(model))


def _is_compiled(model: nn.Module) -> bool:
    """Whether torch.compile has the model: layers that are watched take a compiled network apart."""
    return isinstance(getattr(model, "_orig_mod", None), nn.Module) or any(
        layer._compiled_call_impl is not None for layer in model.modules()
    )


def _state(model: nn.Module, parameters: Sequence[nn.Parameter]) -> object:
    """Equal as long as what a probe has found still holds: the same layers, in the same modes."""
    layers = tuple((type(layer), layer.training) for layer in model.modules())
    return id(model), layers, tuple(p.shape for p in parameters)


def _refusal(problem: str) -> ValueError:
    return ValueError(f"references='layerwise' does not fit this model: {problem}; use 'loop' or 'auto'.")


def _problem(
    constraints: MemoryGroups,
    model: nn.Module,
    forward: Forward,
    criterion: Criterion,
    parameters: Sequence[nn.Parameter],
) -> str | None:
    """What is wrong with the layer-wise gradients on a few samples, or None.

    No rule can see what a model does with a weight outside of its layer. So the gradients are compared.
    """
    probe = _few(constraints)
    with _buffers_restored(model):
        expected = loop(probe, model, forward, criterion, parameters)
    with _buffers_restored(model):
        try:
            found = Layerwise(sample_bytes=1.0)(probe, model, forward, criterion, parameters).rows()
        except (LayerwiseError, RuntimeError) as error:
            return str(error).partition("\n")[0]
    start = 0
    names = {id(p): name for name, p in model.named_parameters()}
    scale = torch.linalg.vector_norm(expected.double(), dim=1)
    for p in parameters:
        own = slice(start, start + p.numel())
        start += p.numel()
        difference = torch.linalg.vector_norm((found[:, own] - expected[:, own]).double(), dim=1)
        if not bool((difference <= _PROBE_TOLERANCE * scale).all()):
            return f"the gradients of {names[id(p)]!r} are not those of the loop"
    return None


def _few(constraints: MemoryGroups) -> MemoryGroups:
    """A few samples of a few constraints, the first and the last among them."""
    last = len(constraints) - 1
    kept = sorted({round(i * last / (_PROBE_CONSTRAINTS - 1)) for i in range(_PROBE_CONSTRAINTS)})
    sizes = tuple(min(constraints.sizes[k], _PROBE_SAMPLES + i) for i, k in enumerate(kept))
    starts = [sum(constraints.sizes[:k]) for k in kept]
    positions = [start + i for start, size in zip(starts, sizes, strict=True) for i in range(size)]
    return constraints.take(Draw(torch.tensor(positions).numpy(), sizes, tuple(kept)))


@contextmanager
def _buffers_restored(model: nn.Module) -> Iterator[None]:
    """Undoes what passes do to the model's buffers, such as running statistics."""
    before = [(buffer, buffer.clone()) for buffer in model.buffers()]
    try:
        yield
    finally:
        with torch.no_grad():
            for buffer, value in before:
                buffer.copy_(value)
