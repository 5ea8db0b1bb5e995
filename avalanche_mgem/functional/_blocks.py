"""The coordinates of the modules of p-mGEM."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import accumulate

import torch
from torch import Tensor


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
            coordinates = self.order[end - size : end]  # ascending
            limits = torch.tensor([start, stop], device=coordinates.device)
            first, last = torch.searchsorted(coordinates, limits).tolist()
            if last - first == stop - start:
                yield module, slice(0, stop - start)
            elif first < last:
                yield module, coordinates[first:last] - start

    def join(self, parts: list[Tensor]) -> Tensor:
        """Inverse of :meth:`split` for vectors."""
        joined = parts[0] if len(parts) == 1 else torch.cat(parts)
        if self.order is None:
            return joined
        return torch.empty_like(joined).index_copy_(0, self.order, joined)
