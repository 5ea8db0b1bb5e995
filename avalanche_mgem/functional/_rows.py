"""The reference gradients as the projection sees them: rows of which only products are needed."""

from typing import Protocol

import torch
from torch import Tensor

from avalanche_mgem.functional._blocks import Blocks
from avalanche_mgem.functional._products import accumulation_dtype, add_products


class GradientRows(Protocol):
    """Reference gradients G ``[K, P]``, one row for each constraint, as a matrix or in another form.

    The projection asks for products with the rows and for weighted sums of them. So a model's gradients can
    serve it without ever being one matrix: see :mod:`avalanche_mgem.references`.

    Attributes:
        num_rows: K.
        num_columns: P.
        dtype: of the gradients.
    """

    num_rows: int
    num_columns: int
    dtype: torch.dtype

    def products(
        self, g: Tensor, blocks: Blocks, dtype: torch.dtype, *, diagonal: bool, row_by_row: bool
    ) -> tuple[Tensor, Tensor]:
        """Each module's inner products of the rows ``[m, K, K]``, and of the rows with g ``[m, K]``.

        Args:
            g: current gradient ``[P]``.
            blocks: the modules' coordinates.
            dtype: of the arithmetic and of the result.
            diagonal: compute only the rows' squared norms; the rest of the first result is zero.
            row_by_row: whether a row that is not finite must leave the products of the others alone.
        """
        ...

    def has_entries(self, rows: Tensor, blocks: Blocks) -> bool:
        """Whether a row that ``rows`` ``[m, K]`` marks in a module has an entry that is not zero there.

        ``rows`` is on the CPU.
        """
        ...

    def dense(self) -> Tensor:
        """G itself."""
        ...

    def combine(self, g: Tensor, v: Tensor, blocks: Blocks, *, out: Tensor | None = None) -> Tensor:
        """The update of g by the multipliers v, see :func:`~avalanche_mgem.functional.combine`."""
        ...


class DenseRows:
    """Reference gradients as one matrix.

    Args:
        G: ``[K, P]``.
    """

    def __init__(self, G: Tensor):
        self._G = G
        self.num_rows, self.num_columns = G.shape
        self.dtype = G.dtype

    def __repr__(self) -> str:
        return f"DenseRows({self.num_rows} x {self.num_columns}, {self.dtype})"

    def products(
        self, g: Tensor, blocks: Blocks, dtype: torch.dtype, *, diagonal: bool, row_by_row: bool = False
    ) -> tuple[Tensor, Tensor]:
        """See :meth:`GradientRows.products`; a matrix product always keeps its rows apart."""
        m, n = len(blocks.sizes), self.num_rows
        K, b = g.new_zeros(m, n, n, dtype=dtype), g.new_zeros(m, n, dtype=dtype)
        for Kj, bj, g_block, G_block in zip(K, b, blocks.split(g), blocks.split(self._G), strict=True):
            add_products(Kj, bj, g_block.to(dtype), G_block.to(dtype), diagonal=diagonal)
        return K, b

    def has_entries(self, rows: Tensor, blocks: Blocks) -> bool:
        """See :meth:`GradientRows.has_entries`."""
        parts = zip(rows, blocks.split(self._G), strict=True)
        found = [G_block[chosen.nonzero().squeeze(1).to(G_block.device)].any() for chosen, G_block in parts]
        return bool(torch.stack(found).any())

    def dense(self) -> Tensor:
        """See :meth:`GradientRows.dense`."""
        return self._G

    def combine(self, g: Tensor, v: Tensor, blocks: Blocks, *, out: Tensor | None = None) -> Tensor:
        """See :meth:`GradientRows.combine`."""
        dtype = torch.promote_types(accumulation_dtype(g.dtype, self.dtype), v.dtype)
        z = torch.empty_like(g) if out is None else out
        is_in_order = blocks.order is None
        parts = blocks.split(z) if is_in_order else [torch.empty_like(part) for part in blocks.split(z)]
        is_changed = (v != 0).any(dim=1).tolist()
        v = v.to(g.device, dtype, non_blocking=True)
        for j, (g_block, G_block) in enumerate(zip(blocks.split(g), blocks.split(self._G), strict=True)):
            if not is_changed[j]:
                if parts[j].data_ptr() != g_block.data_ptr():  # z may take the place of g
                    parts[j].copy_(g_block)
            elif z.dtype == dtype:
                torch.addmv(g_block, G_block.to(dtype).T, v[j], out=parts[j])
            else:
                parts[j].copy_(torch.addmv(g_block.to(dtype), G_block.to(dtype).T, v[j]))
        return z if is_in_order else z.copy_(blocks.join(list(parts)))


def as_rows(G: Tensor | GradientRows) -> GradientRows:
    """A matrix as :class:`DenseRows`; other forms as they are.

    Raises:
        ValueError: if ``G`` is a tensor but no floating-point matrix.
    """
    if not isinstance(G, Tensor):
        return G
    if G.dim() != 2 or not G.is_floating_point():
        raise ValueError(
            f"G must be a floating-point matrix of shape [K, P], a reference gradient in each row; "
            f"got {G.dtype} of shape {list(G.shape)}."
        )
    return DenseRows(G)
