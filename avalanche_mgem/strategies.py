"""GEM, p-mGEM and d-mGEM as strategies, with the constructor conventions of Avalanche's ``GEM``."""

from collections.abc import Callable, Sequence
from typing import Any, Final, Required, Unpack

import torch
from avalanche.training.plugins import EvaluationPlugin, SupervisedPlugin
from avalanche.training.plugins.evaluation import default_evaluator
from avalanche.training.templates import SupervisedTemplate
from torch import nn
from torch.optim import Optimizer

from avalanche_mgem.options import DEFAULTS, EXPLANATIONS, Options, call_text, explains, with_signature
from avalanche_mgem.plugins import MGEMPlugin
from avalanche_mgem.schedules import MemoryStrength


class StrategyArguments(Options, total=False):
    """What the strategies take: the arguments of Avalanche's ``GEM``, and the options of the method."""

    model: Required[nn.Module]
    optimizer: Required[Optimizer]
    criterion: Callable[..., torch.Tensor] | None
    patterns_per_exp: Required[int | None]
    memory_strength: MemoryStrength
    train_mb_size: int
    train_epochs: int
    eval_mb_size: int | None
    device: str | torch.device
    plugins: Sequence[SupervisedPlugin] | None
    evaluator: EvaluationPlugin | Callable[[], EvaluationPlugin] | None
    eval_every: int
    peval_mode: str


_DEFAULTS: Final = {
    **DEFAULTS,
    "criterion": None,
    "memory_strength": 0.5,
    "train_mb_size": 1,
    "train_epochs": 1,
    "eval_mb_size": None,
    "device": "cpu",
    "plugins": None,
    "evaluator": default_evaluator,
    "eval_every": -1,
    "peval_mode": "epoch",
}

# Avalanche takes these by position too, with a warning, in this order.
_FIRST: Final = ("model", "optimizer", "criterion", "patterns_per_exp", "memory_strength")


_EXPLANATIONS: Final = f"""\
model: the model.
optimizer: any optimizer of its parameters.
criterion: the loss, a mean over samples; None (default) is the cross-entropy.
patterns_per_exp: samples kept of each experience; None where ``mem_size`` is given.
memory_strength: gamma, the pull along the old gradients where a constraint is violated: a number of
    at least 0 (default 0.5, as Avalanche's ``GEM``), a list with one for each experience, a
    :class:`~avalanche_mgem.schedules.Schedule`, or a function of Avalanche's clock.
{EXPLANATIONS}
train_mb_size: minibatch size in training.
train_epochs: epochs on each experience.
eval_mb_size: minibatch size in evaluation; None (default) takes ``train_mb_size``.
device: where to compute.
plugins: more plugins; the list is not changed.
evaluator: metrics and loggers, as in every Avalanche strategy.
eval_every: as in every Avalanche strategy.
peval_mode: as in every Avalanche strategy."""


@explains(_EXPLANATIONS)
class MGEM(SupervisedTemplate):  # type: ignore[misc]
    """Fine-grained gradient episodic memory; with one module and one group (the defaults) it is GEM.

    The strategy is an :class:`~avalanche_mgem.plugins.MGEMPlugin` behind the given plugins, but before those
    whose class has "clip" in its name: clipping comes after the projection. Arguments are keyword-only, as in
    Avalanche, which takes them by position with a warning.

    Args:
        {arguments}

    Raises:
        TypeError: for an argument that is missing or that no strategy has.
        ValueError: for values that are not allowed; in training, where model or data do not fit them.
        FloatingPointError: in training, when the loss or a gradient stops being finite.

    Example:
        >>> from avalanche_mgem.benchmarks import PermutedDigits
        >>> model = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
        >>> strategy = MGEM(
        ...     model=model, optimizer=torch.optim.SGD(model.parameters(), lr=0.1), patterns_per_exp=20,
        ...     memory_strength=0.1, num_modules="layer", num_groups=2, train_mb_size=100, evaluator=None,
        ... )
        >>> for experience in PermutedDigits(n_experiences=2, seed=0).train_stream:
        ...     _ = strategy.train(experience)
        >>> strategy
        MGEM(model=Sequential, optimizer=SGD, patterns_per_exp=20, memory_strength=0.1, num_modules='layer', num_groups=2)
    """  # noqa: E501

    @with_signature(StrategyArguments, _DEFAULTS, first=_FIRST)
    def __init__(self, **arguments: Unpack[StrategyArguments]):
        rest: dict[str, Any] = dict(arguments)
        options: Any = {name: rest.pop(name) for name in DEFAULTS}
        mgem = MGEMPlugin(rest.pop("patterns_per_exp"), rest.pop("memory_strength"), **options)
        given = list(rest.pop("plugins") or [])
        clipping = [plugin for plugin in given if "clip" in type(plugin).__name__.lower()]
        others = [plugin for plugin in given if plugin not in clipping]
        criterion = rest.pop("criterion") or nn.CrossEntropyLoss()
        super().__init__(criterion=criterion, plugins=[*others, mgem, *clipping], **rest)

    def __repr__(self) -> str:
        plugin = MGEMPlugin.of(self)
        method = {} if plugin is None else plugin.projector.arguments("patterns_per_exp")
        arguments = {"model": self.model, "optimizer": self.optimizer, **method}
        return call_text(type(self).__name__, arguments)


@explains(_EXPLANATIONS)
class PMGEM(MGEM):
    """p-mGEM: :class:`MGEM` with the parameters in ``num_modules`` modules, by default two.

    Args:
        {arguments}

    Example:
        >>> model = nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 2))
        >>> PMGEM(model=model, optimizer=torch.optim.SGD(model.parameters(), lr=0.1), patterns_per_exp=256)
        PMGEM(model=Sequential, optimizer=SGD, patterns_per_exp=256, memory_strength=0.5, num_modules=2)
    """

    @with_signature(StrategyArguments, {**_DEFAULTS, "num_modules": 2}, first=_FIRST)
    def __init__(self, **arguments: Unpack[StrategyArguments]):
        super().__init__(**arguments)


@explains(_EXPLANATIONS)
class DMGEM(MGEM):
    """d-mGEM: :class:`MGEM` with each memory in ``num_groups`` groups, by default two.

    Args:
        {arguments}

    Example:
        >>> model = nn.Linear(4, 2)
        >>> DMGEM(model=model, optimizer=torch.optim.SGD(model.parameters(), lr=0.1), patterns_per_exp=256)
        DMGEM(model=Linear, optimizer=SGD, patterns_per_exp=256, memory_strength=0.5, num_groups=2)
    """

    @with_signature(StrategyArguments, {**_DEFAULTS, "num_groups": 2}, first=_FIRST)
    def __init__(self, **arguments: Unpack[StrategyArguments]):
        super().__init__(**arguments)
