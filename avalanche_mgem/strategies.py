"""GEM, p-mGEM and d-mGEM as strategies, with the constructor conventions of Avalanche's ``GEM``."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from avalanche.training.plugins import EvaluationPlugin, SupervisedPlugin
from avalanche.training.plugins.evaluation import default_evaluator
from avalanche.training.templates import SupervisedTemplate
from torch import nn
from torch.optim import Optimizer

from avalanche_mgem.functional import Ridge
from avalanche_mgem.memory import Grouping, MemoryTransform
from avalanche_mgem.partition import ModuleSpec
from avalanche_mgem.plugins import MGEMPlugin
from avalanche_mgem.references import Backend, BatchNormPolicy
from avalanche_mgem.schedules import MemoryStrength
from avalanche_mgem.solvers import Solver


class MGEM(SupervisedTemplate):  # type: ignore[misc]
    """Fine-grained gradient episodic memory; with one module and one group (the defaults) it is GEM.

    Arguments are keyword-only. Those of the method are explained in
    :class:`~avalanche_mgem.plugins.MGEMPlugin`, which this strategy puts behind the given plugins.

    Args:
        model: the model.
        optimizer: any optimizer of its parameters.
        criterion: the loss, a mean over samples.
        patterns_per_exp: samples kept of each experience.
        memory_strength: gamma; default 0.5, as Avalanche's ``GEM``.
        num_modules: modules of the parameters.
        num_groups: groups of each experience's memory.
        grouping: how the memory is split.
        solver: of the dual.
        ridge: regularisation of the dual.
        normalize_memory_strength: divide gamma by ``num_groups``.
        memory_transform: transform of the memory's samples.
        reference_batchnorm: BatchNorm in reference passes.
        reference_dropout: dropout in reference passes.
        references: how reference gradients are made.
        reference_autocast: reference passes in bfloat16.
        patterns_per_step: samples of the memory in each step; None takes all.
        experiences_per_step: past experiences that constrain each step; None takes all.
        memory_device: where the memory rests; None is ``device``.
        seed: of memory, groups and random modules.
        train_mb_size: minibatch size in training.
        train_epochs: epochs on each experience.
        eval_mb_size: minibatch size in evaluation; None takes ``train_mb_size``.
        device: where to compute.
        plugins: more plugins; the list is not changed.
        evaluator: metrics and loggers, as in every Avalanche strategy.
        eval_every: as in every Avalanche strategy.
        base_kwargs: further arguments of ``SupervisedTemplate``.
    """

    def __init__(
        self,
        *,
        model: nn.Module,
        optimizer: Optimizer,
        criterion: Callable[..., torch.Tensor] | None = None,
        patterns_per_exp: int,
        memory_strength: MemoryStrength = 0.5,
        num_modules: ModuleSpec = 1,
        num_groups: int = 1,
        grouping: Grouping = "random",
        solver: str | Solver = "exact",
        ridge: Ridge = "relative",
        normalize_memory_strength: bool = False,
        memory_transform: MemoryTransform = "eval",
        reference_batchnorm: BatchNormPolicy = "update",
        reference_dropout: bool = False,
        references: Backend = "auto",
        reference_autocast: bool = False,
        patterns_per_step: int | None = None,
        experiences_per_step: int | None = None,
        memory_device: str | torch.device | None = None,
        seed: int | None = None,
        train_mb_size: int = 1,
        train_epochs: int = 1,
        eval_mb_size: int | None = None,
        device: str | torch.device = "cpu",
        plugins: Sequence[SupervisedPlugin] | None = None,
        evaluator: EvaluationPlugin | Callable[[], EvaluationPlugin] | None = default_evaluator,
        eval_every: int = -1,
        **base_kwargs: Any,
    ):
        mgem = MGEMPlugin(
            patterns_per_exp,
            memory_strength,
            num_modules=num_modules,
            num_groups=num_groups,
            grouping=grouping,
            solver=solver,
            ridge=ridge,
            normalize_memory_strength=normalize_memory_strength,
            memory_transform=memory_transform,
            reference_batchnorm=reference_batchnorm,
            reference_dropout=reference_dropout,
            references=references,
            reference_autocast=reference_autocast,
            patterns_per_step=patterns_per_step,
            experiences_per_step=experiences_per_step,
            memory_device=memory_device,
            seed=seed,
        )
        super().__init__(
            model=model,
            optimizer=optimizer,
            criterion=nn.CrossEntropyLoss() if criterion is None else criterion,
            train_mb_size=train_mb_size,
            train_epochs=train_epochs,
            eval_mb_size=eval_mb_size,
            device=device,
            plugins=[*(plugins or []), mgem],
            evaluator=evaluator,
            eval_every=eval_every,
            **base_kwargs,
        )


class PMGEM(MGEM):
    """p-mGEM: :class:`MGEM` with the parameters in ``num_modules`` modules, by default two."""

    def __init__(self, *, num_modules: ModuleSpec = 2, **kwargs: Any):
        super().__init__(num_modules=num_modules, **kwargs)


class DMGEM(MGEM):
    """d-mGEM: :class:`MGEM` with each memory in ``num_groups`` groups, by default two."""

    def __init__(self, *, num_groups: int = 2, **kwargs: Any):
        super().__init__(num_groups=num_groups, **kwargs)
