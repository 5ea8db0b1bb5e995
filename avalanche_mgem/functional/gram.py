"""First step of the projection: from gradients to the small numbers that a solver needs."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import accumulate

import torch
from torch import Tensor

_STRIP, _STRIPS = 2**12, 2**8  # columns of one product, and products at a time


@dataclass(frozen=True)
class Blocks:
    """The coordinates of ``m`` modules as contiguous blocks.

    Attributes:
        sizes: number of coordinates of each module.
        order: permutation ``[P]`` that makes every module contiguous, or None when they already are.
    """

    sizes: tuple[int, ...]
    order: Tensor | None = None
    _pieces: dict[tuple[int, int], list[tuple[int, slice | Tensor]]] = field(
        default_factory=dict, repr=False, compare=False
    )

    @classmethod
    def from_modules(cls, modules: Tensor | None, num_parameters: int) -> "Blocks":
        """Reads module ids, a LongTensor ``[P]`` with values in ``0..m-1``; None is one module.

        Raises:
            ValueError: if the ids are not a non-negative integer vector of length ``num_parameters``.
        """
        if modules is None:
            return cls(sizes=(num_parameters,))
        if not isinstance(modules, Tensor):
            raise ValueError(f"modules must be a LongTensor, Blocks or None; got a {type(modules).__name__}.")
        if modules.dtype != torch.long or modules.shape != (num_parameters,):
            raise ValueError(
                f"modules must be a LongTensor of shape [{num_parameters}], one module id a parameter; "
                f"got {modules.dtype} of shape {list(modules.shape)}."
            )
        if num_parameters > 0 and int(modules.min()) < 0:
            raise ValueError(f"module ids start at 0; got {int(modules.min())}.")
        sizes = tuple(torch.bincount(modules).tolist())
        is_sorted = bool((modules[1:] >= modules[:-1]).all())
        return cls(sizes, None if is_sorted else torch.argsort(modules, stable=True))

    def split(self, x: Tensor) -> tuple[Tensor, ...]:
        """Splits the last dimension of ``x`` ``[..., P]`` into the ``m`` modules' coordinates."""
        if self.order is not None:
            x = x.index_select(-1, self.order)
        return torch.split(x, list(self.sizes), dim=-1)

    def pieces(self, start: int, stop: int) -> list[tuple[int, slice | Tensor]]:
        """The modules that the coordinates ``start..stop-1`` belong to.

        Returns:
            module ids, each with the places of its coordinates counted from ``start``.
        """
        if (start, stop) not in self._pieces:
            self._pieces[start, stop] = list(self._found_pieces(start, stop))
        return self._pieces[start, stop]

    def _found_pieces(self, start: int, stop: int) -> Iterator[tuple[int, slice | Tensor]]:
        for module, (size, end) in enumerate(zip(self.sizes, accumulate(self.sizes), strict=True)):
            if self.order is None:
                first, last = max(start, end - size), min(stop, end)
                if first < last:
                    yield module, slice(first - start, last - start)
                continue
            own = self.order[end - size : end]  # ascending
            first, last = torch.searchsorted(own, torch.tensor([start, stop], device=own.device)).tolist()
            if last - first == stop - start:
                yield module, slice(0, stop - start)
            elif first < last:
                yield module, own[first:last] - start

    def join(self, parts: list[Tensor]) -> Tensor:
        """Inverse of :meth:`split` for vectors."""
        joined = parts[0] if len(parts) == 1 else torch.cat(parts)
        if self.order is None:
            return joined
        return torch.empty_like(joined).index_copy_(0, self.order, joined)


def accumulation_dtype(g: Tensor, G: Tensor) -> torch.dtype:
    """The precision in which inner products are accumulated: that of g and G, and at least float32."""
    return torch.promote_types(torch.promote_types(g.dtype, G.dtype), torch.float32)


def gram(g: Tensor, G: Tensor, blocks: Blocks, *, diagonal: bool = False) -> tuple[Tensor, Tensor]:
    r"""Each module's Gram matrix and its products with the current gradient.

    For module :math:`j` with coordinates :math:`B_j`,
    :math:`K_j = G_{:,B_j} G_{:,B_j}^\top` and :math:`b_j = G_{:,B_j}\, g_{B_j}`.

    Args:
        g: current gradient ``[P]``.
        G: reference gradients ``[K, P]``, one a row.
        blocks: the modules' coordinates.
        diagonal: compute only the squared norms of the rows, in O(K P); the rest of ``K`` is zero.

    Returns:
        ``K`` ``[m, K, K]`` and ``b`` ``[m, K]``, accumulated in float32 at least; in float64 where float32
        would overflow or underflow, so that gradients of every scale give right products.
    """
    dtype = accumulation_dtype(g, G)
    K, b = _gram(g, G, blocks, dtype, diagonal)
    if dtype != torch.float64 and _is_out_of_range(g, G, K, b, blocks):
        K, b = _gram(g, G, blocks, torch.float64, diagonal)
    return K, b


def _gram(g: Tensor, G: Tensor, blocks: Blocks, dtype: torch.dtype, diagonal: bool) -> tuple[Tensor, Tensor]:
    Ks, bs = [], []
    for g_block, G_block in zip(blocks.split(g), blocks.split(G), strict=True):
        K, b = products(g_block.to(dtype), G_block.to(dtype), diagonal=diagonal)
        Ks.append(K)
        bs.append(b)
    return torch.stack(Ks), torch.stack(bs)


def products(g: Tensor, rows: Tensor, *, diagonal: bool = False) -> tuple[Tensor, Tensor]:
    """``rows @ rows.T`` and ``rows @ g`` of ``rows`` ``[K, P]``."""
    num_rows, num_columns = rows.shape
    K, b = rows.new_zeros(num_rows, num_rows), rows.new_zeros(num_rows)
    chunk = max(1, num_columns) if rows.is_cuda else _STRIPS * _STRIP
    block = max(1, num_rows) if rows.is_cuda else _block(num_rows)
    for first in range(0, num_columns, chunk):
        part = rows[:, first : first + chunk]
        if diagonal:
            K.diagonal().add_(part.square().sum(dim=1))
        else:
            for k in range(0, num_rows, block):
                _add_inner(K[k:, k : k + block], part[k:], part[k : k + block])
        b.addmv_(part, g[first : first + chunk])
    for k in range(block, num_rows, block):
        K[:k, k : k + block] = K[k : k + block, :k].T
    return K, b


def _block(num_rows: int) -> int:
    """Columns of K that are computed at a time, down from the diagonal: a multiple of a processor's vectors.

    Half of K need not be computed, but narrow products cost more by entry (measured on a CPU).
    """
    return 16 if num_rows <= 32 else 32


def _add_inner(K: Tensor, x: Tensor, y: Tensor) -> None:
    """Adds ``x @ y.T``; where both are wide, in strips.

    One product of so few rows keeps one thread busy; of strips, every thread takes its own.
    """
    strips = 0 if x.is_cuda else x.shape[1] // _STRIP
    if strips < 2:
        K.addmm_(x, y.T)
        return
    wide = strips * _STRIP
    xs, ys = (part[:, :wide].view(len(part), strips, _STRIP).transpose(0, 1) for part in (x, y))
    K += torch.bmm(xs, ys.mT).sum(dim=0)
    if wide < x.shape[1]:
        K.addmm_(x[:, wide:], y[:, wide:].T)


def _is_out_of_range(g: Tensor, G: Tensor, K: Tensor, b: Tensor, blocks: Blocks) -> bool:
    """Whether a product has overflowed, or the square of something that is not zero is near underflow."""
    if not (torch.isfinite(K).all() and torch.isfinite(b).all()):
        return True
    info = torch.finfo(K.dtype)
    tiny = info.tiny / info.eps
    squares = K.diagonal(dim1=-2, dim2=-1)
    # Rows that are zero in a module are usual (heads of other tasks), so the rows themselves are asked.
    if (squares < tiny).any():
        for j, G_block in enumerate(blocks.split(G)):
            if G_block[squares[j] < tiny].any():
                return True
    return is_near_underflow(g, b, blocks)


def is_near_underflow(g: Tensor, b: Tensor, blocks: Blocks) -> bool:
    """Whether a module of g is so small, but not zero, that its products ``b`` have lost digits."""
    tiny = torch.finfo(b.dtype).tiny / torch.finfo(b.dtype).eps
    if not (b.abs() < tiny).any():  # then g need not be read once more
        return False
    parts = [part.to(b.dtype) for part in blocks.split(g)]
    is_small = torch.stack([torch.dot(part, part) for part in parts]) < tiny
    return any(bool(part.any()) for part, small in zip(parts, is_small.tolist(), strict=True) if small)
