"""The mGEM paper's efficient approximation: it treats the constraints as if they were orthogonal."""

import torch
from torch import Tensor


def diagonal(K: Tensor, b: Tensor, lower: Tensor) -> Tensor:
    r"""Treats ``K`` as diagonal: :math:`v_k = \max(\ell_k, -b_k / K_{kk})` (Liu et al., 2024).

    It needs only the squared norms of the reference gradients, which cost O(K P), and no quadratic program.
    It is exact if the reference gradients are orthogonal. If not, it may overshoot constraints or leave them
    violated. Shapes and meaning of the arguments: :mod:`avalanche_mgem.solvers`.

    Example:
        >>> K, b, lower = torch.eye(2)[None], torch.tensor([[-3.0, 1.0]]), torch.zeros(1, 2)
        >>> diagonal(K, b, lower)
        tensor([[3., 0.]])
    """
    return torch.maximum(lower, -b / K.diagonal(dim1=-2, dim2=-1))
