"""Last step of the projection: from multipliers back to an update of the parameters."""

import torch
from torch import Tensor

from avalanche_mgem.functional._blocks import Blocks
from avalanche_mgem.functional._rows import GradientRows, as_rows


@torch.no_grad()
def combine(
    g: Tensor, G: Tensor | GradientRows, v: Tensor, blocks: Blocks, *, out: Tensor | None = None
) -> Tensor:
    r"""The update :math:`z_{B_j} = g_{B_j} + G_{:,B_j}^\top v_j` of every module :math:`j`.

    Args:
        g: current gradient ``[P]``.
        G: reference gradients ``[K, P]``.
        v: multipliers ``[m, K]``, on the device of ``g`` or on the CPU, which spares a wait for a GPU. A
            module whose multipliers are all zero keeps ``g`` bit for bit.
        blocks: the modules' coordinates.
        out: memory for z, like ``g``; None (default) takes new memory.

    Returns:
        z ``[P]`` in the dtype and on the device of ``g``; not differentiable.

    Example:
        >>> g, G, v = torch.tensor([1.0, -1.0]), torch.tensor([[1.0, 2.0]]), torch.tensor([[0.5]])
        >>> combine(g, G, v, Blocks((2,)))
        tensor([1.5000, 0.0000])
    """
    return as_rows(G).combine(g, v, blocks, out=out)
