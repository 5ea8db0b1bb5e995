"""The report of a projection: what it did, in small numbers."""

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

_ROUNDING = 1e-5  # of a multiplier at its bound, once the solver's scaling is undone in float32
_SOLVED = 1e-9  # the solvers' tolerance, against a module's longest pull


@dataclass(frozen=True, eq=False)
class ProjectionReport:
    r"""One projection of a gradient: its products, its multipliers, and numbers computed from them.

    With the rows :math:`g_k` of G, sums over modules, and :math:`z = g + G^\top v`,

    .. math:: \langle z, g\rangle = |g|^2 + v^\top b, \quad |z - g|^2 = v^\top K v, \quad
        |z|^2 = |g|^2 + 2 v^\top b + v^\top K v, \quad \langle z, g_k\rangle = (b + K v)_k.

    So nothing here has the size of a gradient, and nothing waits for a GPU. Values are tensors ``[]`` unless
    stated otherwise. A value that is not defined is NaN.

    Attributes:
        K: Gram matrices ``[m, K, K]``. Where nothing is violated they may have their diagonals only.
        b: products of the reference gradients with g, ``[m, K]``.
        v: multipliers ``[m, K]``, zero in the modules where nothing is violated.
        is_violated: whether any module has a violated constraint; otherwise z is g.
        norm: :math:`|g|`.
        memory_strength: :math:`\gamma`, the lower bound of the multipliers in a module with a violation.
        seconds_solver: time to find out whether anything is violated, and then to find v.
    """

    K: Tensor
    b: Tensor
    v: Tensor
    is_violated: bool
    norm: Tensor
    memory_strength: float
    seconds_solver: float

    @classmethod
    def of(
        cls, g: Tensor, K: Tensor, b: Tensor, v: Tensor | None, memory_strength: float, seconds_solver: float
    ) -> "ProjectionReport":
        """The report on g with the multipliers v; v is None where nothing is violated."""
        # The square of the norm of a tiny or huge g leaves float32; MPS has nothing wider.
        dtype = torch.float32 if g.device.type == "mps" else torch.float64
        norm = torch.linalg.vector_norm(g, dtype=dtype)
        K, b = K.to(dtype), b.to(dtype)
        multipliers = torch.zeros_like(b) if v is None else v.to(b.device, dtype, non_blocking=True)
        return cls(K, b, multipliers, v is not None, norm, memory_strength, seconds_solver)

    @cached_property
    def active_constraints(self) -> Tensor:
        """Number of multipliers, of all modules, that are above their lower bound."""
        norms = self.K.diagonal(dim1=-2, dim2=-1).sqrt()
        above = (self.v - (1 + _ROUNDING) * self.memory_strength) * norms
        return (above > _SOLVED * (self.v * norms).amax(dim=1, keepdim=True)).sum()

    @cached_property
    def relative_change(self) -> Tensor:
        """:math:`|z - g| / |g|`."""
        return self._squared_change.sqrt() / self.norm

    @cached_property
    def cosine_gradient(self) -> Tensor:
        """Of the angle between z and g."""
        cosine = (self.norm + (self.v * self.b).sum() / self.norm) / self.norm_z
        return cosine.clamp(-1.0, 1.0)

    @cached_property
    def norm_z(self) -> Tensor:
        """:math:`|z|`."""
        squared = self.norm.square() + 2 * (self.v * self.b).sum() + self._squared_change
        return squared.clamp(min=0.0).sqrt()

    @cached_property
    def norms_references(self) -> Tensor:
        """Norms of the rows of G, ``[K]``."""
        return self.K.diagonal(dim1=-2, dim2=-1).sum(dim=0).sqrt()

    @cached_property
    def products_z(self) -> Tensor:
        """<z, g_k> of z and the rows of G, ``[K]``."""
        return (self.b + self._products_change).sum(dim=0)

    @cached_property
    def cosine_worst(self) -> Tensor:
        """The smallest cosine of z with a row of G that is not zero."""
        cosines = self.products_z / (self.norms_references * self.norm_z)
        worst = cosines.masked_fill(self.norms_references == 0, torch.inf).amin()
        return torch.where(worst.isinf(), torch.nan, worst)

    @cached_property
    def _products_change(self) -> Tensor:
        return (self.K @ self.v.unsqueeze(-1)).squeeze(-1)

    @cached_property
    def _squared_change(self) -> Tensor:
        return (self.v * self._products_change).sum().clamp(min=0.0)
