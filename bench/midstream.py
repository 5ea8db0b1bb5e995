"""Puts strategies in the middle of a stream, where single steps can be timed.

Everything uses Avalanche's own hooks and loop. ``train`` with no epochs fills the memories. A step is
``training_epoch`` over one minibatch.
"""

import copy
from typing import Any

import torch
from avalanche.evaluation import PluginMetric
from avalanche.logging import BaseLogger
from avalanche.training import AGEM, Naive
from avalanche.training.plugins import EvaluationPlugin
from avalanche.training.templates import SupervisedTemplate
from torch import Tensor, nn

from avalanche_mgem import MGEM, MGEMPlugin
from avalanche_mgem.references._trial import exact_products
from bench.data import Stream
from bench.row import Agreement
from bench.stock import SameMemoryGEMPlugin

GAMMA = 0.5
TOLERANCE = 1e-3
"""Largest allowed relative difference in norm between two updates.

They differ because float32 sums have another order, and because both quadratic programs are solved to a
tolerance.
"""


class MidStream:
    """A strategy that trains on the last experience of a stream and has memories of all others.

    Args:
        strategy: made by :func:`ours`, :func:`stock_gem` or :func:`stock_agem`.
        stream: the experiences.
    """

    def __init__(self, strategy: Any, stream: Stream) -> None:
        strategy.train(stream[:-1], eval_streams=[])
        strategy.experience = stream[-1]
        strategy.is_training = True
        strategy.model.train()
        strategy._before_training_exp()
        self.strategy = strategy
        self.minibatches: list[list[Tensor]] = [
            [part.to(strategy.device) for part in minibatch] for minibatch in strategy.dataloader
        ]
        self.minibatch = self.minibatches[0]

    def step(self) -> None:
        """Takes one whole step: reference gradients, gradient, projection, optimizer."""
        self.strategy.dataloader = [list(self.minibatch)]
        self.strategy.training_epoch()

    def references(self) -> None:
        """Makes the reference gradients: what a step does before its minibatch is read."""
        self.strategy.mbatch = list(self.minibatch)
        self.strategy._before_training_iteration()

    def plugin(self) -> MGEMPlugin:
        """The plugin of one of our strategies."""
        plugin = MGEMPlugin.of(self.strategy)
        assert plugin is not None
        return plugin

    def update(self) -> Tensor:
        """The gradient that a step gives to the optimizer. At learning rate 0 the weights do not move."""
        self.step()
        return gradients(self.strategy.model)

    def plain_gradient(self) -> Tensor:
        """The gradient of the minibatch without any constraint."""
        model = self.strategy.model
        model.zero_grad()
        loss = nn.functional.cross_entropy(model(self.minibatch[0]), self.minibatch[1])
        loss.backward()  # type: ignore[no-untyped-call]
        return gradients(model)


def gradients(model: nn.Module) -> Tensor:
    """All ``.grad`` as one vector."""
    return torch.cat(
        [torch.zeros_like(p).flatten() if p.grad is None else p.grad.flatten() for p in model.parameters()]
    )


def trained(model: nn.Module, stream: Stream, seed: int, lr: float = 0.1, device: str = "cpu") -> nn.Module:
    """The model after plain training on all experiences but the last. Gradients conflict as in a run."""
    torch.manual_seed(seed)
    model.to(device)
    strategy = Naive(
        model=model,
        optimizer=torch.optim.SGD(model.parameters(), lr=lr),
        criterion=nn.CrossEntropyLoss(),
        train_mb_size=10,
        device=device,
        evaluator=silent(),
    )
    strategy.train(stream[:-1], eval_streams=[])
    return model


def ours(model: nn.Module, patterns_per_exp: int, seed: int, **options: Any) -> MGEM:
    """Our strategy on a copy of the model."""
    return MGEM(
        patterns_per_exp=patterns_per_exp, memory_strength=GAMMA, seed=seed, **options, **_arguments(model)
    )


def stock_gem(model: nn.Module, patterns_per_exp: int, seed: int) -> SupervisedTemplate:
    """Avalanche's GEM on a copy of the model, with the memories of ours."""
    plugin = SameMemoryGEMPlugin(patterns_per_exp, GAMMA, seed=seed)
    return SupervisedTemplate(plugins=[plugin], **_arguments(model))


def stock_agem(model: nn.Module, patterns_per_exp: int, sample_size: int) -> AGEM:
    """Avalanche's A-GEM on a copy of the model."""
    return AGEM(patterns_per_exp=patterns_per_exp, sample_size=sample_size, **_arguments(model))


def plain(model: nn.Module) -> SupervisedTemplate:
    """Plain training of a copy of the model."""
    return SupervisedTemplate(**_arguments(model))


def silent(metrics: list[PluginMetric[float]] | None = None) -> EvaluationPlugin:
    """An evaluator that prints nothing. Both sides use it."""
    return EvaluationPlugin(*(metrics or []), loggers=[BaseLogger()])


def with_conflict(first: MidStream, *others: MidStream) -> None:
    """Gives all states the same minibatch. Its gradient conflicts with the memories of the first state.

    Raises:
        RuntimeError: if no minibatch of the experience conflicts.
    """
    for minibatch in first.minibatches:
        first.minibatch = minibatch
        if not torch.equal(first.update(), first.plain_gradient()):
            for other in others:
                other.minibatch = minibatch
            return
    raise RuntimeError("no minibatch conflicts with the memories; there is no projection to time")


def same_update(mine: MidStream, stock: MidStream) -> Agreement:
    """Compares the updates of one step, under the absolute ridge, which is that of Avalanche's GEM."""
    plugin = mine.plugin()
    default, plugin.projector.ridge = plugin.projector.ridge, "absolute"
    with exact_products(torch.device(mine.strategy.device)):
        z, expected = mine.update(), stock.update()
    plugin.projector.ridge = default
    return relative_difference(z, expected)


def relative_difference(z: Tensor, expected: Tensor) -> Agreement:
    """Whether two updates agree: their relative difference in norm is below :data:`TOLERANCE`."""
    z = z.to(expected.device)
    difference = float((z - expected).norm() / expected.norm())
    return Agreement(
        difference < TOLERANCE,
        f"updates under the absolute ridge differ by {difference:.1e} (< {TOLERANCE:g})",
    )


def _arguments(model: nn.Module) -> dict[str, Any]:
    model = copy.deepcopy(model)
    return {
        "model": model,
        "optimizer": torch.optim.SGD(model.parameters(), lr=0.0),  # equal weights in every repetition
        "criterion": nn.CrossEntropyLoss(),
        "train_mb_size": 10,
        "device": next(model.parameters()).device,
        "train_epochs": 0,  # train() fills the memories and takes no step
        "evaluator": silent(),
    }
