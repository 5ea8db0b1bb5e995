"""Last step of the projection: from multipliers back to an update of the parameters."""

import torch
from torch import Tensor

from avalanche_mgem.functional.gram import Blocks, accumulation_dtype


def combine(g: Tensor, G: Tensor, v: Tensor, blocks: Blocks) -> Tensor:
    r"""The update :math:`z_{B_j} = g_{B_j} + G_{:,B_j}^\top v_j` of every module :math:`j`.

    Args:
        g: current gradient ``[P]``.
        G: reference gradients ``[K, P]``.
        v: multipliers ``[m, K]``. A module whose multipliers are all zero keeps ``g`` bit for bit.
        blocks: the modules' coordinates.

    Returns:
        z ``[P]`` in the dtype and on the device of ``g``.
    """
    dtype = torch.promote_types(accumulation_dtype(g, G), v.dtype)
    changed = (v != 0).any(dim=1).tolist()
    if not any(changed):
        return g
    parts = []
    for j, (g_block, G_block) in enumerate(zip(blocks.split(g), blocks.split(G), strict=True)):
        if changed[j]:
            g_block = torch.addmv(g_block.to(dtype), G_block.to(dtype).T, v[j].to(dtype)).to(g.dtype)
        parts.append(g_block)
    return blocks.join(parts)
