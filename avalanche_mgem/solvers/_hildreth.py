"""Projected coordinate ascent on the dual, for all modules at once and on the device."""

import torch
from torch import Tensor

_CHECK_EVERY = 10  # sweeps between two looks at convergence: on a GPU each look waits for the device
_TOLERANCE = {torch.float64: 1e-12, torch.float32: 1e-6}


def hildreth(K: Tensor, b: Tensor, lower: Tensor, sweeps: int = 1000) -> Tensor:
    r"""Hildreth's method (1957): minimises over one multiplier after another, again and again.

    A sweep is :math:`v_k \leftarrow \max(\ell_k, v_k - (K v + b)_k / K_{kk})` for every k in turn, from
    :math:`v = \ell`. On a diagonal ``K`` one sweep is the :func:`diagonal` solution; with many it
    converges to the exact one, slowly where rows are nearly parallel. Not in the mGEM paper.
    Shapes and meaning of the other arguments: :mod:`avalanche_mgem.solvers`.

    Args:
        K: matrices.
        b: linear terms.
        lower: lower bounds.
        sweeps: at most so many sweeps. The default is enough for convergence on gradients of networks; it
            stops before when a whole sweep changes nothing beyond rounding.
    """
    v = lower.clone()
    diagonal = K.diagonal(dim1=-2, dim2=-1)
    for sweep in range(1, sweeps + 1):
        before = v.clone() if sweep % _CHECK_EVERY == 0 else None
        for k in range(b.shape[-1]):
            slope = (K[:, k] * v).sum(dim=-1) + b[:, k]
            v[:, k] = torch.maximum(lower[:, k], v[:, k] - slope / diagonal[:, k])
        if before is not None and bool(((v - before).abs() <= _TOLERANCE[v.dtype] * (1 + v.abs())).all()):
            break
    return v
