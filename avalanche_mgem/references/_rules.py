"""Gradients of single layers, group by group, from what went in and what came back: one rule a layer type.

A rule gets a layer, the name of one of its parameters, the layer's input ``a`` and the gradient ``d`` of the
loss with respect to its output, both with the samples in the first dimension, the numbers of samples of the
groups, and which entries of the parameter's first dimension are wanted. It writes the gradient of that
parameter on each group into ``out`` ``[K, entries, ...]``. Adding a layer type is a function and a line in
``RULES``.
"""

from collections.abc import Callable, Iterator, Sequence
from itertools import groupby
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 (torch's own spelling)
from torch.nn.grad import conv1d_weight, conv2d_weight, conv3d_weight

Rule = Callable[[Any, str, Tensor, Tensor, Sequence[int], slice, Tensor], None]


_FEW_POSITIONS = 64  # of a group's outputs, up to which unfolding is faster on a CPU than a convolution


def linear(
    layer: nn.Linear, name: str, a: Tensor, d: Tensor, sizes: Sequence[int], outputs: slice, out: Tensor
) -> None:
    """Weight: the sum over samples (and positions) of the outer products of d and a."""
    d = d[..., outputs]
    if name == "bias":
        _sums(d, sizes, out)
    else:
        _outer_products(d, a, sizes, out)


def convolution(
    layer: nn.Conv2d, name: str, a: Tensor, d: Tensor, sizes: Sequence[int], outputs: slice, out: Tensor
) -> None:
    """Weight: torch's own weight gradient, on a GPU of all groups as one grouped convolution.

    On a CPU it is taken once a group, or is a matrix product where a group has few positions.
    """
    if name == "bias":
        _sums(d[:, outputs].movedim(1, -1), sizes, out)
        return
    weight_gradient: Callable[..., Tensor] = {3: conv1d_weight, 4: conv2d_weight, 5: conv3d_weight}[a.dim()]
    padding: Any = layer.padding
    if layer.padding_mode != "zeros" or isinstance(padding, str):
        mode = "constant" if layer.padding_mode == "zeros" else layer.padding_mode
        a, padding = F.pad(a, layer._reversed_padding_repeated_twice, mode), 0
    shape = list(layer.weight.shape)
    is_whole = layer.groups > 1  # its output channels cannot be computed one without the other
    if not is_whole:
        shape[0], d = out.shape[1], d[:, outputs]
    options = (layer.stride, padding, layer.dilation)
    if is_on_gpu(a):  # group by group takes 1.0 to 13 times as long, most of it launches
        for groups, samples, _ in runs(sizes):
            number = groups.stop - groups.start
            inputs, gradients = (side_by_side(x[samples], number) for x in (a, d))
            every = weight_gradient(
                inputs, [number * shape[0], *shape[1:]], gradients, *options, number * layer.groups
            )
            gradient = every.view(number, *shape)
            out[groups].copy_(gradient[:, outputs] if is_whole else gradient)
        return
    if a.dim() == 4 and not is_whole and max(sizes) * d[0, 0].numel() <= _FEW_POSITIONS:
        patches = F.unfold(a, (shape[2], shape[3]), layer.dilation, padding, layer.stride).mT
        _outer_products(d.flatten(2).mT, patches, sizes, out.flatten(2))
        return
    split = zip(torch.split(a, list(sizes)), torch.split(d, list(sizes)), strict=True)
    for k, (ak, dk) in enumerate(split):
        gradient = weight_gradient(ak, shape, dk, *options, layer.groups)
        out[k].copy_(gradient[outputs] if is_whole else gradient)


def embedding(
    layer: nn.Embedding, name: str, a: Tensor, d: Tensor, sizes: Sequence[int], outputs: slice, out: Tensor
) -> None:
    """Weight: every token's gradient is added to its row."""
    first, last, _ = outputs.indices(layer.num_embeddings)
    group_of = torch.repeat_interleave(torch.tensor(sizes, device=a.device))
    place = group_of.view(-1, *[1] * (a.dim() - 1)) * (last - first) + (a - first)
    wanted = (a >= first) & (a < last)
    if layer.padding_idx is not None:
        wanted &= a != layer.padding_idx
    rows = d.new_zeros(len(sizes) * (last - first), layer.embedding_dim)
    rows.index_add_(0, place[wanted], d[wanted])
    out.copy_(rows.view(out.shape))


def layer_norm(
    layer: nn.LayerNorm, name: str, a: Tensor, d: Tensor, sizes: Sequence[int], outputs: slice, out: Tensor
) -> None:
    """Weight: d times the normalised input."""
    if name == "weight":
        d = d * F.layer_norm(a, layer.normalized_shape, None, None, layer.eps)
    _sums_over_shape(d, layer.normalized_shape, sizes, outputs, out)


def rms_norm(
    layer: nn.RMSNorm, name: str, a: Tensor, d: Tensor, sizes: Sequence[int], outputs: slice, out: Tensor
) -> None:
    """Weight: d times the normalised input."""
    d = d * F.rms_norm(a, layer.normalized_shape, None, layer.eps)
    _sums_over_shape(d, layer.normalized_shape, sizes, outputs, out)


def group_norm(
    layer: nn.GroupNorm, name: str, a: Tensor, d: Tensor, sizes: Sequence[int], outputs: slice, out: Tensor
) -> None:
    """Weight: d times the normalised input."""
    if name == "weight":
        d = d * F.group_norm(a, layer.num_groups, None, None, layer.eps)
    _sums(d[:, outputs].movedim(1, -1), sizes, out)


def batch_norm(
    layer: nn.BatchNorm2d, name: str, a: Tensor, d: Tensor, sizes: Sequence[int], outputs: slice, out: Tensor
) -> None:
    """Weight: d times the input normalised by the running statistics (others couple the samples)."""
    if name == "weight":
        d = d * F.batch_norm(a, layer.running_mean, layer.running_var, None, None, False, 0.0, layer.eps)
    _sums(d[:, outputs].movedim(1, -1), sizes, out)


RULES: dict[type[nn.Module], Rule] = {
    nn.Linear: linear,
    nn.Conv1d: convolution,
    nn.Conv2d: convolution,
    nn.Conv3d: convolution,
    nn.Embedding: embedding,
    nn.LayerNorm: layer_norm,
    nn.RMSNorm: rms_norm,
    nn.GroupNorm: group_norm,
    nn.BatchNorm1d: batch_norm,
    nn.BatchNorm2d: batch_norm,
    nn.BatchNorm3d: batch_norm,
}


def rule_of(layer: nn.Module) -> Rule | None:
    """The rule for a layer in its present state, or None if it has to be run group by group.

    Only for the very classes of torch: a subclass may compute something else.
    """
    if not layer._parameters.keys() <= {"weight", "bias"}:
        return None
    if isinstance(layer, nn.Embedding):
        changes_weights = layer.max_norm is not None
        if changes_weights or layer.scale_grad_by_freq or layer.sparse:
            return None
    if isinstance(layer, nn.modules.batchnorm._BatchNorm) and (layer.training or layer.running_mean is None):
        return None
    return RULES.get(type(layer))


def runs(sizes: Sequence[int]) -> Iterator[tuple[slice, slice, int]]:
    """Neighbouring groups of equal size: which groups, which samples, and the size of each."""
    k = start = 0
    for size, run in groupby(sizes):
        number = len(list(run))
        yield slice(k, k + number), slice(start, start + number * size), size
        k, start = k + number, start + number * size


def is_on_gpu(x: Tensor) -> bool:
    """Where a call costs its launch, so that one for all groups is faster than one for each."""
    return x.is_cuda


def side_by_side(x: Tensor, number: int) -> Tensor:
    """Samples ``[K n, C, ...]`` of K groups of one size, their channels side by side: ``[n, K C, ...]``."""
    return x.reshape(number, len(x) // number, *x.shape[1:]).transpose(0, 1).flatten(1, 2)


def _outer_products(d: Tensor, a: Tensor, sizes: Sequence[int], out: Tensor) -> None:
    """The sums of the outer products of ``[N, ..., outputs]`` and ``[N, ..., inputs]`` over each group."""
    for groups, samples, _ in runs(sizes):
        number = groups.stop - groups.start
        dk, ak = (x[samples].reshape(number, -1, x.shape[-1]) for x in (d, a))
        if out.dtype == dk.dtype:
            torch.bmm(dk.mT, ak, out=out[groups])
        else:  # under autocast
            out[groups].copy_(torch.bmm(dk.mT, ak))


def _sums(x: Tensor, sizes: Sequence[int], out: Tensor) -> None:
    """The sums of ``[N, ..., C]`` over each group, into ``[K, C]``."""
    for groups, samples, _ in runs(sizes):
        part = x[samples].reshape(groups.stop - groups.start, -1, x.shape[-1])
        torch.sum(part, dim=1, out=out[groups])


def _sums_over_shape(
    x: Tensor, shape: Sequence[int], sizes: Sequence[int], outputs: slice, out: Tensor
) -> None:
    """The sums over each group of ``[N, ..., *shape]``, of some entries of the first one of ``shape``."""
    x = x.flatten(1, -1 - len(shape)) if x.dim() > 1 + len(shape) else x.unsqueeze(1)
    x = x[:, :, outputs]
    _sums(x.flatten(2), sizes, out.flatten(1))
