"""What layers with state or noise do while reference gradients are computed."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd

BatchNormPolicy = Literal["update", "batch", "running"]
BATCHNORM_POLICIES = ("update", "batch", "running")

# Attention draws its own dropout, as a function of its training flag.
_NOISY = (_DropoutNd, nn.MultiheadAttention)


@contextmanager
def reference_mode(
    model: nn.Module, *, batchnorm: BatchNormPolicy, dropout: bool, device: torch.device
) -> Iterator[None]:
    """Puts the model's layers into the state in which reference gradients are taken.

    Layers that the user has put into evaluation mode stay as they are. Whatever a layer draws does not
    advance the global generators, so that the minibatches of strategies at one seed stay the same.

    Args:
        model: the model; restored on exit, but for BatchNorm's running statistics under ``"update"``.
        batchnorm: ``"update"``: normalise by the memory's own statistics and fold them into the running
            ones, as Avalanche's GEM does (which replays statistics of the past); ``"batch"``: the same
            without touching the running ones; ``"running"``: normalise by the running ones.
        dropout: draw dropout masks.
        device: where the model computes.
    """
    is_cuda = device.type == "cuda"
    changed: list[tuple[nn.Module, str]] = []
    for layer in model.modules():
        if not layer.training:
            continue
        if isinstance(layer, _BatchNorm) and batchnorm == "running" and layer.running_mean is not None:
            changed.append((layer, "training"))
        elif isinstance(layer, _BatchNorm) and batchnorm == "batch" and layer.track_running_stats:
            changed.append((layer, "track_running_stats"))
        elif isinstance(layer, _NOISY) and not dropout:
            changed.append((layer, "training"))
    # Only the layer's own flag is set: layer.eval() would also reach children that another policy governs.
    for layer, flag in changed:
        setattr(layer, flag, False)
    try:
        with torch.random.fork_rng(devices=[device] if is_cuda else []):
            yield
    finally:
        for layer, flag in changed:
            setattr(layer, flag, True)
