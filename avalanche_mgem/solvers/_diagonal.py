"""The paper's efficient approximation: constraints are handled as if they were orthogonal."""

import torch
from torch import Tensor


def diagonal(K: Tensor, b: Tensor, lower: Tensor) -> Tensor:
    r"""Treats ``K`` as diagonal: :math:`v_k = \max(\ell_k, -b_k / K_{kk})` (Liu et al., 2024).

    Needs no more than the squared norms of the reference gradients, O(K P) and no quadratic program, and
    is exact when they are orthogonal. Otherwise constraints may be overshot or stay violated.
    Shapes and meaning of the arguments: :mod:`avalanche_mgem.solvers`.
    """
    return torch.maximum(lower, -b / K.diagonal(dim1=-2, dim2=-1))
