"""Makes the reference gradients of a step, in the way that fits the model."""

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn

from avalanche_mgem.functional import DenseRows, GradientRows
from avalanche_mgem.memory import MemoryGroup, StepGroups, Tree, tensors_of, tree_map
from avalanche_mgem.references import _heads
from avalanche_mgem.references._capture import Path
from avalanche_mgem.references._layerwise import KEPT_ROWS_BYTES, Layerwise
from avalanche_mgem.references._loop import Criterion, Forward, checked_loss, loop
from avalanche_mgem.references._mode import BATCHNORM_POLICIES, BatchNormPolicy, reference_mode
from avalanche_mgem.references._trial import as_before, copies_of_buffers, few, put_back, reason_of, trial

Backend = Literal["auto", "loop", "layerwise"]
BACKENDS = ("auto", "loop", "layerwise")

_Compute = Callable[[StepGroups, nn.Module, Forward, Criterion, Sequence[nn.Parameter]], GradientRows]

_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_LOOP_SAMPLES = 32  # a group; with fewer, one pass over several groups is faster

_CHECKED_STEP = 100  # of an experience, which is compared as a whole: at most 2 % of the cost so far


class ReferenceComputer:
    """Computes the gradient of the loss on each memory group.

    The backends give the same gradients up to rounding:

    - ``"loop"``: one group after another, as Avalanche's GEM. Serves every model.
    - ``"layerwise"``: one pass over all groups. Each layer's gradients follow from its input and its output's
      gradient, so that G is not held where it is larger than they are. Serves the models that
      ``Capture`` can watch.
    - ``"auto"``: layerwise, if its gradients are those of the loop on up to 32 samples of a few groups;
      otherwise the loop. This is tried anew in each experience, when a second group appears, and when the
      model uses other layers or operations than in the steps before. While a parameter has no gradient, which
      shows nothing, it is tried again, ever more rarely. The loop
      also serves parameters with hooks, and on a CPU attention, unless G is large, and convolutions, unless G
      is large, or groups are small and the model is not compiled. The 100th step of an experience is compared
      as a whole (a few groups of it where G is large), which costs at most 2 % of the time so far. If the
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
        self._paths: list[Path] = []  # through the model, that were tried since the choice
        self._has_untried = False  # whether a parameter had no gradient when the model was tried
        self._writes_inputs = False  # whether the model changes its inputs in place
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
        self._compute, self._writes_inputs = None, False
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
            ValueError: if the backend does not fit the model, a layer would have to normalise a group of one
                sample, or the model begins to change its inputs in place.
        """
        if forward is None:
            if not _heads.takes_task_labels(model):  # without heads, all tasks go in one pass
                groups = groups.without_tasks()
            forward = partial(_heads.forward, model)
        mode = self._mode(model, groups.device)
        self._number += 1
        try:
            with mode:
                return self._rows(groups, model, self._guarded(forward), criterion, parameters)
        except ValueError as error:
            if min(groups.sizes) > 1 or not _is_of_one_sample(error):
                raise
            experience, group = groups.origins[groups.sizes.index(1)]
            raise ValueError(_of_one_sample(f"group {group} of experience {experience}")) from error

    def _guarded(self, forward: Forward) -> Forward:
        """Keeps the memory from models that change their inputs in place.

        They work on copies. Whether a model is one of them shows in the first step, which is made on copies.
        """
        is_copied = self._compute is None or self._writes_inputs

        def guarded(x: Tree, task_labels: Tensor | None) -> Any:
            inputs = tree_map(Tensor.clone, x) if is_copied else x
            tensors = tensors_of(inputs)
            versions = [tensor._version for tensor in tensors]
            output = forward(inputs, task_labels)
            if any(tensor._version != version for tensor, version in zip(tensors, versions, strict=True)):
                if not is_copied:
                    raise ValueError(
                        "the model changes its inputs in place, which it did not in the experience's first "
                        "step, and so has changed the memory; let it work on a copy."
                    )
                self._writes_inputs = True
            return output

        return guarded

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
        forward, device = forward or partial(_heads.forward, model), tensors_of(group.x)[0].device
        try:
            with torch.no_grad(), as_before(model, device), self._mode(model, device):
                loss = criterion(forward(group.x, group.task_labels), group.y)
        except Exception as error:
            if _is_of_one_sample(error):
                raise ValueError(_of_one_sample("a group of the memory")) from error
            raise ValueError(
                f"the loss of samples of the memory cannot be computed: {reason_of(error)}; the forward pass "
                "takes inputs and task labels, and the criterion its output and targets."
            ) from error
        checked_loss(loss)

    @contextmanager
    def _mode(self, model: nn.Module, device: torch.device) -> Iterator[None]:
        """The state in which passes are made."""
        mode = reference_mode(
            model, batchnorm=self.batchnorm, dropout=self.dropout, device=device, step=self._number
        )
        precision: AbstractContextManager[Any] = nullcontext()
        if self.autocast or torch.is_autocast_enabled(device.type):
            precision = torch.autocast(device.type, torch.bfloat16, enabled=self.autocast)
        with mode, precision:
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
        before = copies_of_buffers(model)
        try:
            problem = _hooked(model, parameters)
            is_whole = self._steps == _CHECKED_STEP
            is_tried = is_whole or (self._has_untried and _is_due(self._steps))
            if problem is None and is_tried:
                is_small = _row_bytes(parameters) * len(groups) <= KEPT_ROWS_BYTES
                problem = self._tried(groups if is_whole and is_small else few(groups), *arguments)
            rows = self._compute(groups, *arguments) if problem is None else None
            if problem is None and self._is_new(self._layerwise.path) and not is_tried:
                problem = self._tried(few(groups), *arguments)
                rows = rows if problem is None else None
        except Exception as error:  # an error of the model's own comes once more from the loop
            problem, rows = reason_of(error), None
        if rows is not None:
            return rows
        put_back(before)
        if self.backend == "layerwise":
            raise _refusal(str(problem))
        self._take("loop", _looped, str(problem))
        rows = _looped(groups, *arguments)
        warnings.warn(f"references='auto' goes on with the loop: {problem}.", stacklevel=4)
        return rows

    def _is_new(self, path: Path) -> bool:
        """Whether the model took another way than before; the first way is that of the choice."""
        tried = self._paths
        is_known = any(path.layers == other.layers for other in tried) and path.steps <= set().union(
            *(other.steps for other in tried)
        )
        if not is_known:
            tried.append(path)
        return not is_known and len(tried) > 1

    def _choose(
        self,
        groups: StepGroups,
        model: nn.Module,
        forward: Forward,
        criterion: Criterion,
        parameters: Sequence[nn.Parameter],
    ) -> None:
        self._is_single, self._steps, self._paths = len(groups) == 1, 0, []
        if self.backend == "loop":
            return self._take("loop", _looped)
        reason = _gains_nothing(groups, model, parameters) if self.backend == "auto" else None
        if reason is not None:
            return self._take("loop", _looped, reason)
        arguments = (model, forward, criterion, parameters)
        problem = _hooked(model, parameters) or self._tried(few(groups), *arguments)
        if problem is None:
            return self._take("layerwise", self._layerwise, "its gradients are those of the loop")
        if self.backend == "layerwise":
            raise _refusal(problem)
        return self._take("loop", _looped, problem)

    def _tried(self, groups: StepGroups, *arguments: Any) -> str | None:
        """What is wrong with the layer-wise gradients on these groups, or None."""
        problem, self._has_untried = trial(groups, *arguments)
        return problem

    def _take(self, name: Backend, compute: _Compute, reason: str = "") -> None:
        self.chosen, self._compute, self.reason = name, compute, reason


def _is_of_one_sample(error: Exception) -> bool:
    """Whether a layer could not normalise a batch, for which torch asks for two samples."""
    return isinstance(error, ValueError) and "more than 1 value per channel" in str(error)


def _of_one_sample(whose: str) -> str:
    return (
        f"a layer cannot normalise the one sample that {whose} has in a step; give it more samples, or for "
        "BatchNorm reference_batchnorm='running'."
    )


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


def _refusal(problem: str) -> ValueError:
    return ValueError(f"references='layerwise' does not fit this model: {problem}; use 'loop' or 'auto'.")


def _is_due(step: int) -> bool:
    """Whether to try again what could not be tried: in the first steps, and then each twice as late."""
    return step in (2, 3) or (step > 3 and step & (step - 1) == 0)
