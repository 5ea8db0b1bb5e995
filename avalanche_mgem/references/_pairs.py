"""Linear layers by pairs of samples: what their columns of G would give, without these columns.

The gradient of a linear layer's weight on one sample is an outer product d a^T, and the inner product of two
of them is that of the d times that of the a. A bias is the weight of one more input, which is always 1.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from avalanche_mgem.memory import owners
from avalanche_mgem.references._capture import Use
from avalanche_mgem.references._rules import linear

_CALLS = 10**7
"""What the calls for one more tile of rows cost, in multiplications; measured on a CPU."""


def is_cheaper_by_samples(use: Use, num_groups: int, num_samples: int) -> bool:
    """Whether a linear layer's products cost less by way of the products of all pairs of samples.

    Compares the multiplications of the two ways, which is enough as both are matrix products.
    """
    if use.rule is not linear or use.name != "weight":
        return False
    M, inputs, outputs = num_samples * use.positions, use.a.shape[-1], use.d.shape[-1]
    by_samples = M * M * (inputs + outputs) + 2 * M * inputs * outputs
    by_rows = (M + 4 * num_groups * (num_groups + 4)) * inputs * outputs
    return by_samples < by_rows + _CALLS


@dataclass(frozen=True)
class LinearLayer:
    """What one linear layer saw of all samples (and positions), M in all.

    Attributes:
        weight: coordinates of its weight among those of G.
        bias: coordinates of its bias, or None.
        a: inputs ``[M, inputs]``.
        d: output gradients ``[M, outputs]``.
    """

    weight: slice
    bias: slice | None
    a: Tensor
    d: Tensor

    def products(self, g: Tensor) -> tuple[Tensor, Tensor]:
        """Inner products of the samples' gradients ``[M, M]``, and with the current gradient ``[M]``."""
        pairs = self.d @ self.d.mT
        weight = self._matrix(g).mT
        if self.bias is None:
            pairs *= self.a @ self.a.mT
            along_g = self.a @ weight
        else:
            pairs.addcmul_(pairs, self.a @ self.a.mT)
            along_g = torch.addmm(g[self.bias], self.a, weight)
        return pairs, along_g.mul_(self.d).sum(dim=1)

    def add(self, z: Tensor, weights: Tensor) -> None:
        """Adds the samples' gradients to z, weighted ``[M]``."""
        self._matrix(z).addmm_((self.d * weights.unsqueeze(1)).mT, self.a)
        if self.bias is not None:
            z[self.bias].addmv_(self.d.mT, weights)

    def _matrix(self, x: Tensor) -> Tensor:
        return x[self.weight].view(self.d.shape[1], self.a.shape[1])


@dataclass(frozen=True)
class PairedLayers:
    """Layers of one module that saw the same samples in the same order.

    Attributes:
        module: of the parameters.
        members: which group every row of the layers' ``a`` and ``d`` belongs to ``[M, K]``.
        layers: each layer's samples.
    """

    module: int
    members: Tensor
    layers: list[LinearLayer]

    def add_products(self, K: Tensor, b: Tensor, g: Tensor) -> None:
        """Adds to the products of the module's columns, ``[K, K]`` and ``[K]``."""
        (pairs, along_g), *others = (layer.products(g) for layer in self.layers)
        for more_pairs, more_along_g in others:
            pairs += more_pairs
            along_g += more_along_g
        K.addmm_(self.members.mT @ pairs, self.members)
        b.addmv_(self.members.mT, along_g)

    def add_update(self, z: Tensor, v: Tensor) -> None:
        """Adds the rows of G to z, weighted by the module's multipliers ``[K]``."""
        weights = self.members @ v
        for layer in self.layers:
            layer.add(z, weights)


@lru_cache(maxsize=16)
def members(
    seen: tuple[tuple[tuple[int, ...], int, int], ...],
    num_groups: int,
    dtype: torch.dtype,
    device: torch.device,
) -> Tensor:
    """Which group each row of the uses of a layer belongs to, as zeros and ones ``[M, K]``.

    Args:
        seen: by each use: sizes of the groups, the first group, and positions a sample.
        num_groups: K.
        dtype: of the result, which is the same tensor in every step of equal sizes.
        device: of the result.
    """
    group_of = torch.cat([first + owners(sizes, device).repeat_interleave(n) for sizes, first, n in seen])
    return (group_of.unsqueeze(1) == torch.arange(num_groups, device=device)).to(dtype)


def joined(uses: Sequence[Use], dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Inputs ``[M, inputs]`` and output gradients ``[M, outputs]`` of all uses of a layer."""
    a, d = [_matrix(use.a, dtype) for use in uses], [_matrix(use.d, dtype) for use in uses]
    return (a[0], d[0]) if len(uses) == 1 else (torch.cat(a), torch.cat(d))


def _matrix(x: Tensor, dtype: torch.dtype) -> Tensor:
    """``[M, features]``; most are so already."""
    x = x if x.dim() == 2 else x.reshape(-1, x.shape[-1])
    return x if x.dtype == dtype else x.to(dtype)
