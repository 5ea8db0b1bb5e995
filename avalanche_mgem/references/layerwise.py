"""Reference gradients layer by layer: one forward and backward over all memories, and no G.

Each layer's gradient on a group follows from the group's rows of its input and output gradient (see
:mod:`~avalanche_mgem.references.rules`). What is kept of a layer is the smaller of the two.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 (torch's own spelling)

from avalanche_mgem.constraints import Constraints
from avalanche_mgem.references.capture import Capture, Use
from avalanche_mgem.references.factors import Factors, Part, is_cheaper_by_samples
from avalanche_mgem.references.loop import Criterion, Forward

KEPT_ROWS_BYTES = 2**30
"""G up to this size is kept, which saves computing its rows a second time for the update."""

PASS_BYTES = {"cpu": 2**26, "cuda": 2**30}
"""Layer outputs of one pass: beyond it nothing is gained, on a CPU because they leave the cache."""


class Layerwise:
    """Computes the gradients of the loss on each constraint, in factors.

    Args:
        sample_bytes: layer outputs of one sample, by which it chooses how many go in one pass; None measures
            them in the first pass, of a single constraint.
    """

    def __init__(self, sample_bytes: float | None = None) -> None:
        self._sample_bytes = sample_bytes

    def __call__(
        self,
        constraints: Constraints,
        model: nn.Module,
        forward: Forward,
        criterion: Criterion,
        parameters: Sequence[nn.Parameter],
    ) -> Factors:
        """One forward and backward pass over as many constraints at a time as are worth it.

        Args:
            constraints: the memory groups.
            model: the model; its layers are watched and parameters frozen during the passes.
            forward: the model's output on inputs and task labels; calls ``model``.
            criterion: the scalar mean loss.
            parameters: with respect to these, all trainable ones of ``model``.

        Returns:
            what :func:`~avalanche_mgem.functional.project` takes in place of G ``[K, P]``.

        Raises:
            LayerwiseError: if the gradients of the groups cannot be told apart in this model.
        """
        factors = Factors(parameters, len(constraints))
        start = 0
        while start < len(constraints):
            part = constraints[start : self._end_of_pass(constraints, start)]
            keep = _Keeper(factors, constraints, parameters, start)
            with Capture(model, parameters, part.sizes, part.tasks, keep) as capture:
                loss = _sum_of_means(criterion, forward(part.x, part.task_labels), part)
                for index, rows in capture.backward(loss).items():
                    factors.add(index, Part(start, part.sizes, rows=rows))
            self._sample_bytes = max(1.0, keep.bytes / len(part.y))
            start += len(part)
        return factors

    def _end_of_pass(self, constraints: Constraints, start: int) -> int:
        """As many groups as fit, tasks in one piece each; a group of several tasks by itself."""
        sizes, tasks = constraints.sizes, constraints.tasks
        limit = PASS_BYTES.get(constraints.x.device.type, PASS_BYTES["cuda"]) / (self._sample_bytes or 1e99)
        has_tasks = constraints.task_labels is not None
        samples = sizes[start]
        for stop in range(start + 1, len(sizes)):
            samples += sizes[stop]
            is_mixed = has_tasks and None in tasks[start : stop + 1]
            comes_back = tasks[stop] != tasks[stop - 1] and tasks[stop] in tasks[start:stop]
            if samples > limit or is_mixed or comes_back:
                return stop
        return len(sizes)


class _Keeper:
    """Puts into the factors what one pass tells of a parameter, as the smaller of rows and use.

    Args:
        factors: where to put it.
        constraints: all of the step.
        parameters: all of the model.
        start: the pass's first constraint.
    """

    def __init__(
        self,
        factors: Factors,
        constraints: Constraints,
        parameters: Sequence[nn.Parameter],
        start: int,
    ):
        self._factors, self._parameters = factors, parameters
        self._start = start
        self._num_constraints, self._num_samples = len(constraints), len(constraints.y)
        row_bytes = sum(p.numel() * p.element_size() for p in parameters)
        self._keeps_all_rows = len(constraints) * row_bytes <= KEPT_ROWS_BYTES
        self.bytes = 0  # of the layers' outputs that went by

    def __call__(self, index: int, use: Use) -> None:
        part = Part(self._start + use.first, use.sizes, use)
        if use.name == "weight":
            self.bytes += _bytes(use.d)
        rows_bytes = len(use.sizes) * _bytes(self._parameters[index])
        is_small = self._keeps_all_rows or rows_bytes <= _bytes(use.a) + _bytes(use.d)
        if is_small and not is_cheaper_by_samples(part, self._num_constraints, self._num_samples):
            part = part.computed()
        self._factors.add(index, part)


def _sum_of_means(criterion: Criterion, output: Tensor, part: Constraints) -> Tensor:
    """The sum of the groups' mean losses: of one output, only its own group's mean has a gradient."""
    sizes = list(part.sizes)
    if type(criterion) is nn.CrossEntropyLoss and _is_plain(criterion) and part.y.dim() == 1:
        ignored, smoothing = criterion.ignore_index, criterion.label_smoothing
        losses = F.cross_entropy(
            output, part.y, ignore_index=ignored, reduction="none", label_smoothing=smoothing
        )
        counted = (part.y != ignored).to(losses.dtype)
        if len(set(sizes)) == 1:
            return (losses.view(len(sizes), -1).sum(1) / counted.view(len(sizes), -1).sum(1)).sum()
        means = zip(torch.split(losses, sizes), torch.split(counted, sizes), strict=True)
        return torch.stack([own.sum() / number.sum() for own, number in means]).sum()
    groups = zip(torch.split(output, sizes), torch.split(part.y, sizes), strict=True)
    return torch.stack([criterion(output_k, y_k) for output_k, y_k in groups]).sum()


def _is_plain(criterion: nn.CrossEntropyLoss) -> bool:
    return criterion.reduction == "mean" and criterion.weight is None


def _bytes(x: Tensor) -> int:
    return x.numel() * x.element_size()
