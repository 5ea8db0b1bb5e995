"""The reference solver: quadprog, which GEM's original code and Avalanche use."""

import numpy as np
import quadprog as _quadprog
from torch import Tensor

from avalanche_mgem.solvers._host import Array, on_host


def quadprog(K: Tensor, b: Tensor, lower: Tensor) -> Tensor:
    """Solves the duals exactly on the host with quadprog (GPL licence; Goldfarb and Idnani, 1983).

    Shapes and meaning of the arguments: :mod:`avalanche_mgem.solvers`.

    Raises:
        ArithmeticError: if ``K`` is not positive definite by more than rounding.

    Example:
        >>> import torch
        >>> K, b, lower = torch.eye(2)[None], torch.tensor([[-3.0, 1.0]]), torch.zeros(1, 2)
        >>> quadprog(K, b, lower)
        tensor([[3., 0.]])
    """
    return on_host(solve, K, b, lower)


def solve(K: Array, b: Array, lower: Array) -> Array:
    """Solves one problem in NumPy: ``K`` ``[K, K]``, ``b`` and ``lower`` ``[K]``.

    Rounding may make ``K`` slightly indefinite. Then ridges from 1e-6 to 1e-3 are tried, the smallest first.
    """
    identity = np.eye(len(b))
    for ridge in (0.0, 1e-6, 1e-5, 1e-4, 1e-3):
        try:
            return np.asarray(_quadprog.solve_qp(K + ridge * identity, -b, identity, lower)[0])
        except ValueError as error:
            reason = error
    raise ArithmeticError(f"quadprog found no solution of the dual: {reason}.")
