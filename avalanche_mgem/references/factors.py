"""Reference gradients in factors: the products and the update that G would give, without G."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from avalanche_mgem.functional import Blocks
from avalanche_mgem.functional.gram import accumulation_dtype, is_near_underflow, products
from avalanche_mgem.references.capture import Use
from avalanche_mgem.references.rules import linear

TILE_BYTES = 2**25
"""Rows of one parameter that exist at a time, when they are not kept."""


@dataclass(frozen=True)
class Part:
    """A parameter's gradients on a run of constraints: the rows themselves, or a use of which they follow.

    Attributes:
        start: the first constraint.
        sizes: number of samples of each.
        use: what they follow from.
        rows: the gradients ``[len(sizes), n]``.
    """

    start: int
    sizes: tuple[int, ...]
    use: Use | None = None
    rows: Tensor | None = None

    def entries(self, outputs: slice, width: int) -> Tensor:
        """The gradients with respect to some of the parameter's ``outputs``, each of ``width`` numbers."""
        if self.use is None:
            assert self.rows is not None
            return self.rows[:, outputs.start * width : outputs.stop * width]
        use = self.use
        a = use.a.to(use.d.dtype) if use.a.is_floating_point() else use.a  # autocast has cast its copy only
        return use.rule(use.layer, use.name, a, use.d, self.sizes, outputs).flatten(1)

    def computed(self) -> "Part":
        """The same, as rows."""
        assert self.use is not None
        p: Tensor = getattr(self.use.layer, self.use.name)
        width = p[0].numel() if p.dim() else 1
        rows = self.entries(slice(0, len(p) if p.dim() else 1), width)
        return Part(self.start, self.sizes, rows=rows.to(p.dtype))


def is_cheaper_by_samples(part: Part, num_constraints: int, num_samples: int) -> bool:
    """Whether a linear layer's products cost less by way of the products of all pairs of samples.

    Compares the multiplications of the two ways, which is enough as both are matrix products.
    """
    use = part.use
    if use is None or use.rule is not linear or use.name != "weight":
        return False
    positions = use.a[0].numel() // use.a.shape[-1]
    M, inputs, outputs = num_samples * positions, use.a.shape[-1], use.d.shape[-1]
    by_samples = M * M * (inputs + outputs) + 2 * M * inputs * outputs
    by_rows = (M + num_constraints * (num_constraints + 4)) * inputs * outputs
    return by_samples < by_rows


class Factors:
    """Stands for G ``[K, P]`` where only its products and combinations are needed.

    Args:
        parameters: those with respect to which the gradients are taken; P coordinates in all.
        num_constraints: K.
    """

    def __init__(self, parameters: Sequence[nn.Parameter], num_constraints: int):
        self.num_constraints = num_constraints
        self._shapes = [p.shape for p in parameters]
        self._dtype = parameters[0].dtype
        self._device = parameters[0].device
        self._parts: list[list[Part]] = [[] for _ in parameters]

    def add(self, index: int, part: Part) -> None:
        """Takes in what one pass tells of the parameter at ``index``; several parts of it add up."""
        self._parts[index].append(part)

    def gram(self, g: Tensor, blocks: Blocks, *, diagonal: bool = False) -> tuple[Tensor, Tensor]:
        """As :func:`avalanche_mgem.functional.gram`, which says what it returns."""
        dtype = accumulation_dtype(g, torch.empty(0, dtype=self._dtype))
        K, b = self._products(g, blocks, dtype, diagonal)
        if dtype != torch.float64 and self._is_out_of_range(g, blocks, K, b):
            K, b = self._products(g, blocks, torch.float64, diagonal)
        return K, b

    def combine(self, g: Tensor, v: Tensor, blocks: Blocks) -> Tensor:
        """As :func:`avalanche_mgem.functional.combine`."""
        dtype = torch.promote_types(accumulation_dtype(g, torch.empty(0, dtype=self._dtype)), v.dtype)
        changed = (v != 0).any(dim=1).tolist()
        z = g.to(dtype, copy=True)
        for index, start in self._starts():
            pieces = blocks.pieces(start, start + self._shapes[index].numel())
            if not any(changed[module] for module, _ in pieces):
                continue
            if self._is_by_samples(index, pieces):
                a, d, group = self._samples(index, dtype)
                weights = v[pieces[0][0]].to(dtype)[group]
                z[start : start + self._shapes[index].numel()] += ((d * weights[:, None]).mT @ a).flatten()
                continue
            for offset, rows in self._tiles(index, start, dtype):
                for module, where in blocks.pieces(offset, offset + rows.shape[1]):
                    part = z[offset : offset + rows.shape[1]]
                    if where is None:
                        part.addmv_(rows.mT, v[module].to(dtype))
                    else:
                        part[where] += v[module].to(dtype) @ rows[:, where]
        return z.to(g.dtype)

    def rows(self) -> Tensor:
        """G ``[K, P]`` itself; for tests, and where it is small."""
        G = torch.zeros(self.num_constraints, sum(s.numel() for s in self._shapes), dtype=self._dtype)
        G = G.to(self._device)
        for index, start in self._starts():
            for offset, rows in self._tiles(index, start, self._dtype):
                G[:, offset : offset + rows.shape[1]] = rows
        return G

    def _products(
        self, g: Tensor, blocks: Blocks, dtype: torch.dtype, diagonal: bool
    ) -> tuple[Tensor, Tensor]:
        m, n = len(blocks.sizes), self.num_constraints
        K = torch.zeros(m, n, n, dtype=dtype, device=g.device)
        b = torch.zeros(m, n, dtype=dtype, device=g.device)
        for index, start in self._starts():
            pieces = blocks.pieces(start, start + self._shapes[index].numel())
            if self._is_by_samples(index, pieces):
                module = pieces[0][0]
                own = g[start : start + self._shapes[index].numel()].view(self._shapes[index])
                self._add_by_samples(K[module], b[module], own.to(dtype), index)
                continue
            for offset, tile in self._tiles(index, start, dtype):
                own = g[offset : offset + tile.shape[1]].to(dtype)
                for module, where in blocks.pieces(offset, offset + tile.shape[1]):
                    rows, part = (tile, own) if where is None else (tile[:, where], own[where])
                    added = products(part, rows, diagonal=diagonal)
                    K[module] += added[0]
                    b[module] += added[1]
        return K, b

    def _add_by_samples(self, K: Tensor, b: Tensor, g: Tensor, index: int) -> None:
        """The inner product of two outer products d a^T is the product of those of d and of a."""
        a, d, group = self._samples(index, K.dtype)
        members = torch.zeros(len(a), self.num_constraints, dtype=K.dtype, device=K.device)
        members[torch.arange(len(a), device=K.device), group] = 1.0
        K += members.mT @ ((a @ a.mT) * (d @ d.mT)) @ members
        b += members.mT @ ((d @ g) * a).sum(dim=1)

    def _samples(self, index: int, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
        """Inputs ``[M, in]``, output gradients ``[M, out]`` and constraint ``[M]`` of a linear layer."""
        inputs, gradients, groups = [], [], []
        for part in self._parts[index]:
            assert part.use is not None
            a, d = part.use.a, part.use.d
            positions = a[0].numel() // a.shape[-1]
            numbers = torch.tensor(part.sizes, device=a.device) * positions
            first = torch.arange(part.start, part.start + len(part.sizes), device=a.device)
            groups.append(first.repeat_interleave(numbers, output_size=len(a) * positions))
            inputs.append(a.reshape(-1, a.shape[-1]).to(dtype))
            gradients.append(d.reshape(-1, d.shape[-1]).to(dtype))
        return torch.cat(inputs), torch.cat(gradients), torch.cat(groups)

    def _is_by_samples(self, index: int, pieces: list[tuple[int, Tensor | None]]) -> bool:
        is_whole = len(pieces) == 1
        samples = sum(sum(part.sizes) for part in self._parts[index])
        return is_whole and all(
            is_cheaper_by_samples(part, self.num_constraints, samples) for part in self._parts[index]
        )

    def _starts(self) -> Iterator[tuple[int, int]]:
        """The parameters that some constraint reaches, and where they start among the coordinates."""
        start = 0
        for index, shape in enumerate(self._shapes):
            if self._parts[index]:
                yield index, start
            start += shape.numel()

    def _tiles(self, index: int, start: int, dtype: torch.dtype) -> Iterator[tuple[int, Tensor]]:
        """Coordinates and rows ``[K, n]`` of a parameter; in pieces where rows have to be computed."""
        parts, shape, n = self._parts[index], self._shapes[index], self.num_constraints
        outputs = shape[0] if shape else 1
        width = shape.numel() // max(outputs, 1)
        is_kept = all(part.use is None for part in parts)
        tile = outputs if is_kept else max(1, TILE_BYTES // (n * width * dtype.itemsize))
        for first in range(0, outputs, tile):
            wanted = slice(first, min(first + tile, outputs))
            if len(parts) == 1 and len(parts[0].sizes) == n:
                rows = parts[0].entries(wanted, width).to(dtype)
            else:
                rows = torch.zeros(n, (wanted.stop - first) * width, dtype=dtype, device=self._device)
                for part in parts:
                    rows[part.start : part.start + len(part.sizes)] += part.entries(wanted, width)
            yield start + first * width, rows

    def _is_out_of_range(self, g: Tensor, blocks: Blocks, K: Tensor, b: Tensor) -> bool:
        """Whether a product has overflowed, or the square of something that is not zero is near underflow."""
        if not (torch.isfinite(K).all() and torch.isfinite(b).all()):
            return True
        info = torch.finfo(K.dtype)
        is_tiny = K.diagonal(dim1=-2, dim2=-1) < info.tiny / info.eps
        if is_tiny.any():
            for index, start in self._starts():
                for offset, tile in self._tiles(index, start, self._dtype):
                    for module, where in blocks.pieces(offset, offset + tile.shape[1]):
                        rows = tile if where is None else tile[:, where]
                        if is_tiny[module].any() and rows[is_tiny[module]].any():
                            return True
        return is_near_underflow(g, blocks, K.dtype)
