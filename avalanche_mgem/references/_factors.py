"""Reference gradients in factors: the products and the update that G would give, without G."""

from collections.abc import Callable, Collection, Hashable, Iterator, Sequence
from itertools import accumulate

import torch
from torch import Tensor, nn

from avalanche_mgem.functional import Blocks
from avalanche_mgem.functional._products import accumulation_dtype, add_products
from avalanche_mgem.references._capture import Use
from avalanche_mgem.references._pairs import (
    LinearLayer,
    PairedLayers,
    is_cheaper_by_samples,
    joined,
    members,
)

TILE_BYTES = 2**25
"""Rows of one parameter that exist at a time, when they are not kept."""


class Factors:
    """Stands for G ``[K, P]`` where only its products and combinations are needed.

    For each parameter it has rows of G, or uses that determine them. Where it has both, they add up.

    Args:
        parameters: those with respect to which the gradients are taken; P coordinates in all.
        num_groups: K, one row for each.
        memory: ``[K P]`` for rows, each parameter's in one piece; None takes new memory for each.
    """

    def __init__(self, parameters: Sequence[nn.Parameter], num_groups: int, memory: Tensor | None):
        self.num_rows = num_groups
        self._shapes = [p.shape for p in parameters]
        self._ends = list(accumulate(shape.numel() for shape in self._shapes))
        self.num_columns = self._ends[-1]
        self.dtype, self._device = parameters[0].dtype, parameters[0].device
        self._memory = memory
        self._rows: dict[int, Tensor] = {}
        self._is_written: dict[int, list[bool]] = {}
        self._uses: dict[int, list[Use]] = {}
        self._pairs: tuple[Blocks, torch.dtype, list[PairedLayers], set[int]] | None = None

    def keep(self, index: int, use: Use) -> None:
        """Keeps a use of the parameter at ``index``."""
        self._uses.setdefault(index, []).append(use)

    def write(self, index: int, first: int, number: int, fill: Callable[[Tensor], object]) -> None:
        """Has the parameter's rows of some groups filled; adds to what earlier uses have left there.

        Args:
            index: of the parameter.
            first: the first of the groups.
            number: of them.
            fill: writes the gradients into what it is given, ``[number, n]``.
        """
        rows = self._rows_of(index)[first : first + number]
        is_written = self._is_written[index]
        if not any(is_written[first : first + number]):
            fill(rows)
        else:
            for k in range(number):
                if not is_written[first + k]:
                    rows[k].zero_()
            added = torch.empty_like(rows)
            fill(added)
            rows += added
        is_written[first : first + number] = [True] * number

    def products(
        self, g: Tensor, blocks: Blocks, dtype: torch.dtype, *, diagonal: bool, row_by_row: bool = False
    ) -> tuple[Tensor, Tensor]:
        """See :meth:`~avalanche_mgem.functional.GradientRows.products`; pairs of samples mix the rows."""
        self._clear_unwritten()
        m, n = len(blocks.sizes), self.num_rows
        g = g.to(dtype)
        K = torch.zeros(m, n, n, dtype=dtype, device=g.device)
        b = torch.zeros(m, n, dtype=dtype, device=g.device)
        by_samples, indices = ([], set()) if row_by_row else self._by_samples(blocks, dtype)
        for pairs in by_samples:
            pairs.add_products(K[pairs.module], b[pairs.module], g)
        for offset, rows in self._tiles(dtype, without=indices):
            part = g[offset : offset + rows.shape[1]]
            for module, where in blocks.pieces(offset, offset + rows.shape[1]):
                add_products(K[module], b[module], part[where], rows[:, where], diagonal=diagonal)
        return K, b

    def has_entries(self, rows: Tensor, blocks: Blocks) -> bool:
        """See :meth:`~avalanche_mgem.functional.GradientRows.has_entries`."""
        wanted = [row.nonzero().squeeze(1) for row in rows]
        found = [
            tile[wanted[module].to(tile.device)][:, where].any()
            for offset, tile in self._tiles(self.dtype)
            for module, where in blocks.pieces(offset, offset + tile.shape[1])
            if len(wanted[module])
        ]
        return bool(found) and bool(torch.stack(found).any())

    def combine(self, g: Tensor, v: Tensor, blocks: Blocks, *, out: Tensor | None = None) -> Tensor:
        """See :meth:`~avalanche_mgem.functional.GradientRows.combine`."""
        self._clear_unwritten()
        dtype = torch.promote_types(accumulation_dtype(g.dtype, self.dtype), v.dtype)
        v, changed = v.to(g.device, dtype, non_blocking=True), (v != 0).any(dim=1).tolist()
        if out is None or out.dtype != dtype:
            z = g.to(dtype, copy=True)
        else:  # it may be the memory of g
            z = out if out.data_ptr() == g.data_ptr() else out.copy_(g)
        by_samples, indices = self._by_samples(blocks, dtype)
        for pairs in by_samples:
            if changed[pairs.module]:
                pairs.add_update(z, v[pairs.module])
        for offset, rows in self._tiles(dtype, without=indices):
            part = z[offset : offset + rows.shape[1]]
            for module, where in blocks.pieces(offset, offset + rows.shape[1]):
                if not changed[module]:
                    continue
                if isinstance(where, slice):
                    part[where].addmv_(rows[:, where].mT, v[module])
                else:
                    part[where] += v[module] @ rows[:, where]
        return z.to(g.dtype) if out is None or out is z else out.copy_(z)

    def dense(self) -> Tensor:
        """See :meth:`~avalanche_mgem.functional.GradientRows.dense`; only where G is small."""
        self._clear_unwritten()
        G = torch.zeros(self.num_rows, self._ends[-1], dtype=self.dtype, device=self._device)
        for offset, rows in self._tiles(self.dtype):
            G[:, offset : offset + rows.shape[1]] = rows
        return G

    def _by_samples(self, blocks: Blocks, dtype: torch.dtype) -> tuple[list[PairedLayers], set[int]]:
        """What goes by pairs of samples, and the parameters that are in it."""
        known = self._pairs
        if known is None or known[0] is not blocks or known[1] != dtype:
            known = self._pairs = blocks, dtype, *self._found_by_samples(blocks, dtype)
        return known[2:]

    def _found_by_samples(self, blocks: Blocks, dtype: torch.dtype) -> tuple[list[PairedLayers], set[int]]:
        module_of = {index: self._module(index, blocks) for index in self._uses}
        biases = {
            (module_of[index], *(id(use.d) for use in uses)): index
            for index, uses in self._uses.items()
            if uses[0].name == "bias"
        }
        found: dict[Hashable, PairedLayers] = {}
        indices = set()
        for index, uses in self._uses.items():
            module = module_of[index]
            if module is None or uses[0].name != "weight":
                continue
            number = sum(sum(use.sizes) for use in uses)
            if not all(is_cheaper_by_samples(use, self.num_rows, number) for use in uses):
                continue
            bias = biases.get((module, *(id(use.d) for use in uses)))
            seen = tuple((use.sizes, use.first, use.positions) for use in uses)
            if (module, seen) not in found:
                group_of = members(seen, self.num_rows, dtype, self._device)
                found[module, seen] = PairedLayers(module, group_of, [])
            places = self._place(index), None if bias is None else self._place(bias)
            found[module, seen].layers.append(LinearLayer(*places, *joined(uses, dtype)))
            indices |= {index} if bias is None else {index, bias}
        return list(found.values()), indices

    def _module(self, index: int, blocks: Blocks) -> int | None:
        """The only module of a parameter of which there are no rows; None if there are several, or rows."""
        pieces = blocks.pieces(self._start(index), self._ends[index])
        return pieces[0][0] if len(pieces) == 1 and index not in self._rows else None

    def _start(self, index: int) -> int:
        """The first of a parameter's coordinates."""
        return self._ends[index] - self._shapes[index].numel()

    def _place(self, index: int) -> slice:
        """A parameter's coordinates."""
        return slice(self._start(index), self._ends[index])

    def _rows_of(self, index: int) -> Tensor:
        if index not in self._rows:
            K, n, start = self.num_rows, self._shapes[index].numel(), self._start(index)
            self._is_written[index] = [False] * K
            if self._memory is None:
                self._rows[index] = torch.empty(K, n, dtype=self.dtype, device=self._device)
            else:
                self._rows[index] = self._memory[K * start : K * (start + n)].view(K, n)
        return self._rows[index]

    def _clear_unwritten(self) -> None:
        """Zeros in the rows of groups that do not reach the parameter."""
        for index, is_written in self._is_written.items():
            if not all(is_written):
                unwritten = [k for k, written in enumerate(is_written) if not written]
                self._rows[index][unwritten] = 0.0
                self._is_written[index] = [True] * self.num_rows

    def _tiles(self, dtype: torch.dtype, without: Collection[int] = ()) -> Iterator[tuple[int, Tensor]]:
        """Coordinates and rows ``[K, n]`` of what some group reaches; in pieces where computed."""
        for index, rows in self._rows.items():
            if index not in self._uses:
                yield self._start(index), rows.to(dtype)
        for index in self._uses:
            if index not in without:
                yield from self._computed(index, dtype)

    def _computed(self, index: int, dtype: torch.dtype) -> Iterator[tuple[int, Tensor]]:
        shape, n = self._shapes[index], self.num_rows
        outputs = shape[0] if shape else 1
        width = shape.numel() // max(outputs, 1)
        tile = max(1, TILE_BYTES // (n * width * dtype.itemsize))
        for first in range(0, outputs, tile):
            wanted = slice(first, min(first + tile, outputs))
            columns = slice(first * width, wanted.stop * width)
            if index in self._rows:
                rows = self._rows[index][:, columns].to(dtype, copy=True)
            else:
                rows = torch.zeros(n, columns.stop - columns.start, dtype=dtype, device=self._device)
            for use in self._uses[index]:
                seen = rows[use.first : use.first + len(use.sizes)]
                added = torch.empty_like(seen)
                use.gradients(wanted, added.view(len(use.sizes), -1, *shape[1:]))
                seen += added
            yield self._start(index) + columns.start, rows
