"""The reference solver: quadprog, which GEM's original code and Avalanche use."""

import numpy as np
import quadprog as _quadprog

from avalanche_mgem.solvers._types import Array


def quadprog(K: Array, b: Array, lower: Array) -> Array:
    """Solves the dual exactly with quadprog (GPL licence; Goldfarb and Idnani, 1983).

    Rounding may make ``K`` slightly indefinite. Then ridges from 1e-6 to 1e-3 are tried, the smallest first.
    Shapes and meaning of the arguments: :mod:`avalanche_mgem.solvers`.

    Raises:
        FloatingPointError: if ``K`` is not positive definite by more than rounding.

    Example:
        >>> quadprog(np.eye(2), np.array([-3.0, 1.0]), lower=np.zeros(2))
        array([3., 0.])
    """
    identity = np.eye(len(b))
    for ridge in (0.0, 1e-6, 1e-5, 1e-4, 1e-3):
        try:
            v: Array = _quadprog.solve_qp(K + ridge * identity, -b, identity, lower)[0]
            return np.maximum(v, lower)
        except ValueError as error:
            reason = error
    raise FloatingPointError(f"quadprog found no solution of the dual: {reason}.")
