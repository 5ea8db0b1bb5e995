"""Reference gradients over the memories of all processes of ``DistributedDataParallel``."""

from typing import Any
from zlib import crc32

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from avalanche_mgem.functional import DenseRows, GradientRows
from avalanche_mgem.memory import StepGroups


def unwrapped(model: nn.Module) -> nn.Module:
    """The model inside ``DistributedDataParallel``, or the model itself.

    Reference passes go past its reducer, which waits for a ``backward()`` of its own.
    """
    return model.module if isinstance(model, DistributedDataParallel) else model


@torch.no_grad()
def averaged(rows: GradientRows, groups: StepGroups, process_group: Any) -> DenseRows:
    """The gradients of the mean loss over each group's samples on all ranks, the same on every rank.

    Holds G ``[K, P]``, because it is sent.

    Args:
        rows: of this rank.
        groups: of this rank, in the order of the rows.
        process_group: of torch.

    Raises:
        ValueError: on every rank, if the ranks have different groups in this step.
    """
    G = rows.dense().clone()
    number = crc32(repr(groups.origins).encode())
    limits = torch.tensor([number, -number], device=G.device)
    dist.all_reduce(limits, dist.ReduceOp.MIN, group=process_group)
    if limits[0] != -limits[1]:
        raise ValueError(
            "the ranks have different memory groups in this step; every rank must have samples of every task "
            "and the same seed, and experiences_per_step cannot go with patterns_per_step"
        )
    sizes = torch.tensor(groups.sizes, dtype=G.dtype, device=G.device)
    G *= sizes.unsqueeze(1)
    dist.all_reduce(sizes, group=process_group)
    dist.all_reduce(G, group=process_group)
    return DenseRows(G.div_(sizes.unsqueeze(1)))
