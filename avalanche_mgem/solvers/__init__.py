r"""Solvers of the dual quadratic program, one file each behind one small protocol.

A solver gets ``m`` independent problems

.. math:: \min_{v \ge \ell} \tfrac12 v^\top K v + b^\top v

with a positive definite ``K`` ``[m, K, K]`` of unit diagonal (up to the ridge), ``b`` ``[m, K]`` and the
lower bounds ``l`` ``[m, K]``, and returns ``v`` ``[m, K]`` with ``v >= l`` in the dtype and on the device of
``b``.
Adding one is a file here and a line in ``SOLVERS``; a plugin also takes the function itself.
"""

from collections.abc import Callable

from torch import Tensor

from avalanche_mgem.solvers._diagonal import diagonal
from avalanche_mgem.solvers._exact import exact
from avalanche_mgem.solvers._quadprog import quadprog

Solver = Callable[[Tensor, Tensor, Tensor], Tensor]

SOLVERS: dict[str, Solver] = {
    "exact": exact,
    "quadprog": quadprog,
    "diagonal": diagonal,
}


def get_solver(solver: str | Solver) -> Solver:
    """Finds a solver by name; a function is returned as it is.

    Raises:
        ValueError: if there is no solver of that name.

    Example:
        >>> get_solver("exact") is exact
        True
    """
    if callable(solver):
        return solver
    if isinstance(solver, str) and solver in SOLVERS:
        return SOLVERS[solver]
    allowed = ", ".join(repr(name) for name in SOLVERS)
    raise ValueError(f"unknown solver {solver!r}; allowed are {allowed} or a function (K, b, lower) -> v.")


__all__ = ["SOLVERS", "Solver", "diagonal", "exact", "get_solver", "quadprog"]
