"""Last step of the projection: from multipliers back to an update of the parameters."""

import torch
from torch import Tensor

from avalanche_mgem.functional.gram import Blocks, accumulation_dtype


@torch.no_grad()
def combine(g: Tensor, G: Tensor, v: Tensor, blocks: Blocks, *, out: Tensor | None = None) -> Tensor:
    r"""The update :math:`z_{B_j} = g_{B_j} + G_{:,B_j}^\top v_j` of every module :math:`j`.

    Args:
        g: current gradient ``[P]``.
        G: reference gradients ``[K, P]``.
        v: multipliers ``[m, K]``. A module whose multipliers are all zero keeps ``g`` bit for bit.
        blocks: the modules' coordinates.
        out: memory for z, like ``g``; None (default) takes new memory.

    Returns:
        z ``[P]`` in the dtype and on the device of ``g``; not differentiable.
    """
    dtype = torch.promote_types(accumulation_dtype(g, G), v.dtype)
    z = torch.empty_like(g) if out is None else out
    is_in_order = blocks.order is None
    own = blocks.split(z) if is_in_order else [torch.empty_like(part) for part in blocks.split(z)]
    changed = (v != 0).any(dim=1).tolist()
    for j, (g_block, G_block) in enumerate(zip(blocks.split(g), blocks.split(G), strict=True)):
        if not changed[j]:
            own[j].copy_(g_block)
        elif z.dtype == dtype:
            torch.addmv(g_block, G_block.to(dtype).T, v[j].to(dtype), out=own[j])
        else:
            own[j].copy_(torch.addmv(g_block.to(dtype), G_block.to(dtype).T, v[j].to(dtype)))
    return z if is_in_order else z.copy_(blocks.join(list(own)))
