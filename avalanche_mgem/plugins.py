"""GEM, p-mGEM and d-mGEM as Avalanche plugins: the hooks, and nothing but the hooks."""

import math
import warnings
import weakref
from typing import Any

import torch
from avalanche.benchmarks import OnlineCLExperience
from avalanche.models import avalanche_forward
from avalanche.training.plugins import SupervisedPlugin
from torch import Tensor

from avalanche_mgem.functional import NonFiniteGradientError, project
from avalanche_mgem.functional.dual import Ridge, check_ridge
from avalanche_mgem.memory import Constraint, EpisodicMemory, Grouping, MemoryTransform, origin_experience
from avalanche_mgem.partition import ModuleSpec, Partition, trainable_parameters
from avalanche_mgem.references import BATCHNORM_POLICIES, BatchNormPolicy, flatten, loop, reference_mode
from avalanche_mgem.schedules import MemoryStrength, check_memory_strength, memory_strength_at
from avalanche_mgem.solvers import Solver, get_solver


class MGEMPlugin(SupervisedPlugin):  # type: ignore[misc]
    """Fine-grained gradient episodic memory (Liu et al., 2024, arXiv 2410.00868).

    Keeps samples of every past experience. Before each step the gradient is projected so that it conflicts
    with no reference gradient: one row for each past experience and group, one problem for each module. One
    module and one group is GEM (Lopez-Paz and Ranzato, 2017); more modules are p-mGEM, more groups d-mGEM,
    both together pd-mGEM.

    The projection comes in ``after_backward``: put plugins that add to the gradient before this one, and
    those that clip it after.

    Args:
        patterns_per_experience: samples kept of each experience.
        memory_strength: gamma, the pull along the old gradients where a constraint is violated: a number of
            at least 0 (default 0.5, as GEM), a list with one for each experience, a
            :class:`~avalanche_mgem.schedules.Schedule`, or a function of Avalanche's clock. The pull grows
            with the number of rows: see ``normalize_memory_strength``.
        num_modules: modules of the parameters, each constrained on its own; an integer, ``"layer"``,
            ``"tensor"``, ``"random:M"``, globs or a function, see
            :class:`~avalanche_mgem.partition.Partition`.
        num_groups: groups of each experience's memory, each a constraint.
        grouping: ``"random"``, ``"stratified"``, ``"label"`` or a function, see
            :class:`~avalanche_mgem.memory.EpisodicMemory`.
        solver: of the dual: ``"exact"``, ``"quadprog"``, ``"diagonal"`` (the paper's approximation),
            ``"hildreth"``, ``"hildreth:SWEEPS"`` or a function, see :mod:`avalanche_mgem.solvers`.
        ridge: ``"relative"`` (default: exact at any scale of the gradients) or ``"absolute"`` (as GEM).
        normalize_memory_strength: divide gamma by ``num_groups``, so that the pull per experience does not
            depend on it. Off by default, the paper's formula.
        memory_transform: ``"eval"`` (default), ``"train"`` or ``"frozen"``, see
            :class:`~avalanche_mgem.memory.EpisodicMemory`.
        reference_batchnorm: what BatchNorm does in reference passes: ``"update"`` (default, as Avalanche's
            GEM), ``"batch"`` or ``"running"``, see :func:`~avalanche_mgem.references.reference_mode`.
        reference_dropout: draw dropout in reference passes. Off by default: two passes at the same weights
            would give two different constraints.
        seed: of memory, groups and random modules; None (default) takes the seed of torch's global
            generator without advancing it.

    Raises:
        ValueError: for values that are not allowed; in training, where model or data do not fit them.
        FloatingPointError: in training, when the loss or a gradient stops being finite.
    """

    def __init__(
        self,
        patterns_per_experience: int,
        memory_strength: MemoryStrength = 0.5,
        *,
        num_modules: ModuleSpec = 1,
        num_groups: int = 1,
        grouping: Grouping = "random",
        solver: str | Solver = "exact",
        ridge: Ridge = "relative",
        normalize_memory_strength: bool = False,
        memory_transform: MemoryTransform = "eval",
        reference_batchnorm: BatchNormPolicy = "update",
        reference_dropout: bool = False,
        seed: int | None = None,
    ):
        super().__init__()
        check_ridge(ridge)
        if reference_batchnorm not in BATCHNORM_POLICIES:
            raise ValueError(
                f"reference_batchnorm must be one of {BATCHNORM_POLICIES}; got {reference_batchnorm!r}."
            )
        for name, flag in (
            ("normalize_memory_strength", normalize_memory_strength),
            ("reference_dropout", reference_dropout),
        ):
            if not isinstance(flag, bool):
                raise ValueError(f"{name} must be True or False; got {flag!r}.")
        self.memory = EpisodicMemory(patterns_per_experience, num_groups, grouping, memory_transform, seed)
        self.memory_strength = check_memory_strength(memory_strength)
        self.partition = Partition(num_modules, seed=self.memory.seed)
        self.solver = get_solver(solver)
        self.ridge = ridge
        self.normalize_memory_strength = normalize_memory_strength
        self.reference_batchnorm = reference_batchnorm
        self.reference_dropout = reference_dropout
        self._owner: weakref.ref[Any] | None = None
        self._has_warned = False
        self._constraints: list[Constraint] = []
        self._G: Tensor | None = None
        self._parameters: list[torch.nn.Parameter] = []

    def __getstate__(self) -> dict[str, Any]:
        """A checkpoint holds the memory, but neither gradients nor what follows from it."""
        return self.__dict__ | {"_owner": None, "_constraints": [], "_G": None, "_parameters": []}

    def before_training_exp(self, strategy: Any, **kwargs: Any) -> None:
        """Collects the constraints that hold while this experience is trained."""
        if self._owner is not None and self._owner() is not strategy:
            raise ValueError(
                f"this {type(self).__name__} already holds the memory of another strategy; "
                "make a new plugin for each strategy."
            )
        self._owner = weakref.ref(strategy)
        self._warn_of_hidden_boundaries(strategy.experience)
        self._constraints = self.memory.constraints(strategy.experience, strategy.device)

    def before_training_iteration(self, strategy: Any, **kwargs: Any) -> None:
        """Computes the reference gradients at the current weights."""
        self._G = None  # an earlier iteration may have been interrupted
        if not self._constraints:
            return
        if self.memory.transform == "train":  # the samples' augmentation is drawn anew
            self._constraints = self.memory.constraints(strategy.experience, strategy.device)

        def loss(memory: Constraint) -> Tensor:
            output = avalanche_forward(strategy.model, memory.x, memory.task_labels)
            value: Tensor = strategy._criterion(output, memory.y)
            return value

        self._parameters = [p for _, p in trainable_parameters(strategy.model)]
        with reference_mode(
            strategy.model,
            batchnorm=self.reference_batchnorm,
            dropout=self.reference_dropout,
            device=strategy.device,
        ):
            self._G = loop(self._constraints, loss, self._parameters)

    @torch.no_grad()
    def after_backward(self, strategy: Any, **kwargs: Any) -> None:
        """Projects the gradient of the current minibatch."""
        strength = self._memory_strength(strategy)
        if not _is_finite(strategy, with_gradient=self._G is None):
            raise self._not_finite(strategy, None, strength)
        if self._G is None:
            return
        g = flatten([p.grad for p in self._parameters], self._parameters)
        G, self._G = self._G, None
        try:
            z = project(
                g,
                G,
                memory_strength=strength,
                modules=self.partition.blocks(strategy.model),
                solver=self.solver,
                ridge=self.ridge,
            )
        except NonFiniteGradientError as error:
            raise self._not_finite(strategy, error.row, strength) from error
        if z is not g:
            _write_gradients(z, self._parameters)

    def after_training_exp(self, strategy: Any, **kwargs: Any) -> None:
        """Takes samples of the experience into the memory."""
        self._constraints = []
        self.memory.update(strategy.experience)

    def _warn_of_hidden_boundaries(self, experience: Any) -> None:
        is_online = isinstance(experience, OnlineCLExperience)
        if is_online and not experience.access_task_boundaries and not self._has_warned:
            self._has_warned = True
            warnings.warn(
                "GEM is defined by task boundaries, but this online stream hides them: they are read from "
                "origin_experience. Pass access_task_boundaries=True to split_online_stream to allow it.",
                stacklevel=2,
            )

    def _memory_strength(self, strategy: Any) -> float:
        experience = origin_experience(strategy.experience).current_experience
        strength = memory_strength_at(self.memory_strength, experience, strategy.clock)
        return strength / self.memory.num_groups if self.normalize_memory_strength else strength

    def _not_finite(self, strategy: Any, row: int | None, strength: float) -> FloatingPointError:
        training = f"while training experience {origin_experience(strategy.experience).current_experience}"
        if row is None:
            what = "the loss, gradient or update of the current minibatch"
        else:
            memory = self._constraints[row]
            what = f"the reference gradient of experience {memory.experience}, group {memory.group}"
        return FloatingPointError(
            f"{what} is not finite {training} (iteration {strategy.clock.train_exp_iterations}, "
            f"memory_strength {strength:g}); lower the learning rate or memory_strength, "
            "or set normalize_memory_strength."
        )


class PMGEMPlugin(MGEMPlugin):
    """p-mGEM: :class:`MGEMPlugin` with the parameters in ``num_modules`` modules, by default two."""

    def __init__(
        self,
        patterns_per_experience: int,
        memory_strength: MemoryStrength = 0.5,
        *,
        num_modules: ModuleSpec = 2,
        **kwargs: Any,
    ):
        super().__init__(patterns_per_experience, memory_strength, num_modules=num_modules, **kwargs)


class DMGEMPlugin(MGEMPlugin):
    """d-mGEM: :class:`MGEMPlugin` with each memory in ``num_groups`` groups, by default two."""

    def __init__(
        self,
        patterns_per_experience: int,
        memory_strength: MemoryStrength = 0.5,
        *,
        num_groups: int = 2,
        **kwargs: Any,
    ):
        super().__init__(patterns_per_experience, memory_strength, num_groups=num_groups, **kwargs)


def _write_gradients(z: Tensor, parameters: list[torch.nn.Parameter]) -> None:
    """Puts z into ``.grad``, making the gradients that the minibatch did not reach but a constraint did.

    Those of another task's head are an example: without them the constraints would not hold after the step.
    Where z is zero too, no gradient is made: momentum and weight decay would move such a parameter.
    """
    for p, part in zip(parameters, torch.split(z, [p.numel() for p in parameters]), strict=True):
        if p.grad is None and not part.any():
            continue
        part = part.view_as(p)
        if p.grad is None:
            p.grad = part.to(p.dtype, copy=True)
        elif p.grad.is_sparse:  # its optimizer takes nothing else
            p.grad = part.to(p.dtype).to_sparse(p.grad.sparse_dim())
        else:
            p.grad.copy_(part)


def _is_finite(strategy: Any, *, with_gradient: bool) -> bool:
    """Whether the loss is finite; and the gradient, without constraints, where no product of it shows it."""
    values = [strategy.loss.detach()]
    if with_gradient:
        grads = [p.grad.to_dense() for p in strategy.model.parameters() if p.grad is not None]
        values.append(torch.nn.utils.get_total_norm(grads, math.inf))
    return all(bool(torch.isfinite(value).all()) for value in values)
