"""First step of the projection: from gradients to the small numbers that a solver needs."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import accumulate

import torch
from torch import Tensor

_FEW_ROWS = 32

# Columns of one product; bytes that a thread reads at a time, which stay in its second-level cache; and rows
# or columns of K that are computed at a time: for few rows and for many, as measured on a CPU.
_STRIPS = {True: (2**10, 5 * 2**18, 10), False: (2**12, 2**22, 32)}


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
    strip = _STRIPS[len(rows) <= _FEW_ROWS][0]
    wide = 0 if rows.is_cuda else rows.shape[1] // strip * strip
    if wide:
        K, b = _by_strips(g[:wide], rows[:, :wide], diagonal=diagonal)
    else:
        K, b = rows.new_zeros(len(rows), len(rows)), rows.new_zeros(len(rows))
    rest = rows[:, wide:]
    if diagonal:
        K.diagonal().add_(rest.square().sum(dim=1))
    else:
        K.addmm_(rest, rest.T)
    return K, b.addmv_(rest, g[wide:])


def _by_strips(g: Tensor, rows: Tensor, *, diagonal: bool) -> tuple[Tensor, Tensor]:
    """The same for a whole number of strips of columns; the rows are read from memory once.

    One product of so few rows keeps one thread busy; of strips, every thread takes its own.
    """
    n = len(rows)
    strip, cached_bytes, block = _STRIPS[n <= _FEW_ROWS]
    strips = rows.shape[1] // strip
    of_thread = max(1, cached_bytes // (n * strip * rows.element_size()))
    at_once = min(strips, of_thread * torch.get_num_threads())
    pieces = [] if diagonal else list(_lower_triangle(n, block))
    inner = [
        rows.new_zeros(at_once, left.stop - left.start, right.stop - right.start) for left, right in pieces
    ]
    along_g, squares = rows.new_zeros(at_once, 1, n), rows.new_zeros(n)
    for first in range(0, strips, at_once):
        number = min(at_once, strips - first)
        columns = slice(first * strip, (first + number) * strip)
        x = rows[:, columns].view(n, number, strip).transpose(0, 1)
        for (left, right), sums in zip(pieces, inner, strict=True):
            sums[:number].baddbmm_(x[:, left], x[:, right].mT)
        along_g[:number].baddbmm_(g[columns].view(number, 1, strip), x.mT)
        if diagonal:
            squares += x.square().sum(dim=(0, 2))
    K = torch.diag(squares)
    for (left, right), sums in zip(pieces, inner, strict=True):
        K[left, right] = sums.sum(dim=0)
    return K.tril() + K.tril(-1).T, along_g.sum(dim=(0, 1))


def _lower_triangle(n: int, block: int) -> Iterator[tuple[slice, slice]]:
    """Pieces of an ``[n, n]`` matrix that cover it up to the diagonal: wide ones of few rows, else tall ones.

    Either is what a processor does well; narrow products cost more by entry.
    """
    for k in range(0, n, block):
        own = slice(k, min(n, k + block))
        yield (own, slice(0, own.stop)) if n <= _FEW_ROWS else (slice(k, n), own)


def _is_out_of_range(g: Tensor, G: Tensor, K: Tensor, b: Tensor, blocks: Blocks) -> bool:
    """Whether a product has overflowed, or the square of something that is not zero is near underflow."""
    if is_in_range(K, b):
        return False
    if not all_finite(K, b):
        return True
    tiny = least_square(K.dtype)
    squares = K.diagonal(dim1=-2, dim2=-1)
    # Rows that are zero in a module are usual (heads of other tasks), so the rows themselves are asked.
    if (squares < tiny).any():
        for j, G_block in enumerate(blocks.split(G)):
            if G_block[squares[j] < tiny].any():
                return True
    return is_near_underflow(g, b, blocks)


def is_in_range(K: Tensor, b: Tensor) -> bool:
    """Whether all products are finite and far from underflow; one look at few numbers, as in most steps."""
    if K.numel() == 0:
        return True
    least, most = torch.aminmax(torch.cat([K.diagonal(dim1=-2, dim2=-1), b.abs()]))
    return bool(least >= least_square(K.dtype)) and math.isfinite(most)  # by Cauchy and Schwarz all of K


def least_square(dtype: torch.dtype) -> float:
    """Below this the square of a norm has lost digits."""
    info = torch.finfo(dtype)
    return info.tiny / info.eps


def all_finite(*tensors: Tensor) -> bool:
    """Whether everything is; a finite sum shows it in one pass, another may have overflowed by itself."""
    return all(math.isfinite(float(x.sum())) or bool(torch.isfinite(x).all()) for x in tensors)


def is_near_underflow(g: Tensor, b: Tensor, blocks: Blocks) -> bool:
    """Whether a module of g is so small, but not zero, that its products ``b`` have lost digits."""
    tiny = least_square(b.dtype)
    if not (b.abs() < tiny).any():  # then g need not be read once more
        return False
    parts = [part.to(b.dtype) for part in blocks.split(g)]
    is_small = torch.stack([torch.dot(part, part) for part in parts]) < tiny
    return any(bool(part.any()) for part, small in zip(parts, is_small.tolist(), strict=True) if small)
