"""The default exact solver: a dual active-set method (DAQP)."""

import daqp
import numpy as np
import numpy.typing as npt
from torch import Tensor

from avalanche_mgem.solvers._host import Array, on_host


def exact(K: Tensor, b: Tensor, lower: Tensor) -> Tensor:
    """Solves the duals to a KKT residual of 1e-6 and better, on the host, with DAQP (MIT licence).

    DAQP (Arnström, Bemporad and Axehill, 2022, IEEE TAC) also survives duplicated and opposite rows.
    Shapes and meaning of the arguments: :mod:`avalanche_mgem.solvers`.

    Raises:
        ArithmeticError: if DAQP reports that it found no solution.
    """
    return on_host(_solve, K, b, lower)


def _solve(K: Array, b: Array, lower: Array) -> Array:
    n = len(b)
    no_rows: npt.NDArray[np.float64] = np.zeros((0, n))
    v, _, exitflag, _ = daqp.solve(
        K, b, no_rows, np.full(n, np.inf), lower, np.zeros(n, dtype=np.int32), primal_tol=1e-9
    )
    if exitflag != 1:
        raise ArithmeticError(f"daqp found no solution of the dual (exit flag {exitflag}).")
    return np.asarray(v)
