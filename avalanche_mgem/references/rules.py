"""Gradients of single layers, group by group, from what went in and what came back: one rule a layer type.

A rule gets a layer, the name of one of its parameters, the layer's input ``a`` and the gradient ``d`` of the
loss with respect to its output, both with the samples in the first dimension, the numbers of samples of the
groups, and which entries of the parameter's first dimension are wanted. It returns the gradient of that
parameter on each group, ``[K, entries, ...]``. Adding a layer type is a function and a line in ``RULES``.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 (torch's own spelling)
from torch.nn.grad import conv1d_weight, conv2d_weight, conv3d_weight

Rule = Callable[[Any, str, Tensor, Tensor, Sequence[int], slice], Tensor]


_FEW_POSITIONS = 64  # of a group's outputs, up to which unfolding is faster on a CPU than a convolution


def linear(layer: nn.Linear, name: str, a: Tensor, d: Tensor, sizes: Sequence[int], outputs: slice) -> Tensor:
    """Weight: the sum over samples (and positions) of the outer products of d and a."""
    d = d[..., outputs]
    if name == "bias":
        return _sums(d, sizes)
    groups = zip(_by_group(d, sizes), _by_group(a, sizes), strict=True)
    products = [torch.bmm(dk.mT, ak) for dk, ak in groups]
    return products[0] if len(products) == 1 else torch.cat(products)


def convolution(
    layer: nn.Conv2d, name: str, a: Tensor, d: Tensor, sizes: Sequence[int], outputs: slice
) -> Tensor:
    """Weight: torch's own weight gradient, once a group; a matrix product where a group has few positions."""
    if name == "bias":
        return _sums(d[:, outputs].movedim(1, -1), sizes)
    weight_gradient: Callable[..., Tensor] = {3: conv1d_weight, 4: conv2d_weight, 5: conv3d_weight}[a.dim()]
    padding: Any = layer.padding
    if layer.padding_mode != "zeros" or isinstance(padding, str):
        mode = "constant" if layer.padding_mode == "zeros" else layer.padding_mode
        a, padding = F.pad(a, layer._reversed_padding_repeated_twice, mode), 0
    shape = list(layer.weight.shape)
    first, last, _ = outputs.indices(shape[0])
    is_whole = layer.groups > 1  # its output channels cannot be computed one without the other
    if not is_whole:
        shape[0], d = last - first, d[:, outputs]
    if a.dim() == 4 and not is_whole and max(sizes) * d[0, 0].numel() <= _FEW_POSITIONS:
        patches = F.unfold(a, (shape[2], shape[3]), layer.dilation, padding, layer.stride).mT
        groups = zip(_by_group(d.flatten(2).mT, sizes), _by_group(patches, sizes), strict=True)
        return torch.cat([torch.bmm(dk.mT, ak) for dk, ak in groups]).view(-1, *shape)
    options = (layer.stride, padding, layer.dilation, layer.groups)
    rows = [
        weight_gradient(ak, shape, dk, *options)
        for ak, dk in zip(torch.split(a, list(sizes)), torch.split(d, list(sizes)), strict=True)
    ]
    return torch.stack(rows)[:, outputs] if is_whole else torch.stack(rows)


def embedding(
    layer: nn.Embedding, name: str, a: Tensor, d: Tensor, sizes: Sequence[int], outputs: slice
) -> Tensor:
    """Weight: every token's gradient is added to its row."""
    first, last, _ = outputs.indices(layer.num_embeddings)
    group_of = torch.repeat_interleave(torch.tensor(sizes, device=a.device))
    place = group_of.view(-1, *[1] * (a.dim() - 1)) * (last - first) + (a - first)
    wanted = (a >= first) & (a < last)
    if layer.padding_idx is not None:
        wanted &= a != layer.padding_idx
    rows = d.new_zeros(len(sizes) * (last - first), layer.embedding_dim)
    rows.index_add_(0, place[wanted], d[wanted])
    return rows.view(len(sizes), last - first, layer.embedding_dim)


def layer_norm(
    layer: nn.LayerNorm, name: str, a: Tensor, d: Tensor, sizes: Sequence[int], outputs: slice
) -> Tensor:
    """Weight: d times the normalised input."""
    if name == "weight":
        d = d * F.layer_norm(a, layer.normalized_shape, None, None, layer.eps)
    shape = layer.normalized_shape
    return _sums(d.flatten(-len(shape)), sizes).view(-1, *shape)[:, outputs]


def rms_norm(
    layer: nn.RMSNorm, name: str, a: Tensor, d: Tensor, sizes: Sequence[int], outputs: slice
) -> Tensor:
    """Weight: d times the normalised input."""
    shape = layer.normalized_shape
    d = d * F.rms_norm(a, shape, None, layer.eps)
    return _sums(d.flatten(-len(shape)), sizes).view(-1, *shape)[:, outputs]


def group_norm(
    layer: nn.GroupNorm, name: str, a: Tensor, d: Tensor, sizes: Sequence[int], outputs: slice
) -> Tensor:
    """Weight: d times the normalised input."""
    if name == "weight":
        d = d * F.group_norm(a, layer.num_groups, None, None, layer.eps)
    return _sums(d.movedim(1, -1), sizes)[:, outputs]


def batch_norm(
    layer: nn.BatchNorm2d, name: str, a: Tensor, d: Tensor, sizes: Sequence[int], outputs: slice
) -> Tensor:
    """Weight: d times the input normalised by the running statistics (others couple the samples)."""
    if name == "weight":
        d = d * F.batch_norm(a, layer.running_mean, layer.running_var, None, None, False, 0.0, layer.eps)
    return _sums(d.movedim(1, -1), sizes)[:, outputs]


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
    if any(name not in ("weight", "bias") for name, _ in layer.named_parameters(recurse=False)):
        return None
    if isinstance(layer, nn.Embedding):
        changes_weights = layer.max_norm is not None
        if changes_weights or layer.scale_grad_by_freq or layer.sparse:
            return None
    if isinstance(layer, nn.modules.batchnorm._BatchNorm) and (layer.training or layer.running_mean is None):
        return None
    return RULES.get(type(layer))


def _by_group(x: Tensor, sizes: Sequence[int]) -> list[Tensor]:
    """Splits ``[N, ..., C]`` into batches ``[groups, samples, C]``, one if all groups are of equal size."""
    if len(set(sizes)) == 1:
        return [x.reshape(len(sizes), -1, x.shape[-1])]
    return [part.reshape(1, -1, x.shape[-1]) for part in torch.split(x, list(sizes))]


def _sums(x: Tensor, sizes: Sequence[int]) -> Tensor:
    """The sums of ``[N, ..., C]`` over each group, ``[K, C]``."""
    return torch.cat([part.sum(dim=1) for part in _by_group(x, sizes)])
