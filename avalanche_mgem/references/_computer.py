"""Makes the reference gradients of a step, in the way that fits the model."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, Literal

import torch
from torch import Tensor, nn

from avalanche_mgem.functional import DenseRows, GradientRows
from avalanche_mgem.memory import Draw, MemoryGroups
from avalanche_mgem.references import _heads
from avalanche_mgem.references._capture import LayerwiseError
from avalanche_mgem.references._layerwise import KEPT_ROWS_BYTES, Layerwise
from avalanche_mgem.references._loop import Criterion, Forward, loop
from avalanche_mgem.references._mode import BATCHNORM_POLICIES, BatchNormPolicy, reference_mode

Backend = Literal["auto", "loop", "layerwise"]
BACKENDS = ("auto", "loop", "layerwise")

_Compute = Callable[[MemoryGroups, nn.Module, Forward, Criterion, Sequence[nn.Parameter]], GradientRows]

_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_LOOP_SAMPLES = 32  # a group; with fewer, one pass over several groups is faster

_PROBE_GROUPS, _PROBE_SAMPLES = 3, 4
_PROBE_TOLERANCE = 0.05  # a ReLU at zero differs by 5e-3 in float32; gradients mixed up differ by order 1


class ReferenceComputer:
    """Computes the gradient of the loss on each memory group.

    The backends give the same gradients up to rounding:

    - ``"loop"``: one group after another, as Avalanche's GEM. Serves every model.
    - ``"layerwise"``: one pass over all groups. Each layer's gradients follow from its input and its output's
      gradient, so that G is not held where it is larger than they are. Serves the models that
      :class:`~avalanche_mgem.references._capture.Capture` can watch.
    - ``"auto"``: layerwise, if on a few samples of the memory its gradients are those of the loop; otherwise
      the loop. On a CPU it also takes the loop for attention, unless G is large, and for convolutions, unless
      G is large, or groups are small and the model is not compiled.

    Args:
        backend: its name.
        batchnorm: what BatchNorm does in the passes, see :func:`~avalanche_mgem.references.reference_mode`.
        dropout: whether dropout draws in the passes.
        autocast: whether to compute in bfloat16.

    Attributes:
        chosen: the backend in use; ``"auto"`` until the first step with a group.
        reason: why ``"auto"`` chose it.

    Raises:
        ValueError: for values that are not allowed.
    """

    def __init__(
        self,
        backend: Backend = "auto",
        *,
        batchnorm: BatchNormPolicy = "update",
        dropout: bool = False,
        autocast: bool = False,
    ):
        if backend not in BACKENDS:
            raise ValueError(f"references must be one of {BACKENDS}; got {backend!r}.")
        if batchnorm not in BATCHNORM_POLICIES:
            raise ValueError(f"reference_batchnorm must be one of {BATCHNORM_POLICIES}; got {batchnorm!r}.")
        for name, flag in (("reference_dropout", dropout), ("reference_autocast", autocast)):
            if not isinstance(flag, bool):
                raise ValueError(f"{name} must be True or False; got {flag!r}.")
        self.backend = backend
        self.batchnorm = batchnorm
        self.dropout = dropout
        self.autocast = autocast
        self.chosen: Backend = backend
        self.reason = ""
        self._compute: _Compute | None = None
        self._layerwise = Layerwise()
        self._probed: tuple[object, str | None] = (None, None)

    def __repr__(self) -> str:
        options = f"batchnorm={self.batchnorm!r}, dropout={self.dropout}, autocast={self.autocast}"
        return f"ReferenceComputer({self.backend!r}, {options})"

    def __getstate__(self) -> dict[str, Any]:
        """A pickle holds the settings and nothing of the last step."""
        fresh = ReferenceComputer(
            self.backend, batchnorm=self.batchnorm, dropout=self.dropout, autocast=self.autocast
        )
        return fresh.__dict__

    def reset(self) -> None:
        """Frees memory, and lets the next step choose anew, because model and memory may have changed."""
        self._compute = None
        self._layerwise.free()

    def __call__(
        self,
        groups: MemoryGroups,
        model: nn.Module,
        criterion: Criterion,
        parameters: Sequence[nn.Parameter],
        forward: Forward | None = None,
    ) -> GradientRows:
        """The gradients at the model's current weights; leaves ``.grad`` alone.

        Args:
            groups: the memory groups, on the model's device.
            model: the model.
            criterion: the scalar mean loss of output and targets.
            parameters: with respect to these, all trainable ones of ``model``.
            forward: the model's output on inputs and task labels; None (default) calls ``model``, with the
                task labels if it is one of Avalanche's models with heads.

        Returns:
            a row for each group.

        Raises:
            ValueError: if the backend does not fit the model, or BatchNorm would have to normalise a group
                of one sample.
        """
        if forward is None:
            if not _heads.takes_task_labels(model):  # without heads, all tasks go in one pass
                groups = replace(groups, task_labels=None, tasks=(None,) * len(groups))

            def forward(x: Tensor, task_labels: Tensor | None) -> Tensor:
                output: Tensor = _heads.forward(model, x, task_labels)
                return output

        device = groups.x.device
        mode = reference_mode(model, batchnorm=self.batchnorm, dropout=self.dropout, device=device)
        try:
            with mode, torch.autocast(device.type, torch.bfloat16, enabled=self.autocast):
                return self._rows(groups, model, forward, criterion, parameters)
        except ValueError as error:
            if min(groups.sizes) > 1 or "more than 1 value per channel" not in str(error):
                raise
            experience, group = groups.origins[groups.sizes.index(1)]
            raise ValueError(
                f"BatchNorm cannot normalise the one sample that group {group} of experience {experience} "
                "has in a step; give it more samples, or reference_batchnorm='running'."
            ) from error

    def _rows(
        self,
        groups: MemoryGroups,
        model: nn.Module,
        forward: Forward,
        criterion: Criterion,
        parameters: Sequence[nn.Parameter],
    ) -> GradientRows:
        arguments = (model, forward, criterion, parameters)
        if self._compute is None:
            self._choose(groups, *arguments)
        assert self._compute is not None
        try:
            return self._compute(groups, *arguments)
        except LayerwiseError as error:
            if self.backend == "layerwise":
                raise _refusal(str(error)) from error
            self._take("loop", _looped, str(error))
            return _looped(groups, *arguments)

    def _choose(
        self,
        groups: MemoryGroups,
        model: nn.Module,
        forward: Forward,
        criterion: Criterion,
        parameters: Sequence[nn.Parameter],
    ) -> None:
        if self.backend == "loop":
            return self._take("loop", _looped)
        reason = _gains_nothing(groups, model, parameters) if self.backend == "auto" else None
        if reason is not None:
            return self._take("loop", _looped, reason)
        state = _state(model, parameters)
        if self._probed[0] != state:
            self._probed = state, _problem(groups, model, forward, criterion, parameters)
        problem = self._probed[1]
        if problem is None:
            return self._take("layerwise", self._layerwise, "its gradients are those of the loop")
        if self.backend == "layerwise":
            raise _refusal(problem)
        return self._take("loop", _looped, problem)

    def _take(self, name: Backend, compute: _Compute, reason: str = "") -> None:
        self.chosen, self._compute, self.reason = name, compute, reason


def _looped(
    groups: MemoryGroups,
    model: nn.Module,
    forward: Forward,
    criterion: Criterion,
    parameters: Sequence[nn.Parameter],
) -> DenseRows:
    return DenseRows(loop(groups, model, forward, criterion, parameters))


def _gains_nothing(groups: MemoryGroups, model: nn.Module, parameters: Sequence[nn.Parameter]) -> str | None:
    """Why one pass over all groups is neither faster nor smaller, or None; docs/performance.md measures."""
    row_bytes = sum(p.numel() * p.element_size() for p in parameters)
    if parameters[0].device.type != "cpu" or len(groups) * row_bytes > KEPT_ROWS_BYTES:
        return None
    layers = list(model.modules())
    if any(isinstance(layer, nn.MultiheadAttention) for layer in layers):
        return "on a CPU attention gains nothing from larger batches"
    has_many_samples = len(groups.y) >= _LOOP_SAMPLES * len(groups)
    has_convolutions = any(isinstance(layer, _CONVOLUTIONS) for layer in layers)
    if has_convolutions and (has_many_samples or _is_compiled(model)):
        return "on a CPU these convolutions gain nothing from larger batches"
    return None


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
    groups: MemoryGroups,
    model: nn.Module,
    forward: Forward,
    criterion: Criterion,
    parameters: Sequence[nn.Parameter],
) -> str | None:
    """What is wrong with the layer-wise gradients on a few samples, or None.

    No rule can see what a model does with a weight outside of its layer. So the gradients are compared.
    """
    probe = _few(groups)
    with _buffers_restored(model):
        expected = loop(probe, model, forward, criterion, parameters)
    with _buffers_restored(model):
        try:
            found = Layerwise(sample_bytes=1.0)(probe, model, forward, criterion, parameters).dense()
        except (LayerwiseError, RuntimeError) as error:
            return str(error).partition("\n")[0]
    start = 0
    names = {id(p): name for name, p in model.named_parameters()}
    scale = torch.linalg.vector_norm(expected.double(), dim=1)
    for p in parameters:
        columns = slice(start, start + p.numel())
        start += p.numel()
        difference = torch.linalg.vector_norm((found[:, columns] - expected[:, columns]).double(), dim=1)
        if not bool((difference <= _PROBE_TOLERANCE * scale).all()):
            return f"the gradients of {names[id(p)]!r} are not those of the loop"
    return None


def _few(groups: MemoryGroups) -> MemoryGroups:
    """A few samples of a few groups, the first and the last among them."""
    last = len(groups) - 1
    kept = sorted({round(i * last / (_PROBE_GROUPS - 1)) for i in range(_PROBE_GROUPS)})
    sizes = tuple(min(groups.sizes[k], _PROBE_SAMPLES + i) for i, k in enumerate(kept))
    starts = [sum(groups.sizes[:k]) for k in kept]
    positions = [start + i for start, size in zip(starts, sizes, strict=True) for i in range(size)]
    return groups.take(Draw(torch.tensor(positions).numpy(), sizes, tuple(kept)))


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
