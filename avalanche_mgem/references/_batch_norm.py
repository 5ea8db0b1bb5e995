"""BatchNorm over many groups, each normalised by its own samples."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 (torch's own spelling)


def is_by_batch(layer: nn.Module) -> bool:
    """Whether a layer is one of torch's BatchNorms and normalises by the samples that it sees now."""
    is_one = type(layer) in (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
    return is_one and (layer.training or layer.running_mean is None)


def batch_norm_by_group(
    layer: nn.BatchNorm2d, x: Tensor, weight: Tensor | None, bias: Tensor | None, sizes: Sequence[int]
) -> Tensor:
    """What the layer returns for one group after another, in one tensor.

    The layer's running statistics take in the groups in their order.

    Args:
        layer: in whose place this stands.
        x: inputs ``[N, C, ...]``.
        weight: of each group, ``[K, C]``; None without.
        bias: likewise.
        sizes: number of samples of each of the K groups.
    """
    updates = layer.training and layer.track_running_stats and layer.running_mean is not None
    mean, variance = (layer.running_mean, layer.running_var) if updates else (None, None)
    outputs = []
    for k, group in enumerate(torch.split(x, list(sizes))):
        momentum = layer.momentum
        if updates and layer.num_batches_tracked is not None:
            layer.num_batches_tracked.add_(1)
            momentum = 1.0 / int(layer.num_batches_tracked) if momentum is None else momentum
        w, b = (None if rows is None else rows[k] for rows in (weight, bias))
        outputs.append(F.batch_norm(group, mean, variance, w, b, True, momentum or 0.0, layer.eps))
    return torch.cat(outputs)
