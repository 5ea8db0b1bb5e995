"""Runs a solver that knows one problem in NumPy over all modules."""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

Array = npt.NDArray[np.float64]


def on_host(solve: Callable[[Array, Array, Array], Array], K: Tensor, b: Tensor, lower: Tensor) -> Tensor:
    """Copies the small problems to the host once, solves them one by one, and copies ``v`` back."""
    Ks, bs, lowers = (x.detach().to("cpu", torch.float64).numpy() for x in (K, b, lower))
    v = np.empty_like(bs)
    for j in range(len(bs)):
        v[j] = solve(Ks[j], bs[j], lowers[j])
    return torch.maximum(torch.from_numpy(v).to(b), lower)
