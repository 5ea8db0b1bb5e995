"""Rows on a GPU: the rows of single steps once more, and steps of larger models."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from statistics import median

import torch
from avalanche.models import SlimResNet18
from torch import nn
from torchvision.models import VisionTransformer, resnet18

from bench.data import Stream, noise
from bench.midstream import MidStream, ours, plain, same_update, stock_gem, trained, with_conflict
from bench.row import Measured, Options, Row
from bench.rows.finer import FINER, PD, finer_and_gem
from bench.rows.projection import PROJECTION
from bench.rows.steps import MEMORY, PAST, STEPS, calls, mlp
from bench.timing import in_turns

_CLASSES, _CIFAR = 100, (3, 32, 32)


_Network = Callable[[], nn.Module]

_REDUCED_RESNET18: _Network = partial(SlimResNet18, _CLASSES, nf=20)
_RESNET18: _Network = partial(resnet18, num_classes=_CLASSES)
_SMALL_VIT: _Network = partial(
    VisionTransformer,
    image_size=32,
    patch_size=4,
    num_layers=6,
    num_heads=4,
    hidden_dim=192,
    mlp_dim=384,
    num_classes=_CLASSES,
)


def _trained(
    options: Options, network: _Network, past: int, kept: int, shape: tuple[int, ...]
) -> tuple[nn.Module, Stream]:
    """A network after plain training on random images, and their stream."""
    options.report.phase("random images, plain training, memories")
    stream = noise(options.size(past, 3) + 1, kept + 50, shape, 10, options.seed)
    torch.manual_seed(options.seed)
    return trained(network(), stream, options.seed, lr=0.01, device=options.device), stream


def _step(options: Options, network: _Network, past: int, patterns: int, shape: tuple[int, ...]) -> Measured:
    kept = options.size(patterns, 6)
    model, stream = _trained(options, network, past, kept, shape)
    mine = MidStream(ours(model, kept, options.seed), stream)
    stock = MidStream(stock_gem(model, kept, options.seed), stream)
    ordinary = MidStream(plain(model), stream)
    with_conflict(mine, stock, ordinary)
    seconds = in_turns(
        {"ours": mine.step, "stock": stock.step, "plain": ordinary.step},
        repetitions=options.size(5, 2),
        calls=calls(options) if past < 50 and patterns > 64 else 1,
        report=options.report,
        clock=options.clock,
    )
    settings = {
        "past_experiences": len(stream) - 1,
        "patterns_per_exp": kept,
        "minibatch": 10,
        "parameters": sum(p.numel() for p in model.parameters()),
        "references": mine.plugin().projector.references.chosen,
    }
    record = {"our step / a step of plain training": median(seconds["ours"]) / median(seconds["plain"])}
    return Measured(seconds["ours"], seconds["stock"], same_update(mine, stock), settings, record)


def _pdmgem(options: Options) -> Measured:
    kept = options.size(64, 12)
    model, stream = _trained(options, _REDUCED_RESNET18, PAST, kept, _CIFAR)
    finer, gem, backends = finer_and_gem(options, model, stream, kept, PD)
    return Measured(finer, gem, None, {"patterns_per_exp": kept, "references": backends, **PD})


def _rows() -> list[Row]:
    """The networks of the field, each with 19 and 99 past experiences."""
    networks = (
        ("mlp", "MLP 2 x 100", partial(mlp, 0), MEMORY, (1, 28, 28), (4.0, 10.0), 10.0),
        ("reduced_resnet18", "reduced ResNet-18", _REDUCED_RESNET18, 64, _CIFAR, (4.0, 4.0), 4.0),
        (
            "resnet18",
            "ResNet-18 (11 million)",
            partial(resnet18, num_classes=_CLASSES),
            64,
            _CIFAR,
            (1.8, 1.8),
            4.0,
        ),
        ("vit", "small vision transformer (1.8 million)", _SMALL_VIT, 64, _CIFAR, (2.0, 2.0), 4.0),
    )
    return [
        Row(
            f"gpu_{name}_{past}",
            f"one GEM step on a GPU, {title}, {past} past experiences x {patterns} random images",
            "stock GEM's step",
            at_least=True,
            floor=floor,
            goal=goal,
            measure=partial(_step, network=network, past=past, patterns=patterns, shape=shape),
            device="cuda",
        )
        for name, title, network, patterns, shape, floors, goal in networks
        for past, floor in zip((19, 99), floors, strict=True)
    ]


_LIMITS = {
    "step_gem_mlp": (3.5, 10.0),
    "references": (3.5, 1.05),
    "small_step": (6.0, 2.0),
    "g_to_z": (100.0, 100.0),
    "step_pdmgem": (1.7, 1.1),
    "flat_cost": (1.5, 1.1),
    "agem_role": (4.0, 6.0),
}
"""Floor and goal of each row on a GPU."""


def _on_gpu(row: Row) -> Row:
    """A row that is there for a CPU."""
    what = f"{row.what.removesuffix(', one thread')}, on a GPU"
    name, (floor, goal) = f"gpu_{row.name}", _LIMITS[row.name]
    return replace(row, name=name, what=what, device="cuda", threads=None, floor=floor, goal=goal)


def _of_random_images(row: Row) -> Row:
    """The row that has CIFAR-100 on a CPU."""
    return replace(row, what=f"{row.what}, random images", measure=_pdmgem)


_STEP_PDMGEM, *_OTHERS = FINER

GPU = (
    *map(_on_gpu, (*STEPS, *PROJECTION, _of_random_images(_STEP_PDMGEM), *_OTHERS)),
    *_rows(),
)
