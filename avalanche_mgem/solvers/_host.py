"""Runs a solver that takes a single problem in NumPy on the problems of all modules."""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

Array = npt.NDArray[np.float64]


def on_host(solve: Callable[[Array, Array, Array], Array], K: Tensor, b: Tensor, lower: Tensor) -> Tensor:
    """Copies all problems to the host at once, solves one after the other, and copies ``v`` back."""
    Ks, bs, lowers = (x.detach().to("cpu", torch.float64).numpy() for x in (K, b, lower))
    v = np.empty_like(bs)
    for j in range(len(bs)):
        v[j] = solve(Ks[j], bs[j], lowers[j])
    return torch.maximum(torch.from_numpy(v).to(b), lower)
