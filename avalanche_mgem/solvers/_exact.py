"""The default exact solver: a dual active-set method (DAQP)."""

import daqp
import numpy as np
from torch import Tensor

from avalanche_mgem.solvers._host import Array, on_host
from avalanche_mgem.solvers._quadprog import solve as solve_by_quadprog

_SOLVED = 1


def exact(K: Tensor, b: Tensor, lower: Tensor) -> Tensor:
    """Solves the duals on the host with DAQP (MIT licence), to a KKT residual of at most 1e-6.

    DAQP (Arnström, Bemporad and Axehill, 2022, IEEE TAC) is about twice as fast as quadprog. On rows that are
    parallel to ten digits it may cycle, which it reports. Then quadprog solves the problem.
    Shapes and meaning of the arguments: :mod:`avalanche_mgem.solvers`.

    Raises:
        ArithmeticError: if neither DAQP nor quadprog finds a solution.

    Example:
        >>> import torch
        >>> K, b = torch.tensor([[[1.0, 0.5], [0.5, 1.0]]]), torch.tensor([[-3.0, 1.0]])
        >>> exact(K, b, lower=torch.zeros(1, 2))
        tensor([[3., 0.]])
    """
    return on_host(_solve, K, b, lower)


def _solve(K: Array, b: Array, lower: Array) -> Array:
    n = len(b)
    no_rows, no_upper, inequality = np.zeros((0, n)), np.full(n, np.inf), np.zeros(n, dtype=np.int32)
    v, _, exitflag, _ = daqp.solve(K, b, no_rows, no_upper, lower, inequality, primal_tol=1e-9)
    return np.asarray(v) if exitflag == _SOLVED else solve_by_quadprog(K, b, lower)
