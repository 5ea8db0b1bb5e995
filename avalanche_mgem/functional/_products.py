"""Inner products of a few long rows, near the speed at which memory can be read."""

from collections.abc import Iterator

import torch
from torch import Tensor

_FEW_ROWS = 32

# Columns of one product; bytes that a thread reads at a time, which stay in its second-level cache; and rows
# or columns of K that are computed at a time: for few rows and for many, as measured on a CPU.
_STRIPS = {True: (2**10, 5 * 2**18, 10), False: (2**12, 2**22, 32)}


def accumulation_dtype(g: torch.dtype, G: torch.dtype) -> torch.dtype:
    """The precision in which inner products of g and G are accumulated: theirs, and at least float32."""
    return torch.promote_types(torch.promote_types(g, G), torch.float32)


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
