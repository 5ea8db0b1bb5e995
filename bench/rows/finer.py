"""Rows for the cost of finer constraints, of more experiences and of fewer samples a step."""

from collections.abc import Mapping
from statistics import median
from typing import Any

import torch
from avalanche.models import SlimResNet18
from torch import nn

from avalanche_mgem.memory import MemoryGroups
from bench.bare import bare_step
from bench.data import Stream, avalanche_permuted_mnist, noise, split_cifar100
from bench.midstream import GAMMA, MidStream, ours, plain, stock_agem, trained, with_conflict
from bench.row import Measured, Options, Row
from bench.rows.steps import MEMORY, PAST, calls, memory, mlp, mnist
from bench.timing import in_turns

PD = {"num_modules": 8, "num_groups": 4, "normalize_memory_strength": True}
"""Options of pd-mGEM."""


def finer_and_gem(
    options: Options,
    model: nn.Module,
    stream: Stream,
    patterns: int,
    finer: Mapping[str, Any],
    repetitions: int = 15,
) -> tuple[list[float], list[float], str]:
    """Seconds of steps of pd-mGEM and of our own GEM in turns, and the backends of their references."""
    gem, finest = (
        MidStream(ours(model, patterns, options.seed, **further), stream) for further in ({}, finer)
    )
    with_conflict(gem, finest)
    seconds = in_turns(
        {"pd-mGEM": finest.step, "GEM": gem.step},
        repetitions=options.size(repetitions, 3),
        report=options.report,
        clock=options.clock,
    )
    backends = (state.plugin().projector.references.chosen for state in (finest, gem))
    return seconds["pd-mGEM"], seconds["GEM"], " and ".join(backends)


def _step_pdmgem(options: Options) -> Measured:
    options.report.phase("data, plain training, memories")
    patterns = 64
    stream = (
        noise(4, 20, (3, 32, 32), 100, options.seed)
        if options.quick
        else split_cifar100(options.dataset_root, PAST + 1, patterns + 20, options.seed)
    )
    torch.manual_seed(options.seed)
    resnet = trained(SlimResNet18(100, nf=20), stream, options.seed, device=options.device)
    resnet = resnet.to(memory_format=torch.channels_last)  # the default of mgem
    finer, gem, backends = finer_and_gem(options, resnet, stream, patterns, PD, repetitions=5)

    images = mnist(options, options.size(PAST, 3))
    record = {}
    small = finer_and_gem(options, resnet, stream, 16, PD, repetitions=5)
    record["the same with 16 memories, so groups of 4"] = median(small[0]) / median(small[1])
    for name, layers, modules in (
        ("MLP of 8 hidden layers, one module each but the last", 8, 8),
        ("MLP 2 x 100, random:8", 2, "random:8"),
    ):
        model = trained(mlp(options.seed, layers), images, options.seed, device=options.device)
        seconds = finer_and_gem(options, model, images, memory(options), {**PD, "num_modules": modules})
        record[name] = median(seconds[0]) / median(seconds[1])
    settings = {
        "past_experiences": len(stream) - 1,
        "patterns_per_exp": patterns,
        "minibatch": 10,
        "references": backends,
        **PD,
    }
    return Measured(finer, gem, None, settings, record)


def _flat_cost(options: Options) -> Measured:
    many, few = options.size(100, 6), options.size(20, 2)
    stream = mnist(options, many)
    model = trained(mlp(options.seed), stream, options.seed, device=options.device)
    per_step = memory(options)
    long, short = (
        MidStream(ours(model, memory(options), options.seed, patterns_per_step=per_step), part)
        for part in (stream, stream[-few - 1 :])
    )
    with_conflict(long, short)
    seconds = in_turns(
        {"many": long.step, "few": short.step},
        repetitions=options.size(30, 3),
        calls=calls(options),
        report=options.report,
        clock=options.clock,
    )
    settings = {
        "past_experiences": [many, few],
        "patterns_per_exp": memory(options),
        "patterns_per_step": per_step,
        "minibatch": 10,
        "references": long.plugin().projector.references.chosen,
    }
    return Measured(seconds["many"], seconds["few"], None, settings)


def _agem_role(options: Options) -> Measured:
    options.report.phase("Avalanche's permuted MNIST, plain training, memories")
    stream = (
        mnist(options, 3)
        if options.quick
        else avalanche_permuted_mnist(options.dataset_root, PAST + 1, MEMORY + 50, options.seed)
    )
    model = trained(mlp(options.seed), stream, options.seed, device=options.device)
    kept = memory(options)
    mine = MidStream(ours(model, kept, options.seed, patterns_per_step=kept), stream)
    agem = MidStream(stock_agem(model, kept, sample_size=kept), stream)
    with_conflict(mine, agem)
    plugin = mine.plugin()
    drawn = next(plugin.memory.steps())
    assert isinstance(drawn, MemoryGroups)
    drawn = drawn.to(torch.device(options.device))
    sides = {
        "ours": mine.step,
        "A-GEM": agem.step,
        "plain": MidStream(plain(model), stream).step,
        "bare": bare_step(model, drawn, mine.plain_gradient(), GAMMA),
    }
    seconds = in_turns(
        sides,
        repetitions=options.size(20, 3),
        calls=calls(options),
        report=options.report,
        clock=options.clock,
    )
    step, stock, least, bare = (median(seconds[name]) for name in sides)
    settings = {
        "past_experiences": len(stream) - 1,
        "patterns_per_exp": kept,
        "patterns_per_step": kept,
        "sample_size": kept,
        "minibatch": 10,
        "references": mine.plugin().projector.references.chosen,
    }
    record = {
        "A-GEM's step / a step of plain training": stock / least,
        "A-GEM's step / plain training and the bare arithmetic of ours": stock / (least + bare),
        "our step / plain training and its bare arithmetic": step / (least + bare),
    }
    return Measured(seconds["ours"], seconds["A-GEM"], None, settings, record)


FINER = (
    Row(
        "step_pdmgem",
        "one pd-mGEM step (8 modules, 4 groups), reduced ResNet-18, 19 past experiences x 64 memories",
        "our own GEM step with the same memories",
        at_least=False,
        floor=1.3,
        goal=1.1,
        measure=_step_pdmgem,
    ),
    Row(
        "flat_cost",
        "one step with patterns_per_step=256 at 100 past experiences, MLP 2 x 100",
        "the same at 20 past experiences",
        at_least=False,
        floor=1.3,
        goal=1.1,
        measure=_flat_cost,
    ),
    Row(
        "agem_role",
        "one step with patterns_per_step=256, MLP 2 x 100, 19 past experiences x 256 memories",
        "stock A-GEM's step (sample_size=256)",
        at_least=True,
        floor=5.0,
        goal=6.0,
        measure=_agem_role,
    ),
)
