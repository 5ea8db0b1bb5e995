"""Inner products of a few long rows, near the speed at which memory can be read."""

from collections.abc import Iterator

import torch
from torch import Tensor

_FEW_ROWS = 32

# Columns of one product; bytes that a thread reads at a time, which stay in its second-level cache; and rows
# or columns of K that are computed at a time: for few rows and for many, as measured on a CPU.
_STRIPS = {True: (2**10, 5 * 2**18, 10), False: (2**12, 2**22, 32)}
_GPU_STRIP = 2**17  # columns of one product on a GPU; rows of fewer take one call less


def accumulation_dtype(g: torch.dtype, G: torch.dtype) -> torch.dtype:
    """The precision in which inner products of g and G are accumulated: theirs, and at least float32."""
    return torch.promote_types(torch.promote_types(g, G), torch.float32)


def add_products(K: Tensor, b: Tensor, g: Tensor, rows: Tensor, *, diagonal: bool = False) -> None:
    """Adds ``rows @ rows.T`` and ``rows @ g`` of ``rows`` ``[K, P]``; of the first the diagonal, if asked.

    Long rows go in strips of columns. On rows of 11 million float32 entries one matrix product takes 1.4 (19
    rows) to 2.6 times (4 rows) as long with two threads. Its sums are less exact too: 2e-3 off with 4 rows,
    where strips are 1e-7 off.
    """
    strip = _GPU_STRIP if rows.is_cuda else _STRIPS[len(rows) <= _FEW_ROWS][0]
    wide = rows.shape[1] // strip * strip
    if wide:
        by_strips = _by_strips_on_gpu if rows.is_cuda else _by_strips
        of_rows, along_g = by_strips(g[:wide], rows[:, :wide], with_rows=not diagonal)
        K += of_rows
        b += along_g
    rest = rows[:, wide:]
    b.addmv_(rest, g[wide:])
    if diagonal:
        # Strip by strip: one norm of 11 million float32 entries is 9e-4 off.
        norms = torch.linalg.vector_norm(rows[:, :wide].view(len(rows), -1, strip), dim=2)
        squares = norms.square().sum(dim=1) + torch.linalg.vector_norm(rest, dim=1).square()
        K.diagonal().add_(squares)
    else:
        K.addmm_(rest, rest.T)


def _by_strips(g: Tensor, rows: Tensor, *, with_rows: bool) -> tuple[Tensor, Tensor]:
    """The same for a whole number of strips of columns; the rows are read from memory once.

    One product of so few rows keeps one thread busy. With strips, every thread has one.
    """
    n = len(rows)
    strip, cached_bytes, block = _STRIPS[n <= _FEW_ROWS]
    strips = rows.shape[1] // strip
    of_thread = max(1, cached_bytes // (n * strip * rows.element_size()))
    at_once = min(strips, of_thread * torch.get_num_threads())
    pieces = list(_lower_triangle(n, block)) if with_rows else []
    inner = [
        rows.new_zeros(at_once, left.stop - left.start, right.stop - right.start) for left, right in pieces
    ]
    along_g = rows.new_zeros(at_once, 1, n)
    for first in range(0, strips, at_once):
        number = min(at_once, strips - first)
        columns = slice(first * strip, (first + number) * strip)
        x = rows[:, columns].view(n, number, strip).transpose(0, 1)
        for (left, right), sums in zip(pieces, inner, strict=True):
            sums[:number].baddbmm_(x[:, left], x[:, right].mT)
        along_g[:number].baddbmm_(g[columns].view(number, 1, strip), x.mT)
    K = rows.new_zeros(n, n)
    for (left, right), sums in zip(pieces, inner, strict=True):
        K[left, right] = sums.sum(dim=0)
    return K.tril() + K.tril(-1).T, along_g.sum(dim=(0, 1))


def _by_strips_on_gpu(g: Tensor, rows: Tensor, *, with_rows: bool) -> tuple[Tensor | float, Tensor]:
    """The same for all strips at once; the sums of one product over 11 million columns are 2e-6 off."""
    x = rows.view(len(rows), -1, _GPU_STRIP).transpose(0, 1)
    along_g = torch.bmm(x, g.view(-1, _GPU_STRIP, 1)).sum(dim=(0, 2))
    return torch.bmm(x, x.mT).sum(dim=0) if with_rows else 0.0, along_g


def _lower_triangle(n: int, block: int) -> Iterator[tuple[slice, slice]]:
    """Pieces of an ``[n, n]`` matrix that cover it up to the diagonal: wide ones of few rows, else tall ones.

    Either is what a processor does well; narrow products cost more by entry.
    """
    for k in range(0, n, block):
        piece = slice(k, min(n, k + block))
        yield (piece, slice(0, piece.stop)) if n <= _FEW_ROWS else (slice(k, n), piece)
