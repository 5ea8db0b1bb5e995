"""Second step of the projection: the dual quadratic programs of all modules, by any solver."""

import math
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from avalanche_mgem.solvers import Array, Solver

Ridge = Literal["relative", "absolute"]
RIDGES = ("relative", "absolute")

ABSOLUTE_RIDGE = 1e-3
"""What GEM's original code and Avalanche add to the diagonal of the Gram matrix."""


def relative_ridge(num_rows: int, dtype: torch.dtype) -> float:
    """The number added to the diagonal once every row is scaled to norm 1.

    It is above the rounding error of the Gram matrix, which grows with its size. So duplicated rows, and more
    rows than parameters, stay solvable. It is small, because the worst cosine of a constrained row with the
    update is of its order: 1e-9 in float64, 2e-7 (one row) to 5e-5 (200 rows) in float32.
    """
    return max(1e-9, 2 * num_rows * torch.finfo(dtype).eps)


def check_ridge(ridge: str) -> None:
    """Raises a ValueError if there is no ridge of that name."""
    if ridge not in RIDGES:
        raise ValueError(f"ridge must be one of {RIDGES}; got {ridge!r}.")


def check_options(memory_strength: float, ridge: str) -> None:
    """Checks the options of :func:`dual` in every call, also where no constraint is violated.

    Raises:
        ValueError: if ``memory_strength`` is not finite and at least 0, or there is no ridge of that name.
    """
    is_number = isinstance(memory_strength, int | float) and not isinstance(memory_strength, bool)
    if not (is_number and math.isfinite(memory_strength) and memory_strength >= 0):
        raise ValueError(f"memory_strength must be finite and at least 0; got {memory_strength!r}.")
    check_ridge(ridge)


def dual(
    K: Tensor, b: Tensor, *, memory_strength: float, solver: Solver, ridge: Ridge = "relative"
) -> Tensor:
    r"""Multipliers of the constraints of every module (GEM, Eq. 11; Lopez-Paz and Ranzato, 2017).

    For each module it solves

    .. math:: v^* = \arg\min_{v \ge \gamma} \tfrac12 v^\top (K + \varepsilon D) v + b^\top v

    with :math:`D = I, \varepsilon = 10^{-3}` for the absolute ridge, as GEM, and
    :math:`D = \mathrm{diag}(K), \varepsilon \ll 1` for the relative one, which does not depend on the scale
    of the gradients. The solver sees the equivalent problem with a unit diagonal and right-hand side of
    order 1, so that its tolerances mean the same for gradients of norm 1e-12 and 1e15.

    Args:
        K: Gram matrices ``[m, K, K]``.
        b: products of the reference gradients with the current one ``[m, K]``.
        memory_strength: :math:`\gamma \ge 0`, lower bound of every multiplier.
        solver: see :mod:`avalanche_mgem.solvers`.
        ridge: ``"relative"`` or ``"absolute"``.

    Returns:
        v ``[m, K]``, every entry at least ``memory_strength``. A row of ``G`` that is zero, which
        constrains nothing, gets exactly ``memory_strength``.

    Raises:
        ValueError: if ``memory_strength`` is not finite and at least 0, if there is no ridge of that name, or
            if the solver returns something of another shape.
        ArithmeticError: if the solver finds no solution.

    Example:
        >>> from avalanche_mgem.solvers import exact
        >>> K, b = torch.tensor([[[5.0]]]), torch.tensor([[-1.0]])
        >>> dual(K, b, memory_strength=0.0, solver=exact)
        tensor([[0.2000]])
    """
    check_options(memory_strength, ridge)
    dtype = torch.promote_types(b.dtype, torch.float32)
    # To the host in one copy: there the solvers work, and NumPy takes less time for such small numbers.
    numbers = torch.cat([K, b.unsqueeze(-2)], dim=-2).detach().to("cpu", torch.float64).numpy()
    v = dual_on_host(numbers[:, :-1], numbers[:, -1], dtype, memory_strength, solver, ridge)
    return torch.from_numpy(v).to(b.device, dtype)


def dual_on_host(
    K: Array, b: Array, dtype: torch.dtype, memory_strength: float, solver: Solver, ridge: Ridge
) -> Array:
    """The multipliers of :func:`dual` from products in float64 that were accumulated in ``dtype``."""
    relative = relative_ridge(K.shape[-1], dtype) if ridge == "relative" else 0.0
    squares = K.diagonal(axis1=-2, axis2=-1) + (ABSOLUTE_RIDGE if ridge == "absolute" else 0.0)

    # Substitute v = u * scale / norms: K becomes a correlation matrix. A row that is zero has no part in it.
    norms = np.sqrt(squares)
    inverse = np.divide(1.0, norms, out=np.zeros_like(norms), where=norms > 0)
    correlation = K * inverse[:, :, None] * inverse[:, None, :]
    np.einsum("jkk->jk", correlation)[...] = 1.0 + relative
    linear, lower = b * inverse, memory_strength * norms
    scale = np.maximum(np.abs(linear), lower).max(axis=-1, keepdims=True, initial=np.finfo(np.float64).tiny)
    linear, lower = linear / scale, lower / scale

    u = np.empty_like(b)
    for j in range(len(u)):
        u[j] = _solved(solver, correlation[j], linear[j], lower[j])
    v: Array = np.maximum(u * scale * inverse, memory_strength)  # zero rows, and what rounding left below
    return v


def _solved(solver: Solver, K: Array, b: Array, lower: Array) -> Array:
    u = np.asarray(solver(K, b, lower))
    if u.shape != b.shape:
        raise ValueError(f"the solver must return v of shape {list(b.shape)}; got {list(u.shape)}.")
    return u
