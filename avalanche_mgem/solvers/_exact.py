"""The default exact solver: a dual active-set method (DAQP)."""

from functools import lru_cache

import daqp
import numpy as np
import numpy.typing as npt

from avalanche_mgem.solvers._quadprog import quadprog
from avalanche_mgem.solvers._types import Array

_SOLVED = 1


def exact(K: Array, b: Array, lower: Array) -> Array:
    """Solves the dual with DAQP (MIT licence), to a KKT residual of at most 1e-6.

    DAQP (Arnström, Bemporad and Axehill, 2022, IEEE TAC) is about twice as fast as quadprog. On rows that are
    parallel to ten digits it may cycle, which it reports. Then quadprog solves the problem.
    Shapes and meaning of the arguments: :mod:`avalanche_mgem.solvers`.

    Raises:
        FloatingPointError: if neither DAQP nor quadprog finds a solution.

    Example:
        >>> K, b = np.array([[1.0, 0.5], [0.5, 1.0]]), np.array([-3.0, 1.0])
        >>> exact(K, b, lower=np.zeros(2))
        array([3., 0.])
    """
    K, b, lower = map(np.ascontiguousarray, (K, b, lower))  # DAQP reads memory and asks for no strides
    no_rows, no_upper, inequality = _bounds_below(len(b))
    v, _, exitflag, _ = daqp.solve(K, b, no_rows, no_upper, lower, inequality, primal_tol=1e-9)
    return np.maximum(v, lower) if exitflag == _SOLVED else quadprog(K, b, lower)


@lru_cache(maxsize=16)
def _bounds_below(n: int) -> tuple[Array, Array, npt.NDArray[np.int32]]:
    """What tells DAQP that n variables have lower bounds alone."""
    return np.zeros((0, n)), np.full(n, np.inf), np.zeros(n, dtype=np.int32)
