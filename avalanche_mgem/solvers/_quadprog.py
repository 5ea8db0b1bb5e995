"""The reference solver, the one of GEM's original code and of Avalanche: quadprog."""

import numpy as np
import quadprog as _quadprog
from torch import Tensor

from avalanche_mgem.solvers._host import Array, on_host


def quadprog(K: Tensor, b: Tensor, lower: Tensor) -> Tensor:
    """Solves the duals exactly, on the host, with quadprog (GPL licence; Goldfarb and Idnani, 1983).

    Shapes and meaning of the arguments: :mod:`avalanche_mgem.solvers`.

    Raises:
        ArithmeticError: if quadprog finds ``K`` not positive definite, by more than rounding.
    """
    return on_host(solve, K, b, lower)


def solve(K: Array, b: Array, lower: Array) -> Array:
    """One problem in NumPy: ``K`` ``[K, K]``, ``b`` and ``lower`` ``[K]``.

    Rounding may have left ``K`` slightly indefinite; then the least of a few ridges that mends it is added.
    """
    identity = np.eye(len(b))
    for ridge in (0.0, 1e-6, 1e-5, 1e-4, 1e-3):
        try:
            return np.asarray(_quadprog.solve_qp(K + ridge * identity, -b, identity, lower)[0])
        except ValueError as error:
            reason = error
    raise ArithmeticError(f"quadprog found no solution of the dual: {reason}.")
