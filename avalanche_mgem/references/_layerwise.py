"""Reference gradients layer by layer: one forward and backward over all memories, and no G.

Each layer's gradient on a group follows from the group's rows of its input and output gradient (see
:mod:`~avalanche_mgem.references.rules`). What is kept of a layer is the smaller of the two.
"""

import math
import weakref
from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 (torch's own spelling)

from avalanche_mgem.memory import MemoryGroups, StepGroups, leaves, owners, tensors_of, with_tensors
from avalanche_mgem.references._capture import Capture, LayerwiseError, Path, Use
from avalanche_mgem.references._factors import Factors
from avalanche_mgem.references._loop import Criterion, Forward
from avalanche_mgem.references._pairs import is_cheaper_by_samples

KEPT_ROWS_BYTES = 2**30
"""G up to this size is kept, which saves computing its rows a second time for the update. On a GPU it may
have an eighth of the memory."""

PASS_BYTES = {"cpu": 2**26, "cuda": 2**30}
"""Layer outputs of one pass: beyond it nothing is gained, on a CPU because they leave the cache."""


class Layerwise:
    """Computes the gradients of the loss on each group, in factors.

    Args:
        sample_bytes: layer outputs of one sample, by which it chooses how many go in one pass; None measures
            them in the first pass, of a single group.

    Attributes:
        path: the way that the last call took through the model.
    """

    def __init__(self, sample_bytes: float | None = None) -> None:
        self._given_sample_bytes = self._sample_bytes = sample_bytes
        self.path = Path()
        self._memory: Tensor | None = None
        self._user: weakref.ref[Factors] | None = None

    def __call__(
        self,
        groups: StepGroups,
        model: nn.Module,
        forward: Forward,
        criterion: Criterion,
        parameters: Sequence[nn.Parameter],
    ) -> Factors:
        """One forward and backward pass over as many groups at a time as are worth it.

        Args:
            groups: the memory groups.
            model: the model; its layers are watched and parameters frozen during the passes.
            forward: the model's output on inputs and task labels; calls ``model``.
            criterion: the scalar mean loss.
            parameters: with respect to these, all trainable ones of ``model``.

        Returns:
            what :func:`~avalanche_mgem.functional.project` takes in place of G ``[K, P]``.

        Raises:
            LayerwiseError: if the model cannot be watched.
        """
        factors = Factors(parameters, len(groups), self._memory_of_rows(len(groups), parameters))
        self._user, self.path = weakref.ref(factors), Path()
        start = 0
        while start < len(groups):
            part = groups[start : self._end_of_pass(groups, start)]
            assert isinstance(part, MemoryGroups)
            keep = _Keeper(factors, groups, parameters, keeps_all_rows=self._memory is not None)
            with Capture(model, parameters, part.sizes, part.tasks, start, keep, self.path) as capture:
                loss = _sum_of_means(criterion, forward(part.x, part.task_labels), part)
                for index, rows in capture.backward(loss).items():
                    factors.write(index, start, len(part), partial(_copy, rows))
            self._sample_bytes = max(1.0, keep.bytes / sum(part.sizes))
            start += len(part)
        return factors

    def reset(self) -> None:
        """Gives the memory of G back, and measures the samples anew, so that a restart changes no bit."""
        self._memory, self._sample_bytes = None, self._given_sample_bytes

    def _memory_of_rows(self, num_groups: int, parameters: Sequence[nn.Parameter]) -> Tensor | None:
        """For G, if it is kept.

        The same in every step, because new memory is slow at first; but for one user at a time.
        """
        P, p = sum(p.numel() for p in parameters), parameters[0]
        if num_groups * P * p.element_size() > _room_for_rows(p.device):
            self._memory = None
            return None
        old, wanted = self._memory, (num_groups * P, p.dtype, p.device)
        is_used = self._user is not None and self._user() is not None
        if old is None or (old.numel(), old.dtype, old.device) != wanted or is_used:
            self._memory = torch.empty(num_groups * P, dtype=p.dtype, device=p.device)
        return self._memory

    def _end_of_pass(self, groups: StepGroups, start: int) -> int:
        """As many groups of one form as fit, tasks in one piece each; a group of several by itself."""
        sizes, tasks = groups.sizes[: groups.end_of_form(start)], groups.tasks
        left = sum(sizes[start:])
        most = PASS_BYTES.get(groups.device.type, PASS_BYTES["cuda"]) / (self._sample_bytes or 1e99)
        limit = left / math.ceil(left / max(most, 1.0))  # evenly, rather than a small pass at the end
        has_tasks = groups.task_labels is not None
        samples = sizes[start]
        for stop in range(start + 1, len(sizes)):
            samples += sizes[stop]
            is_mixed = has_tasks and None in tasks[start : stop + 1]
            comes_back = tasks[stop] != tasks[stop - 1] and tasks[stop] in tasks[start:stop]
            if samples > limit or is_mixed or comes_back:
                return stop
        return len(sizes)


def _room_for_rows(device: torch.device) -> int:
    if device.type != "cuda":
        return KEPT_ROWS_BYTES
    return max(KEPT_ROWS_BYTES, torch.cuda.get_device_properties(device).total_memory // 8)


class _Keeper:
    """Puts into the factors what one pass tells of a parameter, as the smaller of rows and use.

    Args:
        factors: where to put it.
        groups: all of the step.
        parameters: all of the model.
        keeps_all_rows: whether there is room for all of G.
    """

    def __init__(
        self,
        factors: Factors,
        groups: StepGroups,
        parameters: Sequence[nn.Parameter],
        *,
        keeps_all_rows: bool,
    ):
        self._factors, self._parameters = factors, parameters
        self._num_groups, self._num_samples = len(groups), sum(groups.sizes)
        self._keeps_all_rows = keeps_all_rows
        self._by_samples: set[nn.Module] = set()
        self.bytes = 0  # of the layers' outputs that went by

    def __call__(self, index: int, use: Use) -> None:
        p = self._parameters[index]
        if use.name == "weight":
            self.bytes += _bytes(use.d)
            if is_cheaper_by_samples(use, self._num_groups, self._num_samples):
                self._by_samples.add(use.layer)
        number = len(use.sizes)
        is_small = self._keeps_all_rows or number * _bytes(p) <= _bytes(use.a) + _bytes(use.d)
        if is_small and use.layer not in self._by_samples:  # there its bias goes with it
            everything = slice(0, len(p))
            self._factors.write(
                index, use.first, number, lambda out: use.gradients(everything, out.view(number, *p.shape))
            )
        else:
            self._factors.keep(index, use)


def _sum_of_means(criterion: Criterion, output: Any, part: MemoryGroups) -> Tensor:
    """The sum of the groups' mean losses: of one output, only its own group's mean has a gradient."""
    y = part.y
    if (
        type(criterion) is nn.CrossEntropyLoss
        and _is_plain(criterion)
        and isinstance(y, Tensor)
        and y.dim() == 1
    ):
        ignored, smoothing = criterion.ignore_index, criterion.label_smoothing
        losses = F.cross_entropy(output, y, ignore_index=ignored, reduction="none", label_smoothing=smoothing)
        group_of = owners(part.sizes, output.device)
        counted = losses.new_zeros(len(part)).index_add_(0, group_of, (y != ignored).to(losses.dtype))
        return losses @ counted.reciprocal_()[group_of]
    pairs = zip(_by_group(output, part.sizes), part.targets(), strict=True)
    return torch.stack([criterion(output_k, y_k) for output_k, y_k in pairs]).sum()


def _by_group(output: Any, sizes: Sequence[int]) -> Sequence[Any]:
    """Each group's share of a model's output: of a tensor, or of all tensors in it.

    Raises:
        LayerwiseError: if the output holds something whose share nobody knows.
    """
    if isinstance(output, Tensor):
        return torch.split(output, list(sizes))
    if len(sizes) == 1:
        return [output]
    for place, leaf in leaves(output, "output"):
        if not isinstance(leaf, Tensor | str | int | float | complex | None):
            raise LayerwiseError(f"the model's {place} is a {type(leaf).__name__}")
    shares = [_shares(tensor, sizes) for tensor in tensors_of(output)]
    return [with_tensors(output, [of_tensor[k] for of_tensor in shares]) for k in range(len(sizes))]


def _shares(tensor: Tensor, sizes: Sequence[int]) -> Sequence[Tensor]:
    """Each group's share of a tensor of the output.

    One without samples, such as the model's own mean loss, is of all groups at once. It gets a gradient of
    NaN, so that the comparison with the loop finds a criterion that uses it, whatever its weight.
    """
    if tensor.shape[:1] == (sum(sizes),):
        return torch.split(tensor, list(sizes))
    return [tensor * torch.nan if tensor.requires_grad else tensor] * len(sizes)


def _is_plain(criterion: nn.CrossEntropyLoss) -> bool:
    return criterion.reduction == "mean" and criterion.weight is None


def _copy(rows: Tensor, out: Tensor) -> None:
    out.copy_(rows)


def _bytes(x: Tensor) -> int:
    return x.numel() * x.element_size()
