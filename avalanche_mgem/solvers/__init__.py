r"""Solvers of the dual quadratic program, one file each. All have the same signature ``(K, b, lower) -> v``.

A solver gets the problem of one module of the parameters, in NumPy and float64, on the host:

.. math:: \min_{v \ge \ell} \tfrac12 v^\top K v + b^\top v

- ``K`` ``[K, K]``: a positive definite matrix, whose diagonal is 1 up to the ridge.
- ``b`` ``[K]``: the linear term, of order 1.
- ``lower`` ``[K]``: the lower bounds :math:`\ell`.

It returns ``v`` ``[K]`` with ``v >= lower``, and leaves its arguments as they are.

To add a solver, add a file here and a line in ``SOLVERS``. Wherever a solver is named, the function itself is
allowed too.
"""

from avalanche_mgem.solvers._diagonal import diagonal
from avalanche_mgem.solvers._exact import exact
from avalanche_mgem.solvers._quadprog import quadprog
from avalanche_mgem.solvers._types import Array, Solver

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


__all__ = ["SOLVERS", "Array", "Solver", "diagonal", "exact", "get_solver", "quadprog"]
