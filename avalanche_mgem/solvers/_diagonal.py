"""The mGEM paper's efficient approximation: it treats the constraints as if they were orthogonal."""

import numpy as np

from avalanche_mgem.solvers._types import Array


def diagonal(K: Array, b: Array, lower: Array) -> Array:
    r"""Treats ``K`` as diagonal: :math:`v_k = \max(\ell_k, -b_k / K_{kk})` (Liu et al., 2024).

    It needs only the squared norms of the reference gradients, which cost O(K P), and no quadratic program.
    It is exact if the reference gradients are orthogonal. If not, it may overshoot constraints or leave them
    violated. Shapes and meaning of the arguments: :mod:`avalanche_mgem.solvers`.

    Example:
        >>> diagonal(np.eye(2), np.array([-3.0, 1.0]), lower=np.zeros(2))
        array([3., 0.])
    """
    return np.maximum(lower, -b / K.diagonal())
