"""BatchNorm over many groups at once, each normalised by its own samples."""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from avalanche_mgem.references._rules import runs

_CHUNK_BYTES = 2**22  # on a CPU: what several operations in a row find in the cache


def is_by_batch(layer: nn.Module) -> bool:
    """Whether a layer is one of torch's BatchNorms and normalises by the samples that it sees now."""
    is_one = type(layer) in (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
    return is_one and (layer.training or layer.running_mean is None)


def batch_norm_by_group(
    layer: nn.BatchNorm2d, x: Tensor, weight: Tensor | None, bias: Tensor | None, sizes: Sequence[int]
) -> Tensor:
    """What the layer returns for one group after another, in one call.

    The layer's running statistics take in the groups in their order.

    Args:
        layer: in whose place this stands.
        x: inputs ``[N, C, ...]``.
        weight: of each group, ``[K, C]``; None without.
        bias: likewise.
        sizes: number of samples of each of the K groups.
    """
    y, means, variances = _GroupedBatchNorm.apply(x, weight, bias, tuple(sizes), layer.eps)
    if layer.training and layer.track_running_stats and layer.running_mean is not None:
        positions = x[0, 0].numel()
        numbers = torch.tensor(sizes, dtype=means.dtype, device=x.device).unsqueeze(1) * positions
        _update(layer, means, variances * numbers / (numbers - 1))
    normalised: Tensor = y
    return normalised


@torch.no_grad()
def _update(layer: nn.BatchNorm2d, means: Tensor, variances: Tensor) -> None:
    """Running statistics after ``[K, C]`` of all groups: each time a share of the old one is kept."""
    assert layer.running_mean is not None
    assert layer.running_var is not None
    assert layer.num_batches_tracked is not None
    seen, K = int(layer.num_batches_tracked) if layer.momentum is None else 0, len(means)
    new = [1 / (seen + k + 1) if layer.momentum is None else layer.momentum for k in range(K)]
    kept = [1.0]  # after the last group, the one before it, ...
    for share in reversed(new):
        kept.append(kept[-1] * (1 - share))
    shares = means.new_tensor([share * left for share, left in zip(new, reversed(kept[:-1]), strict=True)])
    for running, stacked in ((layer.running_mean, means), (layer.running_var, variances)):
        running.mul_(kept[-1]).add_((shares @ stacked).to(running.dtype))
    layer.num_batches_tracked += K


class _GroupedBatchNorm(torch.autograd.Function):
    """y = (x - mean) / sqrt(var + eps) * weight + bias, all but x of each group's own.

    Step by step over as many groups as fit the cache: in one go the intermediate results, as large as x, cost
    more than the arithmetic.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor | None, bias: Tensor | None, sizes: tuple[int, ...], eps: float
    ) -> tuple[Tensor, Tensor, Tensor]:
        is_last = _has_channels_last(x)
        x = x if is_last else x.contiguous()
        y = torch.empty_like(x)
        dims = _but_channels(is_last)
        means = x.new_empty(len(sizes), x.shape[1], dtype=torch.promote_types(x.dtype, torch.float32))
        variances, scales = torch.empty_like(means), torch.empty_like(means)
        for groups, (v, out) in _chunks((x, y), sizes, is_last):
            v = v.to(means.dtype)
            mean = v.mean(dims, keepdim=True)
            v = v - mean  # before it is squared: a large mean costs no digits
            norm = torch.linalg.vector_norm(v, dim=dims)
            variances[groups] = norm.square() / (v.numel() / norm.numel())
            means[groups] = mean.view(norm.shape)
            scales[groups] = (variances[groups] + eps).rsqrt()
            scale = scales[groups] if weight is None else scales[groups] * weight[groups]
            shape = mean.shape
            shift = torch.zeros_like(mean) if bias is None else bias[groups].view(shape)
            torch.addcmul(shift, v, scale.view(shape), out=out)
        ctx.save_for_backward(x, weight, means, scales)
        ctx.sizes, ctx.is_last, ctx.has_bias = sizes, is_last, bias is not None
        ctx.mark_non_differentiable(means, variances)
        return y, means, variances

    @staticmethod
    def backward(ctx: Any, d: Tensor, *_: Any) -> tuple[Tensor | None, ...]:
        x, weight, means, scales = ctx.saved_tensors
        dims = _but_channels(ctx.is_last)
        d = d.movedim(1, -1).contiguous().movedim(-1, 1) if ctx.is_last else d.contiguous()
        dx = torch.empty_like(x) if ctx.needs_input_grad[0] else None
        weights, biases = torch.empty_like(means), torch.empty_like(means)
        for groups, (v, dv, out) in _chunks((x, d, dx), ctx.sizes, ctx.is_last):
            v, dv = v.to(means.dtype), dv.to(means.dtype)
            own, scale = means[groups], scales[groups]
            total = dv.sum(dims, keepdim=True)
            shape, n = total.shape, v.numel() / own.numel()
            v = v - own.view(shape)
            product = (dv * v).sum(dims)
            weights[groups], biases[groups] = product * scale, total.view(own.shape)
            if out is not None:
                part = torch.addcmul(dv - total / n, v, (-product * scale.square() / n).view(shape))
                torch.mul(part, (scale if weight is None else scale * weight[groups]).view(shape), out=out)
        has_weight = weight is not None
        return dx, weights if has_weight else None, biases if ctx.has_bias else None, None, None


def _has_channels_last(x: Tensor) -> bool:
    return x.dim() == 2 or x.movedim(1, -1).is_contiguous()


def _but_channels(is_last: bool) -> tuple[int, ...]:
    return (1,) if is_last else (1, 3)


def _chunks(
    tensors: Sequence[Tensor | None], sizes: Sequence[int], is_last: bool
) -> Iterator[tuple[slice, list[Any]]]:
    """Groups of equal size, and their parts: ``[groups, positions, C]`` or ``[groups, n, C, positions]``."""
    first = tensors[0]
    assert first is not None
    sample_bytes = max(1, first[0].numel() * first.element_size())
    for groups, samples, size in runs(sizes):
        most = len(sizes) if first.is_cuda else max(1, _CHUNK_BYTES // (size * sample_bytes))
        for k in range(groups.start, groups.stop, most):
            own = slice(k, min(k + most, groups.stop))
            start = samples.start + (k - groups.start) * size
            here = slice(start, start + (own.stop - k) * size)
            yield own, [None if x is None else _view(x[here], own.stop - k, size, is_last) for x in tensors]


def _view(x: Tensor, number: int, size: int, is_last: bool) -> Tensor:
    C = x.shape[1]
    if is_last:
        return x.movedim(1, -1).view(number, -1, C)
    return x.view(number, size, C, -1)
