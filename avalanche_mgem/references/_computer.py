"""Makes the reference gradients of a step, in the way that fits the model."""

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn

from avalanche_mgem.functional import DenseRows, GradientRows
from avalanche_mgem.memory import Draw, MemoryGroup, StepGroups, tensors_of
from avalanche_mgem.references import _heads
from avalanche_mgem.references._capture import LayerwiseError
from avalanche_mgem.references._layerwise import KEPT_ROWS_BYTES, Layerwise
from avalanche_mgem.references._loop import Criterion, Forward, loop
from avalanche_mgem.references._mode import BATCHNORM_POLICIES, BatchNormPolicy, reference_mode

Backend = Literal["auto", "loop", "layerwise"]
BACKENDS = ("auto", "loop", "layerwise")

_Compute = Callable[[StepGroups, nn.Module, Forward, Criterion, Sequence[nn.Parameter]], GradientRows]

_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_LOOP_SAMPLES = 32  # a group; with fewer, one pass over several groups is faster

_PROBE_GROUPS, _PROBE_SAMPLES = 3, 32
_CHECKED_STEP = 100  # of an experience, which is compared as a whole: at most 2 % of the cost so far
# Of a parameter's gradient, and of the whole row: a ReLU at zero changes 5e-3 of a row in float32.
_PROBE_TOLERANCES = {torch.float64: (1e-5, 1e-7)}
_PROBE_TOLERANCE = (0.05, 0.01)


class ReferenceComputer:
    """Computes the gradient of the loss on each memory group.

    The backends give the same gradients up to rounding:

    - ``"loop"``: one group after another, as Avalanche's GEM. Serves every model.
    - ``"layerwise"``: one pass over all groups. Each layer's gradients follow from its input and its output's
      gradient, so that G is not held where it is larger than they are. Serves the models that
      :class:`~avalanche_mgem.references._capture.Capture` can watch.
    - ``"auto"``: layerwise, if its gradients are those of the loop on up to 32 samples of three groups;
      otherwise the loop. This is tried anew in each experience, and when a second group appears. The loop
      also serves parameters with hooks, and on a CPU attention, unless G is large, and convolutions, unless G
      is large, or groups are small and the model is not compiled. The 100th step of an experience is compared
      as a whole (three groups of it where G is large), which costs at most 2 % of the time so far. If the
      layer-wise way fails after the first step, the loop goes on, and a warning says why.

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
        self._is_single = False  # whether the choice was made with one group, where every way is right
        self._steps = 0  # since the choice
        self._number = 0  # of all steps

    def __repr__(self) -> str:
        options = f"batchnorm={self.batchnorm!r}, dropout={self.dropout}, autocast={self.autocast}"
        return f"ReferenceComputer({self.backend!r}, {options})"

    def __getstate__(self) -> dict[str, Any]:
        """A pickle holds the settings and nothing of the last step."""
        fresh = ReferenceComputer(
            self.backend, batchnorm=self.batchnorm, dropout=self.dropout, autocast=self.autocast
        )
        return fresh.__dict__ | {"_number": self._number}

    def reset(self) -> None:
        """Frees memory, and lets the next step choose anew, because model and memory may have changed."""
        self._compute = None
        self._layerwise.reset()

    def __call__(
        self,
        groups: StepGroups,
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
                groups = groups.without_tasks()
            forward = partial(_heads.forward, model)
        mode = self._mode(model, groups.device)
        self._number += 1
        try:
            with mode:
                return self._rows(groups, model, forward, criterion, parameters)
        except ValueError as error:
            if min(groups.sizes) > 1 or "more than 1 value per channel" not in str(error):
                raise
            experience, group = groups.origins[groups.sizes.index(1)]
            raise ValueError(
                f"BatchNorm cannot normalise the one sample that group {group} of experience {experience} "
                "has in a step; give it more samples, or reference_batchnorm='running'."
            ) from error

    def check(
        self, group: MemoryGroup, model: nn.Module, criterion: Criterion, forward: Forward | None = None
    ) -> None:
        """Computes the loss on a group, and leaves everything as it was.

        Args:
            group: some samples, on the model's device.
            model: the model.
            criterion: as in a call.
            forward: as in a call.

        Raises:
            ValueError: if model and criterion give no scalar loss.
        """
        forward = forward or partial(_heads.forward, model)
        try:
            with torch.no_grad(), _buffers_restored(model), self._mode(model, tensors_of(group.x)[0].device):
                loss = criterion(forward(group.x, group.task_labels), group.y)
        except Exception as error:
            raise ValueError(
                f"the loss of samples of the memory cannot be computed: {_reason(error)}; the forward pass "
                "takes inputs and task labels, and the criterion its output and targets."
            ) from error
        if not isinstance(loss, Tensor) or loss.numel() != 1:
            found = f"shape {list(loss.shape)}" if isinstance(loss, Tensor) else f"a {type(loss).__name__}"
            raise ValueError(f"the criterion must return one number, the mean loss of samples; got {found}.")

    @contextmanager
    def _mode(self, model: nn.Module, device: torch.device) -> Iterator[None]:
        """The state in which passes are made."""
        mode = reference_mode(
            model, batchnorm=self.batchnorm, dropout=self.dropout, device=device, step=self._number
        )
        with mode, torch.autocast(device.type, torch.bfloat16, enabled=self.autocast):
            yield

    def _rows(
        self,
        groups: StepGroups,
        model: nn.Module,
        forward: Forward,
        criterion: Criterion,
        parameters: Sequence[nn.Parameter],
    ) -> GradientRows:
        arguments = (model, forward, criterion, parameters)
        if self._compute is None or (self._is_single and len(groups) > 1):
            self._choose(groups, *arguments)
        assert self._compute is not None
        if self.chosen == "loop":
            return self._compute(groups, *arguments)
        self._steps += 1
        try:
            problem = _hooked(model, parameters)
            if problem is None and self._steps == _CHECKED_STEP:
                checked = groups if _row_bytes(parameters) * len(groups) <= KEPT_ROWS_BYTES else _few(groups)
                problem = _problem(checked, *arguments)
            rows = self._compute(groups, *arguments) if problem is None else None
        except Exception as error:  # an error of the model's own comes once more from the loop
            problem, rows = _reason(error), None
        if rows is not None:
            return rows
        if self.backend == "layerwise":
            raise _refusal(str(problem))
        self._take("loop", _looped, str(problem))
        rows = _looped(groups, *arguments)
        warnings.warn(f"references='auto' goes on with the loop: {problem}.", stacklevel=4)
        return rows

    def _choose(
        self,
        groups: StepGroups,
        model: nn.Module,
        forward: Forward,
        criterion: Criterion,
        parameters: Sequence[nn.Parameter],
    ) -> None:
        self._is_single, self._steps = len(groups) == 1, 0
        if self.backend == "loop":
            return self._take("loop", _looped)
        reason = _gains_nothing(groups, model, parameters) if self.backend == "auto" else None
        if reason is not None:
            return self._take("loop", _looped, reason)
        problem = _hooked(model, parameters) or _problem(_few(groups), model, forward, criterion, parameters)
        if problem is None:
            return self._take("layerwise", self._layerwise, "its gradients are those of the loop")
        if self.backend == "layerwise":
            raise _refusal(problem)
        return self._take("loop", _looped, problem)

    def _take(self, name: Backend, compute: _Compute, reason: str = "") -> None:
        self.chosen, self._compute, self.reason = name, compute, reason


def _looped(
    groups: StepGroups,
    model: nn.Module,
    forward: Forward,
    criterion: Criterion,
    parameters: Sequence[nn.Parameter],
) -> DenseRows:
    return DenseRows(loop(groups, model, forward, criterion, parameters))


def _gains_nothing(groups: StepGroups, model: nn.Module, parameters: Sequence[nn.Parameter]) -> str | None:
    """Why one pass over all groups is neither faster nor smaller, or None; docs/performance.md measures."""
    if parameters[0].device.type != "cpu" or len(groups) * _row_bytes(parameters) > KEPT_ROWS_BYTES:
        return None
    layers = list(model.modules())
    if any(isinstance(layer, nn.MultiheadAttention) for layer in layers):
        return "on a CPU attention gains nothing from larger batches"
    has_many_samples = sum(groups.sizes) >= _LOOP_SAMPLES * len(groups)
    has_convolutions = any(isinstance(layer, _CONVOLUTIONS) for layer in layers)
    if has_convolutions and (has_many_samples or _is_compiled(model)):
        return "on a CPU these convolutions gain nothing from larger batches"
    return None


def _row_bytes(parameters: Sequence[nn.Parameter]) -> int:
    return sum(p.numel() * p.element_size() for p in parameters)


def _is_compiled(model: nn.Module) -> bool:
    """Whether torch.compile has the model: layers that are watched take a compiled network apart."""
    return isinstance(getattr(model, "_orig_mod", None), nn.Module) or any(
        layer._compiled_call_impl is not None for layer in model.modules()
    )


def _hooked(model: nn.Module, parameters: Sequence[nn.Parameter]) -> str | None:
    """Why hooks on gradients send the model to the loop: only autograd calls those of a parameter."""
    if not any(p._backward_hooks for p in parameters):
        return None
    name = next(name for name, p in model.named_parameters() if p._backward_hooks)
    return f"the parameter {name!r} has a hook on its gradient"


def _reason(error: Exception) -> str:
    """The first line of an error, with its type where it is none of ours or torch's."""
    line = str(error).partition("\n")[0]
    return line if isinstance(error, LayerwiseError | RuntimeError) else f"{type(error).__name__}: {line}"


def _refusal(problem: str) -> ValueError:
    return ValueError(f"references='layerwise' does not fit this model: {problem}; use 'loop' or 'auto'.")


def _problem(
    groups: StepGroups,
    model: nn.Module,
    forward: Forward,
    criterion: Criterion,
    parameters: Sequence[nn.Parameter],
) -> str | None:
    """What is wrong with the layer-wise gradients on these groups, or None.

    No rule can see what a model does with a weight outside of its layer. So the gradients are compared.
    """
    with _buffers_restored(model):
        expected = loop(groups, model, forward, criterion, parameters)
    with _buffers_restored(model):
        try:
            found = Layerwise(sample_bytes=1.0)(groups, model, forward, criterion, parameters).dense()
        except Exception as error:  # of a model or criterion that takes no samples of several groups
            return _reason(error)
    start = 0
    names = {id(p): name for name, p in model.named_parameters()}
    of_parameter, of_row = _PROBE_TOLERANCES.get(expected.dtype, _PROBE_TOLERANCE)
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


def _few(groups: StepGroups) -> StepGroups:
    """A few samples of a few groups, the first and the last among them."""
    last = len(groups) - 1
    kept = sorted({round(i * last / (_PROBE_GROUPS - 1)) for i in range(_PROBE_GROUPS)})
    sizes = tuple(max(1, min(groups.sizes[k], _PROBE_SAMPLES - i)) for i, k in enumerate(kept))
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
