"""GEM, p-mGEM and d-mGEM as Avalanche plugins: the hooks, and nothing but the hooks."""

import time
import warnings
import weakref
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from avalanche.benchmarks import OnlineCLExperience
from avalanche.training.plugins import SupervisedPlugin
from torch import Tensor

from avalanche_mgem import functional
from avalanche_mgem.functional import NonFiniteGradientError, ProjectionReport, Ridge, check_ridge, project
from avalanche_mgem.gradients import is_finite, reference_gradients, write_gradients
from avalanche_mgem.memory import EpisodicMemory, Grouping, MemoryGroups, MemoryTransform, origin_experience
from avalanche_mgem.partition import ModuleSpec, Partition, trainable_parameters
from avalanche_mgem.references import (
    BATCHNORM_POLICIES,
    Backend,
    BatchNormPolicy,
    ReferenceComputer,
    flatten,
)
from avalanche_mgem.schedules import MemoryStrength, check_memory_strength, memory_strength_at
from avalanche_mgem.solvers import Solver, get_solver
from avalanche_mgem.timing import phase


@dataclass(frozen=True, eq=False)
class ConstrainedStep:
    """What constrained a step and what that did to the gradient, without samples and gradients.

    Attributes:
        projection: of the gradient of the minibatch.
        sizes: number of samples behind each of the K constraints.
        origins: experience and group of each.
        seconds_references: what making the reference gradients took.
    """

    projection: ProjectionReport
    sizes: tuple[int, ...]
    origins: tuple[tuple[int, int], ...]
    seconds_references: float


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
        references: how the reference gradients are made: ``"auto"`` (default), ``"loop"``, ``"vmap"`` or
            ``"layerwise"``; all give the same up to rounding, see
            :class:`~avalanche_mgem.references.ReferenceComputer`.
        reference_autocast: run reference passes under ``torch.autocast`` in bfloat16. Off by default: the
            constraints are then good to two or three digits.
        patterns_per_step: samples drawn from the memory for each step, shared evenly among its constraints.
            This changes the method: constraints are noisier, and a step costs the same however many
            experiences there were. None (default) takes the whole memory, as GEM does.
        experiences_per_step: past experiences drawn for each step, the only ones that constrain it. This
            changes the method too: a step may raise the loss of the others, and the pull of gamma is that of
            so many experiences. None (default) takes all.
        memory_device: where the memory rests between the steps; None (default) is the training device.
            ``"cpu"`` keeps a large memory in the host's pinned memory and copies it in every step.
        seed: of memory, groups and random modules; None (default) takes the seed of torch's global
            generator without advancing it.

    Attributes:
        keeps_last_step: whether to keep ``last_step``; the metrics of :mod:`avalanche_mgem.metrics` set it.
            The updates are the same, but it costs a little time, and on a GPU two waits a step for the clock.
        last_step: the last step's :class:`ConstrainedStep`; None if nothing constrained it.

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
        references: Backend = "auto",
        reference_autocast: bool = False,
        patterns_per_step: int | None = None,
        experiences_per_step: int | None = None,
        memory_device: str | torch.device | None = None,
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
            ("reference_autocast", reference_autocast),
        ):
            if not isinstance(flag, bool):
                raise ValueError(f"{name} must be True or False; got {flag!r}.")
        self.memory = EpisodicMemory(
            patterns_per_experience,
            num_groups,
            grouping,
            memory_transform,
            seed,
            patterns_per_step,
            experiences_per_step,
        )
        self.memory_strength = check_memory_strength(memory_strength)
        self.partition = Partition(num_modules, seed=self.memory.seed)
        self.solver = get_solver(solver)
        self.ridge = ridge
        self.normalize_memory_strength = normalize_memory_strength
        self.reference_batchnorm = reference_batchnorm
        self.reference_dropout = reference_dropout
        self.references = ReferenceComputer(references)
        self.reference_autocast = reference_autocast
        self.memory_device = None if memory_device is None else _usable(memory_device)
        self.keeps_last_step = False
        self.last_step: ConstrainedStep | None = None
        self._seconds_references = 0.0
        self._owner: weakref.ref[Any] | None = None
        self._has_warned = False
        self._steps: Iterator[MemoryGroups] = iter(())
        self._constraints: MemoryGroups | None = None
        self._G: Tensor | functional.GradientRows | None = None
        self._z: Tensor | None = None
        self._named: list[tuple[str, torch.nn.Parameter]] = []
        self._parameters: list[torch.nn.Parameter] = []

    def __getstate__(self) -> dict[str, Any]:
        """A checkpoint holds the memory, but neither gradients nor what follows from it."""
        left_out: dict[str, Any] = {
            "last_step": None,
            "_seconds_references": 0.0,
            "_owner": None,
            "_steps": iter(()),
            "_constraints": None,
            "_G": None,
            "_z": None,
            "_named": [],
            "_parameters": [],
        }
        return self.__dict__ | left_out | {"references": ReferenceComputer(self.references.backend)}

    @property
    def reference_backend(self) -> str:
        """The way of making references in use: what ``"auto"`` has chosen, once it has."""
        return self.references.chosen or self.references.backend

    def before_training_exp(self, strategy: Any, **kwargs: Any) -> None:
        """Collects the constraints that hold while this experience is trained."""
        if self._owner is not None and self._owner() is not strategy:
            raise ValueError(
                f"this {type(self).__name__} already holds the memory of another strategy; "
                "make a new plugin for each strategy."
            )
        self._owner = weakref.ref(strategy)
        self._warn_of_hidden_boundaries(strategy.experience)
        self._steps = self.memory.steps(strategy.experience, strategy.device, self.memory_device)
        self.references.reset()

    def before_training_iteration(self, strategy: Any, **kwargs: Any) -> None:
        """Computes the reference gradients at the current weights."""
        self._G = self.last_step = None  # an earlier iteration may have been interrupted
        self._constraints = next(self._steps, None)
        if self._constraints is None:
            return
        self._named = trainable_parameters(strategy.model)
        self._parameters = [p for _, p in self._named]
        start = _now(strategy.device) if self.keeps_last_step else 0.0
        with phase("references"):
            self._G = reference_gradients(
                strategy,
                self._constraints,
                self.references,
                self._parameters,
                batchnorm=self.reference_batchnorm,
                dropout=self.reference_dropout,
                autocast=self.reference_autocast,
            )
        if self.keeps_last_step:
            self._seconds_references = _now(strategy.device) - start

    @torch.no_grad()
    def after_backward(self, strategy: Any, **kwargs: Any) -> None:
        """Projects the gradient of the current minibatch."""
        strength = self._memory_strength(strategy)
        if not is_finite(strategy, with_gradient=self._G is None):
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
                modules=self.partition.blocks(strategy.model, self._named),
                solver=self.solver,
                ridge=self.ridge,
                out=self._memory_for_update(g),
                report=self._keep_step if self.keeps_last_step else None,
            )
        except NonFiniteGradientError as error:
            raise self._not_finite(strategy, error.row, strength) from error
        if z is not g:
            write_gradients(z, self._parameters)

    def after_training_exp(self, strategy: Any, **kwargs: Any) -> None:
        """Takes samples of the experience into the memory."""
        self._steps, self._constraints, self._z, self.last_step = iter(()), None, None, None
        self.references.reset()
        self.memory.update(strategy.experience)

    def _keep_step(self, projection: ProjectionReport) -> None:
        assert self._constraints is not None
        sizes, origins = self._constraints.sizes, self._constraints.origins
        self.last_step = ConstrainedStep(projection, sizes, origins, self._seconds_references)

    def _memory_for_update(self, g: Tensor) -> Tensor:
        """The same in every step: new memory is slow at first."""
        if self._z is None or (self._z.shape, self._z.dtype, self._z.device) != (g.shape, g.dtype, g.device):
            self._z = torch.empty_like(g)
        return self._z

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
        if row is None or self._constraints is None:
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


def _usable(device: str | torch.device) -> torch.device:
    """The device, which is used only once there is a past: what is wrong with it is said at once."""
    try:
        return torch.empty(0, device=device).device
    except (RuntimeError, AssertionError, TypeError) as error:
        reason = str(error).partition("\n")[0].partition(". ")[0]
        raise ValueError(
            f"memory_device={device!s}: {reason}; allowed are None, cpu, and the devices of this machine."
        ) from error


def _now(device: torch.device) -> float:
    """The time once the device has done what was asked of it: a GPU works behind the program's back."""
    if device.type != "cpu":
        torch.accelerator.synchronize(device)
    return time.perf_counter()
