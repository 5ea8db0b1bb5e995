"""What layers with state or noise do while reference gradients are computed."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm, _NormBase
from torch.nn.modules.dropout import _DropoutNd

BatchNormPolicy = Literal["update", "batch", "running"]
BATCHNORM_POLICIES = ("update", "batch", "running")

# Attention draws its own dropout, as a function of its training flag.
_NOISY = (_DropoutNd, nn.MultiheadAttention, nn.RReLU)
# Layers of torchvision and timm that drop whole blocks; by name, as neither need be installed.
_NOISY_NAMES = ("StochasticDepth", "DropPath")
# TorchScript keeps of a layer the name of its class.
_SCRIPTED_NOISY_NAMES = tuple(kind.__name__ for kind in (*_DropoutNd.__subclasses__(), *_NOISY[1:]))


@contextmanager
def reference_mode(
    model: nn.Module, *, batchnorm: BatchNormPolicy, dropout: bool, device: torch.device, step: int = 0
) -> Iterator[None]:
    """Puts the model's layers into the state in which reference gradients are taken.

    Layers that the user has put into evaluation mode stay as they are. Whatever a layer draws does not
    advance torch's global generators (CPU and CUDA), so that the minibatches of strategies at one seed stay
    the same.

    Args:
        model: the model; restored on exit, but for BatchNorm's running statistics under ``"update"``.
        batchnorm: ``"update"``: normalise by the memory's own statistics and fold them into the running
            ones, as Avalanche's GEM does (which replays statistics of the past); ``"batch"``: the same
            without touching the running ones; ``"running"``: normalise by the running ones.
        dropout: draw dropout masks. Otherwise dropout and stochastic depth pass everything on, and noise that
            is no layer (``functional.dropout``) follows from ``step`` alone.
        device: where the model computes.
        step: number of the step, the seed of such noise.
    """
    settings = [
        (layer, name, value)
        for layer in model.modules()
        for name, value in _settings(layer, batchnorm, dropout)
    ]
    before = [getattr(layer, name) for layer, name, _ in settings]
    for layer, name, value in settings:
        setattr(layer, name, value)
    is_cuda = device.type == "cuda"
    try:
        with torch.random.fork_rng(devices=[device] if is_cuda else []):
            if not dropout:
                torch.default_generator.manual_seed(step)
                if is_cuda:
                    torch.cuda.manual_seed(step)
            yield
    finally:
        for (layer, name, _), value in zip(settings, before, strict=True):
            setattr(layer, name, value)


def _settings(layer: nn.Module, batchnorm: BatchNormPolicy, dropout: bool) -> list[tuple[str, Any]]:
    """Attributes of one layer to set: its own only, since ``layer.eval()`` would reach its children too."""
    if isinstance(layer, torch.jit.ScriptModule):
        return _scripted_settings(layer.original_name, batchnorm, dropout)
    if isinstance(layer, _NormBase) and layer.running_mean is not None:
        if batchnorm == "running":
            return [("training", False)]
        if batchnorm == "batch":
            # InstanceNorm updates its statistics whatever track_running_stats says, by its momentum.
            return [("track_running_stats", False)] if isinstance(layer, _BatchNorm) else [("momentum", 0.0)]
    elif (isinstance(layer, _NOISY) or type(layer).__name__ in _NOISY_NAMES) and not dropout:
        return [("training", False)]
    elif isinstance(layer, nn.RNNBase) and not dropout:
        return [("dropout", 0.0)]  # not by its training flag, which cuDNN's backward needs
    return []


def _scripted_settings(name: str, batchnorm: BatchNormPolicy, dropout: bool) -> list[tuple[str, Any]]:
    """The same for a layer of TorchScript, of a class of this name."""
    if name.startswith("BatchNorm") and batchnorm != "update":
        if batchnorm == "batch":
            raise ValueError(
                "reference_batchnorm='batch' does not fit a BatchNorm of TorchScript, whose settings are "
                "constants; take 'update' or 'running'."
            )
        return [("training", False)]
    if name in (*_SCRIPTED_NOISY_NAMES, *_NOISY_NAMES) and not dropout:
        return [("training", False)]
    return []
