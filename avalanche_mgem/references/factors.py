"""Reference gradients in factors: the products and the update that G would give, without G."""

from collections.abc import Callable, Collection, Iterator, Sequence
from itertools import accumulate

import torch
from torch import Tensor, nn

from avalanche_mgem.functional import Blocks
from avalanche_mgem.functional.gram import accumulation_dtype, is_near_underflow, products
from avalanche_mgem.references.capture import Use
from avalanche_mgem.references.rules import linear

TILE_BYTES = 2**25
"""Rows of one parameter that exist at a time, when they are not kept."""


def is_cheaper_by_samples(use: Use, num_constraints: int, num_samples: int) -> bool:
    """Whether a linear layer's products cost less by way of the products of all pairs of samples.

    Compares the multiplications of the two ways, which is enough as both are matrix products.
    """
    if use.rule is not linear or use.name != "weight":
        return False
    positions = use.a[0].numel() // use.a.shape[-1]
    M, inputs, outputs = num_samples * positions, use.a.shape[-1], use.d.shape[-1]
    by_samples = M * M * (inputs + outputs) + 2 * M * inputs * outputs
    by_rows = (M + 4 * num_constraints * (num_constraints + 4)) * inputs * outputs
    return by_samples < by_rows


class Factors:
    """Stands for G ``[K, P]`` where only its products and combinations are needed.

    Of each parameter it has the rows of G, or uses from which they follow, or both, which add up.

    Args:
        parameters: those with respect to which the gradients are taken; P coordinates in all.
        num_constraints: K.
        memory: ``[K P]`` for rows, each parameter's in one piece; None takes new memory for each.
    """

    def __init__(self, parameters: Sequence[nn.Parameter], num_constraints: int, memory: Tensor | None):
        self.num_constraints = num_constraints
        self._shapes = [p.shape for p in parameters]
        self._ends = list(accumulate(shape.numel() for shape in self._shapes))
        self._dtype, self._device = parameters[0].dtype, parameters[0].device
        self._memory = memory
        self._rows: dict[int, Tensor] = {}
        self._is_written: dict[int, list[bool]] = {}
        self._uses: dict[int, list[Use]] = {}
        self._samples: dict[int, tuple[Tensor, Tensor, Tensor]] = {}

    def keep(self, index: int, use: Use) -> None:
        """Keeps a use of the parameter at ``index``."""
        self._uses.setdefault(index, []).append(use)

    def write(self, index: int, first: int, number: int, fill: Callable[[Tensor], object]) -> None:
        """Has the parameter's rows of some constraints filled; adds to what earlier uses have left there.

        Args:
            index: of the parameter.
            first: the first of the constraints.
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

    def gram(self, g: Tensor, blocks: Blocks, *, diagonal: bool = False) -> tuple[Tensor, Tensor]:
        """As :func:`avalanche_mgem.functional.gram`, which says what it returns."""
        self._clear_unwritten()
        dtype = accumulation_dtype(g, torch.empty(0, dtype=self._dtype))
        K, b = self._products(g, blocks, dtype, diagonal, self._by_samples(blocks))
        if self._is_out_of_range(g, blocks, K, b):  # by rows: what is not finite stays in its row
            K, b = self._products(g, blocks, torch.float64, diagonal, {})
        return K, b

    def combine(self, g: Tensor, v: Tensor, blocks: Blocks, *, out: Tensor | None = None) -> Tensor:
        """As :func:`avalanche_mgem.functional.combine`."""
        self._clear_unwritten()
        dtype = torch.promote_types(accumulation_dtype(g, torch.empty(0, dtype=self._dtype)), v.dtype)
        v, changed = v.to(dtype), (v != 0).any(dim=1).tolist()
        z = g.to(dtype, copy=True) if out is None or out.dtype != dtype else out.copy_(g)
        by_samples = self._by_samples(blocks)
        for index, module in by_samples.items():
            if changed[module]:
                a, d, members = self._joined(index, dtype)
                weights = (members @ v[module]).unsqueeze(1)
                self._own(z, index).view(d.shape[1], a.shape[1]).addmm_((d * weights).mT, a)
        for offset, rows in self._tiles(dtype, without=by_samples):
            part = z[offset : offset + rows.shape[1]]
            for module, where in blocks.pieces(offset, offset + rows.shape[1]):
                if not changed[module]:
                    continue
                if isinstance(where, slice):
                    part[where].addmv_(rows[:, where].mT, v[module])
                else:
                    part[where] += v[module] @ rows[:, where]
        return z.to(g.dtype) if out is None or out is z else out.copy_(z)

    def rows(self) -> Tensor:
        """G ``[K, P]`` itself; for tests, and where it is small."""
        self._clear_unwritten()
        G = torch.zeros(self.num_constraints, self._ends[-1], dtype=self._dtype, device=self._device)
        for offset, rows in self._tiles(self._dtype):
            G[:, offset : offset + rows.shape[1]] = rows
        return G

    def _products(
        self, g: Tensor, blocks: Blocks, dtype: torch.dtype, diagonal: bool, by_samples: dict[int, int]
    ) -> tuple[Tensor, Tensor]:
        m, n = len(blocks.sizes), self.num_constraints
        g = g.to(dtype)
        K = torch.zeros(m, n, n, dtype=dtype, device=g.device)
        b = torch.zeros(m, n, dtype=dtype, device=g.device)
        for index, module in by_samples.items():
            self._add_by_samples(K[module], b[module], self._own(g, index), index)
        for offset, rows in self._tiles(dtype, without=by_samples):
            own = g[offset : offset + rows.shape[1]]
            for module, where in blocks.pieces(offset, offset + rows.shape[1]):
                added = products(own[where], rows[:, where], diagonal=diagonal)
                K[module] += added[0]
                b[module] += added[1]
        return K, b

    def _add_by_samples(self, K: Tensor, b: Tensor, g: Tensor, index: int) -> None:
        """The inner product of two outer products d a^T is the product of those of d and of a."""
        a, d, members = self._joined(index, K.dtype)
        pairs = (a @ a.mT).mul_(d @ d.mT)
        K += members.mT @ pairs @ members
        b += members.mT @ (a @ g.view(d.shape[1], a.shape[1]).mT).mul_(d).sum(dim=1)

    def _joined(self, index: int, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
        """Inputs ``[M, in]``, output gradients ``[M, out]`` and membership ``[M, K]`` of a linear layer."""
        if index not in self._samples or self._samples[index][0].dtype != dtype:
            inputs, gradients, owners = [], [], []
            for use in self._uses[index]:
                inputs.append(use.a.reshape(-1, use.a.shape[-1]).to(dtype))
                gradients.append(use.d.reshape(-1, use.d.shape[-1]).to(dtype))
                positions = len(inputs[-1]) // sum(use.sizes)
                owners += [k for k, size in enumerate(use.sizes, use.first) for _ in range(size * positions)]
            constraints = torch.arange(self.num_constraints, device=self._device)
            members = (torch.tensor(owners, device=self._device).unsqueeze(1) == constraints).to(dtype)
            self._samples[index] = _cat(inputs), _cat(gradients), members
        return self._samples[index]

    def _by_samples(self, blocks: Blocks) -> dict[int, int]:
        """The parameters whose products are those of pairs of samples, and the module of each."""
        found = {}
        for index, uses in self._uses.items():
            pieces = blocks.pieces(self._start(index), self._ends[index])
            samples = sum(sum(use.sizes) for use in uses)
            if (
                len(pieces) == 1
                and index not in self._rows
                and all(is_cheaper_by_samples(use, self.num_constraints, samples) for use in uses)
            ):
                found[index] = pieces[0][0]
        return found

    def _start(self, index: int) -> int:
        """The first of a parameter's coordinates."""
        return self._ends[index] - self._shapes[index].numel()

    def _own(self, x: Tensor, index: int) -> Tensor:
        """A parameter's coordinates of a vector."""
        return x[self._start(index) : self._ends[index]]

    def _rows_of(self, index: int) -> Tensor:
        if index not in self._rows:
            K, n, start = self.num_constraints, self._shapes[index].numel(), self._start(index)
            self._is_written[index] = [False] * K
            if self._memory is None:
                self._rows[index] = torch.empty(K, n, dtype=self._dtype, device=self._device)
            else:
                self._rows[index] = self._memory[K * start : K * (start + n)].view(K, n)
        return self._rows[index]

    def _clear_unwritten(self) -> None:
        """Zeros in the rows of constraints that do not reach the parameter."""
        for index, is_written in self._is_written.items():
            if not all(is_written):
                unwritten = [k for k, written in enumerate(is_written) if not written]
                self._rows[index][unwritten] = 0.0
                self._is_written[index] = [True] * self.num_constraints

    def _tiles(self, dtype: torch.dtype, without: Collection[int] = ()) -> Iterator[tuple[int, Tensor]]:
        """Coordinates and rows ``[K, n]`` of what some constraint reaches; in pieces where computed."""
        for index, rows in self._rows.items():
            if index not in self._uses:
                yield self._start(index), rows.to(dtype)
        for index in self._uses:
            if index not in without:
                yield from self._computed(index, dtype)

    def _computed(self, index: int, dtype: torch.dtype) -> Iterator[tuple[int, Tensor]]:
        shape, n = self._shapes[index], self.num_constraints
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
                own = rows[use.first : use.first + len(use.sizes)]
                added = torch.empty_like(own)
                use.gradients(wanted, added.view(len(use.sizes), -1, *shape[1:]))
                own += added
            yield self._start(index) + columns.start, rows

    def _is_out_of_range(self, g: Tensor, blocks: Blocks, K: Tensor, b: Tensor) -> bool:
        """Whether a product has overflowed, or the square of something that is not zero is near underflow."""
        if not (torch.isfinite(K).all() and torch.isfinite(b).all()):
            return True
        if K.dtype == torch.float64:
            return False
        info = torch.finfo(K.dtype)
        is_tiny = K.diagonal(dim1=-2, dim2=-1) < info.tiny / info.eps
        if is_tiny.any():
            for offset, rows in self._tiles(self._dtype):
                for module, where in blocks.pieces(offset, offset + rows.shape[1]):
                    if is_tiny[module].any() and rows[is_tiny[module]][:, where].any():
                        return True
        return is_near_underflow(g, b, blocks)


def _cat(parts: list[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(parts)
