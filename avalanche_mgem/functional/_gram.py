"""First step of the projection: from gradients to the small numbers that a solver needs."""

import math

import torch
from torch import Tensor

from avalanche_mgem.functional._blocks import Blocks
from avalanche_mgem.functional._products import accumulation_dtype
from avalanche_mgem.functional._rows import GradientRows, as_rows


def gram(
    g: Tensor, G: Tensor | GradientRows, blocks: Blocks, *, diagonal: bool = False
) -> tuple[Tensor, Tensor]:
    r"""Each module's Gram matrix and its products with the current gradient.

    For module :math:`j` with coordinates :math:`B_j`,
    :math:`K_j = G_{:,B_j} G_{:,B_j}^\top` and :math:`b_j = G_{:,B_j}\, g_{B_j}`.

    Args:
        g: current gradient ``[P]``.
        G: reference gradients ``[K, P]``, one a row.
        blocks: the modules' coordinates.
        diagonal: compute only the squared norms of the rows, in O(K P); the rest of ``K`` is zero.

    Returns:
        ``K`` ``[m, K, K]`` and ``b`` ``[m, K]``, accumulated in float32 at least. Where float32 would
        overflow or underflow they are computed again in float64, so that gradients of every scale give right
        products.

    Example:
        >>> g, G = torch.tensor([1.0, -1.0]), torch.tensor([[1.0, 2.0]])
        >>> gram(g, G, Blocks((2,)))
        (tensor([[[5.]]]), tensor([[-1.]]))
    """
    rows = as_rows(G)
    dtype = accumulation_dtype(g.dtype, rows.dtype)
    K, b = rows.products(g, blocks, dtype, diagonal=diagonal, row_by_row=False)
    if _is_out_of_range(g, rows, K, b, blocks):
        K, b = rows.products(g, blocks, torch.float64, diagonal=diagonal, row_by_row=True)
    return K, b


def _is_out_of_range(g: Tensor, rows: GradientRows, K: Tensor, b: Tensor, blocks: Blocks) -> bool:
    """Whether a product has overflowed, or the square of something that is not zero is near underflow."""
    if _is_in_range(K, b):
        return False
    if not all_finite(K, b):
        return True
    if K.dtype == torch.float64:  # there is nothing wider; samples that cancel can leave a square below zero
        return bool((K.diagonal(dim1=-2, dim2=-1) < 0).any())
    # Rows that are zero in a module are usual (heads of other tasks), so the rows themselves are asked.
    is_tiny = K.diagonal(dim1=-2, dim2=-1) < _least_square(K.dtype)
    return bool(is_tiny.any() and rows.has_entries(is_tiny, blocks)) or _is_near_underflow(g, b, blocks)


def _is_in_range(K: Tensor, b: Tensor) -> bool:
    """Whether all products are finite and far from underflow; one look at few numbers, as in most steps."""
    if K.numel() == 0:
        return True
    least, most = torch.aminmax(torch.cat([K.diagonal(dim1=-2, dim2=-1), b.abs()]))
    return bool(least >= _least_square(K.dtype)) and math.isfinite(most)  # by Cauchy and Schwarz all of K


def _least_square(dtype: torch.dtype) -> float:
    """Below this the square of a norm has lost digits."""
    info = torch.finfo(dtype)
    return info.tiny / info.eps


def all_finite(*tensors: Tensor) -> bool:
    """Whether everything is; a finite sum shows it in one pass, another may have overflowed by itself."""
    return all(math.isfinite(float(x.sum())) or bool(torch.isfinite(x).all()) for x in tensors)


def _is_near_underflow(g: Tensor, b: Tensor, blocks: Blocks) -> bool:
    """Whether a module of g is so small, but not zero, that its products ``b`` have lost digits."""
    tiny = _least_square(b.dtype)
    if not (b.abs() < tiny).any():  # then g need not be read once more
        return False
    parts = [part.to(b.dtype) for part in blocks.split(g)]
    is_small = torch.stack([torch.dot(part, part) for part in parts]) < tiny
    return any(bool(part.any()) for part, small in zip(parts, is_small.tolist(), strict=True) if small)
