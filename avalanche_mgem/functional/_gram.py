"""First step of the projection: from gradients to the small numbers that a solver needs."""

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from avalanche_mgem.functional._blocks import Blocks
from avalanche_mgem.functional._products import accumulation_dtype
from avalanche_mgem.functional._rows import GradientRows, as_rows
from avalanche_mgem.solvers import Array


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
    products, _ = measured(g, as_rows(G), blocks, diagonal=diagonal)
    return products


@dataclass(frozen=True, eq=False)
class Numbers:
    """The products on the host, where solvers and checks work.

    Attributes:
        K: Gram matrices ``[m, K, K]`` in float64.
        b: products with the current gradient ``[m, K]``, likewise.
        norm: of the current gradient; not finite if it is not, or too long for its precision.
        dtype: the precision in which the products were accumulated.
    """

    K: Array
    b: Array
    norm: float
    dtype: torch.dtype

    @property
    def is_finite(self) -> bool:
        """Whether all of them are."""
        return all(bool(np.isfinite(x).all()) for x in (self.K, self.b, self.norm))

    @property
    def squares(self) -> Array:
        """Of the norms of the rows, ``[m, K]``."""
        return self.K.diagonal(axis1=-2, axis2=-1)


def measured(
    g: Tensor, rows: GradientRows, blocks: Blocks, *, diagonal: bool = False
) -> tuple[tuple[Tensor, Tensor], Numbers]:
    """The products of :func:`gram`, and the same on the host by one copy, which waits for a GPU."""
    dtype = accumulation_dtype(g.dtype, rows.dtype)
    K, b = rows.products(g, blocks, dtype, diagonal=diagonal, row_by_row=False)
    numbers = _on_host(g, K, b)
    if _is_out_of_range(g, rows, numbers, blocks):
        return measured_in_full(g, rows, blocks, diagonal=diagonal)
    return (K, b), numbers


def measured_in_full(
    g: Tensor, rows: GradientRows, blocks: Blocks, *, diagonal: bool = False
) -> tuple[tuple[Tensor, Tensor], Numbers]:
    """The same in float64 and row by row, where no digits are lost to range or to samples that cancel."""
    K, b = rows.products(g, blocks, torch.float64, diagonal=diagonal, row_by_row=True)
    return (K, b), _on_host(g, K, b)


def _on_host(g: Tensor, K: Tensor, b: Tensor) -> Numbers:
    norm = torch.linalg.vector_norm(g, dtype=b.dtype).view(1)
    m, n = b.shape
    flat = torch.cat([K.flatten(), b.flatten(), norm]).to("cpu", torch.float64).numpy()
    of_rows, along_g = flat[: m * n * n].reshape(m, n, n), flat[m * n * n : -1].reshape(m, n)
    return Numbers(of_rows, along_g, float(flat[-1]), b.dtype)


def _is_out_of_range(g: Tensor, rows: GradientRows, numbers: Numbers, blocks: Blocks) -> bool:
    """Whether a product has overflowed, or the square of something that is not zero is near underflow."""
    squares, least = numbers.squares, _least_square(numbers.dtype)
    if not numbers.is_finite:
        return True
    if numbers.dtype == torch.float64:  # nothing is wider; samples that cancel can leave a square below zero
        return bool((squares < 0).any())
    # Rows that are zero in a module are usual (heads of other tasks), so the rows themselves are asked.
    is_tiny = squares < least
    if is_tiny.any() and rows.has_entries(torch.from_numpy(is_tiny), blocks):
        return True
    return _is_near_underflow(g, numbers, blocks)


def _least_square(dtype: torch.dtype) -> float:
    """Below this the square of a norm has lost digits."""
    info = torch.finfo(dtype)
    return info.tiny / info.eps


def all_finite(x: Tensor) -> bool:
    """Whether everything is; a finite sum shows it in one pass, another may have overflowed by itself."""
    return math.isfinite(float(x.sum())) or bool(torch.isfinite(x).all())


def _is_near_underflow(g: Tensor, numbers: Numbers, blocks: Blocks) -> bool:
    """Whether a module of g is so small, but not zero, that its products ``b`` have lost digits."""
    tiny = _least_square(numbers.dtype)
    if not (np.abs(numbers.b) < tiny).any():  # then g need not be read once more
        return False
    parts = [part.to(numbers.dtype) for part in blocks.split(g)]
    is_small = torch.stack([torch.dot(part, part) for part in parts]) < tiny
    return any(bool(part.any()) for part, small in zip(parts, is_small.tolist(), strict=True) if small)
