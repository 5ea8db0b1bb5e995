"""Rows for GEM's step and its reference gradients, beside stock GEM and a plain replay."""

from statistics import median

import torch
from avalanche.models import SimpleMLP
from torch import nn

from avalanche_mgem.memory import MemoryGroups
from bench.bare import bare_step
from bench.data import Stream, noise, permuted_mnist
from bench.midstream import GAMMA, MidStream, ours, plain, same_update, stock_gem, trained, with_conflict
from bench.row import Measured, Options, Row
from bench.timing import in_turns

MEMORY = 256
PAST = 19


def mlp(seed: int, hidden_layers: int = 2) -> nn.Module:
    """The GEM paper's network for MNIST. The seed determines its weights."""
    torch.manual_seed(seed)
    model: nn.Module = SimpleMLP(hidden_size=100, hidden_layers=hidden_layers, drop_rate=0)
    return model


def mnist(options: Options, past: int) -> Stream:
    """Permuted MNIST with ``past`` + 1 experiences, each a little larger than a memory."""
    options.report.phase("data, plain training, memories")
    if options.quick:
        return noise(past + 1, 2 * memory(options), (1, 28, 28), 10, options.seed)
    return permuted_mnist(options.dataset_root, past + 1, MEMORY + 50, options.seed)


def memory(options: Options) -> int:
    """Samples kept of each experience."""
    return options.size(MEMORY, 20)


def calls(options: Options) -> int:
    """Calls of one side in a turn; :func:`bench.timing.in_turns` says why there are several."""
    return options.size(10, 1)


def _side_by_side(options: Options) -> tuple[MidStream, MidStream]:
    """Our GEM and stock GEM with the same weights, memories and minibatch."""
    stream = mnist(options, options.size(PAST, 3))
    model = trained(mlp(options.seed), stream, options.seed, device=options.device)
    mine = MidStream(ours(model, memory(options), options.seed), stream)
    stock = MidStream(stock_gem(model, memory(options), options.seed), stream)
    with_conflict(mine, stock)
    return mine, stock


def _settings(options: Options, mine: MidStream) -> dict[str, object]:
    return {
        "past_experiences": options.size(PAST, 3),
        "patterns_per_exp": memory(options),
        "minibatch": 10,
        "references": mine.plugin().projector.references.chosen,
    }


def _step_gem_mlp(options: Options) -> Measured:
    mine, stock = _side_by_side(options)
    seconds = in_turns(
        {"ours": mine.step, "stock": stock.step},
        repetitions=options.size(20, 3),
        calls=calls(options),
        report=options.report,
        clock=options.clock,
    )
    return Measured(seconds["ours"], seconds["stock"], same_update(mine, stock), _settings(options, mine))


def _references(options: Options) -> Measured:
    mine, stock = _side_by_side(options)
    kept = stock.strategy.plugins[0]
    x, y = (torch.cat(list(parts.values())) for parts in (kept.memory_x, kept.memory_y))
    model = stock.strategy.model

    def replay() -> None:
        torch.autograd.grad(nn.functional.cross_entropy(model(x), y), list(model.parameters()))

    seconds = in_turns(
        {"ours": mine.references, "replay": replay, "stock": stock.references, "step": mine.step},
        repetitions=options.size(20, 3),
        calls=calls(options),
        report=options.report,
        clock=options.clock,
    )
    replayed = median(seconds["replay"])
    return Measured(
        seconds["ours"],
        seconds["replay"],
        same_update(mine, stock),
        _settings(options, mine),
        record={
            "stock GEM's references / the same replay": median(seconds["stock"]) / replayed,
            "our whole step / the same replay": median(seconds["step"]) / replayed,
        },
    )


def _small_step(options: Options) -> Measured:
    stream = mnist(options, options.size(PAST, 3))
    model = trained(mlp(options.seed), stream, options.seed, device=options.device)
    per_step = options.size(64, 12)
    mine = MidStream(ours(model, memory(options), options.seed, patterns_per_step=per_step), stream)
    unconstrained = MidStream(plain(model), stream)
    with_conflict(mine, unconstrained)
    drawn = next(mine.plugin().memory.steps())
    assert isinstance(drawn, MemoryGroups)
    drawn = drawn.to(torch.device(options.device))
    seconds = in_turns(
        {
            "ours": mine.step,
            "plain": unconstrained.step,
            "bare": bare_step(model, drawn, mine.plain_gradient(), GAMMA),
        },
        repetitions=options.size(30, 3),
        calls=calls(options),
        report=options.report,
        clock=options.clock,
    )
    step, bare = median(seconds["plain"]), median(seconds["bare"])
    return Measured(
        seconds["ours"],
        seconds["plain"],
        None,
        {**_settings(options, mine), "patterns_per_step": per_step},
        record={"plain training and the bare arithmetic of ours / plain training": (step + bare) / step},
    )


STEPS = (
    Row(
        "step_gem_mlp",
        "one GEM step, MLP 2 x 100, 19 past experiences x 256 memories of permuted MNIST",
        "stock GEM's step",
        at_least=True,
        floor=1.4,
        goal=2.3,
        measure=_step_gem_mlp,
    ),
    Row(
        "references",
        "the reference gradients of that step alone",
        "one replay forward and backward over the same 4,864 samples in one batch",
        at_least=False,
        floor=1.25,
        goal=1.05,
        measure=_references,
    ),
    Row(
        "small_step",
        "one GEM step with patterns_per_step=64, MLP 2 x 100, 19 past experiences x 256 memories, one thread",
        "a step of plain training in Avalanche",
        at_least=False,
        floor=6.0,
        goal=2.0,
        measure=_small_step,
        threads=1,
    ),
)
