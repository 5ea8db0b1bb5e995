"""The method on any torch model: remember samples of the past, and project the gradient of each step."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Unpack

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from avalanche_mgem.functional import (
    GradientRows,
    NonFiniteGradientError,
    ProjectionReport,
    check_ridge,
    project,
)
from avalanche_mgem.memory import Collate, EpisodicMemory, StepGroups
from avalanche_mgem.options import DEFAULTS, Options, call_text, explains, with_signature
from avalanche_mgem.parameters import current_gradient, trainable_parameters, write_gradient
from avalanche_mgem.partition import Partition
from avalanche_mgem.references import Criterion, Forward, ReferenceComputer, averaged, unwrapped
from avalanche_mgem.schedules import MemoryStrength, check_memory_strength, memory_strength_at
from avalanche_mgem.solvers import get_solver
from avalanche_mgem.timing import now, phase


@dataclass(frozen=True, eq=False)
class ConstrainedStep:
    """What constrained a step and what that did to the gradient, without samples and gradients.

    Attributes:
        report: of the projection.
        sizes: number of samples behind each of the K constraints.
        origins: experience and group of each.
        seconds_references: what making the reference gradients took.
    """

    report: ProjectionReport
    sizes: tuple[int, ...]
    origins: tuple[tuple[int, int], ...]
    seconds_references: float


@dataclass(eq=False)
class _Step:
    """What a step carries from its reference gradients to its projection."""

    groups: StepGroups
    named: list[tuple[str, nn.Parameter]]
    rows: GradientRows
    seconds: float

    @property
    def parameters(self) -> list[nn.Parameter]:
        return [p for _, p in self.named]


@explains()
class Projector:
    """GEM, p-mGEM and d-mGEM for any torch model and any training loop.

    Keeps samples of every past task. Before each step of the optimizer it projects the gradient so that it
    conflicts with no reference gradient: one for each past task and group, one problem for each module of
    the parameters. One module and one group is GEM (Lopez-Paz and Ranzato, 2017). More modules are p-mGEM,
    and more groups d-mGEM (Liu et al., 2024, arXiv 2410.00868).

    A model in ``DistributedDataParallel`` is constrained by the memories of all ranks, and every rank makes
    the same update. Each rank remembers its own share of a task.

    Args:
        model: the model. None where it is set later, as ``projector.model``, before the first step.
        criterion: the loss of outputs and targets, a mean over samples; None as for the model.
        patterns_per_task: samples kept of each task; None where ``mem_size`` is given.
        memory_strength: gamma, the pull along the old gradients where a constraint is violated: a number of
            at least 0 (default 0.5, as GEM), a list with one for each task, or a
            :class:`~avalanche_mgem.schedules.Schedule`. The pull grows with the number of constraints; see
            ``normalize_memory_strength``.
        forward: the model's output on inputs ``[n, ...]`` and task labels ``[n]`` or None. None (default)
            calls the model on the inputs.
        collate_fn: makes inputs and targets of a list of samples, as that of your ``DataLoader``; task labels
            may follow. None (default) takes the ``collate_fn`` of the data set if it has one, or torch's own.
            Inputs and targets may be tuples, lists, mappings and dataclasses of tensors.
        {arguments}

    Attributes:
        keeps_last_step: whether to keep ``last_step``. The updates are the same, but it costs a little time,
            and on a GPU two waits a step for the clock.
        last_step: the last step's :class:`ConstrainedStep`; None if nothing constrained it.

    Raises:
        ValueError: for values that are not allowed; in training, where model or data do not fit them.
        FloatingPointError: in training, when a gradient stops being finite.

    Example:
        >>> model, criterion = nn.Linear(4, 2), nn.CrossEntropyLoss()
        >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        >>> tasks = [[(torch.randn(4), 0), (torch.randn(4), 1)] for _ in range(3)]
        >>> mgem = Projector(model, criterion, patterns_per_task=2, num_groups=2)
        >>> for task in tasks:
        ...     for x, y in torch.utils.data.DataLoader(task, batch_size=2):
        ...         optimizer.zero_grad()
        ...         criterion(model(x), y).backward()
        ...         mgem.project()
        ...         optimizer.step()
        ...     mgem.remember(task)
        >>> len(mgem.memory)
        3
    """

    @with_signature(Options, DEFAULTS)
    def __init__(
        self,
        model: nn.Module | None,
        criterion: Criterion | None,
        patterns_per_task: int | None,
        memory_strength: MemoryStrength = 0.5,
        *,
        forward: Forward | None = None,
        collate_fn: Collate | None = None,
        **options: Unpack[Options],
    ):
        check_ridge(options["ridge"])
        divides = options["normalize_memory_strength"]
        if not isinstance(divides, bool):
            raise ValueError(f"normalize_memory_strength must be True or False; got {divides!r}.")
        self.options: Mapping[str, Any] = dict(options)
        self.model, self.criterion, self.forward = model, criterion, forward
        self.memory = EpisodicMemory(
            patterns_per_task,
            options["num_groups"],
            options["grouping"],
            options["memory_transform"],
            options["seed"],
            options["patterns_per_step"],
            options["experiences_per_step"],
            options["mem_size"],
            collate_fn,
        )
        self.memory_strength = check_memory_strength(memory_strength)
        self.normalize_memory_strength = divides
        self.partition = Partition(options["num_modules"], seed=self.memory.seed)
        self.solver = get_solver(options["solver"])
        self.ridge = options["ridge"]
        self.references = ReferenceComputer(
            options["references"],
            batchnorm=options["reference_batchnorm"],
            dropout=options["reference_dropout"],
            autocast=options["reference_autocast"],
        )
        device = options["memory_device"]
        self.memory_device = None if device is None else _usable(device)
        self.keeps_last_step = False
        self.last_step: ConstrainedStep | None = None
        self._steps: Iterator[StepGroups] | None = None  # None until a task has begun
        self._step: _Step | None = None

    def __repr__(self) -> str:
        return call_text(type(self).__name__, {"model": self.model, **self.arguments("patterns_per_task")})

    def __getstate__(self) -> dict[str, Any]:
        """A pickle holds model and memory, but neither gradients nor what a step leaves behind."""
        return self.__dict__ | {"last_step": None, "_steps": None, "_step": None}

    def arguments(self, size: str) -> dict[str, Any]:
        """The arguments by their names, for ``repr``; ``size`` names the memory's."""
        first = {size: self.memory.patterns_per_experience, "memory_strength": self.memory_strength}
        return {**first, **self.options}

    @property
    def groups(self) -> StepGroups | None:
        """The memory groups that constrain the present step; None before its references are computed."""
        return None if self._step is None else self._step.groups

    @property
    def rows(self) -> GradientRows | None:
        """The reference gradients of the present step; None before they are computed."""
        return None if self._step is None else self._step.rows

    def check(self, dataset: Any, *, past: int = 1) -> None:
        """Finds before a task is trained what would stop the training of the next one. Optional.

        Reads two samples and computes their loss; nothing changes.

        Args:
            dataset: the task's samples, as :meth:`remember` takes them.
            past: the most past tasks that a step will have: those of all tasks but one. With
                ``patterns_per_step`` the groups of a step are smaller, the more there are. 0 if this task
                will constrain no step, as the last does.

        Raises:
            ValueError: if the samples make no batch that can be kept, or not the groups asked for, or if
                model and criterion give no loss on them, as BatchNorm on a group of one sample.

        Example:
            >>> mgem = Projector(nn.Linear(4, 2), nn.CrossEntropyLoss(), 8)
            >>> mgem.check([{"pixels": torch.zeros(4), "label": 0}])  # doctest: +ELLIPSIS
            Traceback (most recent call last):
            ValueError: a batch of the dataset is a dict, which does not tell inputs from targets; ...
        """
        model = self._known_model()
        if self.criterion is None:
            raise ValueError("the projector has no criterion; set projector.criterion before the first step.")
        groups = self.memory.check(dataset, past=past).to(trainable_parameters(model)[0][1].device)
        self.references.check(groups[0], model, self.criterion, self.forward)

    def begin(self, key: str | None = None, device: torch.device | str | None = None) -> None:
        """Begins a task. Optional: only a task that is trained again has to be named.

        Args:
            key: the task's :func:`~avalanche_mgem.memory.fingerprint`, so that its own memory does not
                constrain it; None (default) names none.
            device: of the training; None (default) is that of the model's parameters.

        Raises:
            ValueError: if a memory cannot be split into the groups asked for.
        """
        parameters = trainable_parameters(self._known_model())  # of a kind that can be constrained
        if device is None:
            device = parameters[0][1].device
        self._step = self.last_step = None
        self._steps = self.memory.steps(but=key, device=device, memory_device=self.memory_device)
        self.references.reset()

    def compute_references(self) -> bool:
        """Computes the reference gradients at the current weights.

        Optional: :meth:`project` does it where it was not done. Call it before the forward pass of the
        minibatch where the order matters, as for the running statistics of BatchNorm.

        Returns:
            whether anything constrains the step.
        """
        self._step = self.last_step = None  # an earlier step may have been interrupted
        if self._steps is None:
            self.begin()
        assert self._steps is not None
        groups = next(self._steps, None)
        if groups is None:
            return False
        model = self._known_model()
        named = trainable_parameters(model)
        if self.criterion is None:
            raise ValueError("the projector has no criterion; set projector.criterion before the first step.")
        start = now(groups.device) if self.keeps_last_step else 0.0
        with phase("references"):
            rows = self.references(groups, model, self.criterion, [p for _, p in named], self.forward)
            if isinstance(self.model, DistributedDataParallel):
                rows = averaged(rows, groups, self.model.process_group)
        seconds = now(groups.device) - start if self.keeps_last_step else 0.0
        self._step = _Step(groups, named, rows, seconds)
        return True

    @torch.no_grad()
    def project(self, memory_strength: float | None = None, *, leave_non_finite: bool = False) -> None:
        """Projects the gradient in ``.grad``; call it between ``backward()`` and the optimizer's step.

        With a ``GradScaler`` call its ``unscale_`` first, so that g and G have one scale, and leave gradients
        that overflow to it::

            scaler.scale(loss).backward()
            scaler.unscale_(optimizer)
            mgem.project(leave_non_finite=True)
            scaler.step(optimizer)
            scaler.update()

        Args:
            memory_strength: gamma in this step; None (default) takes that of the projector.
            leave_non_finite: leave a gradient of the minibatch that is not finite as it is, without an error,
                for a ``GradScaler``, which skips such a step.

        Raises:
            NonFiniteGradientError: if a gradient or the update is not finite. It is a FloatingPointError, and
                ``row`` is the constraint, or None for the current gradient. ``.grad`` is as before.
            ArithmeticError: if the solver finds no solution.
        """
        if self._step is None:
            with torch.enable_grad():
                self.compute_references()
        step, self._step = self._step, None
        if step is None:
            if not leave_non_finite:
                self._check_unconstrained_gradient()
            return
        parameters = step.parameters
        g = current_gradient(parameters)
        strength = self.strength(len(self.memory)) if memory_strength is None else memory_strength
        try:
            z = project(
                g,
                step.rows,
                memory_strength=strength,
                modules=self.partition.blocks(self._known_model(), step.named),
                solver=self.solver,
                ridge=self.ridge,
                out=g.detach(),  # z takes the place of g
                report=(lambda report: self._keep(step, report)) if self.keeps_last_step else None,
            )
        except NonFiniteGradientError as error:
            if leave_non_finite and error.row is None:
                return
            raise NonFiniteGradientError(_described(error.row, step.groups), error.row) from error
        if z is not g:
            write_gradient(z, parameters)

    def remember(
        self, dataset: Any, *, task: int | None = None, key: str | None = None, extends: bool = False
    ) -> None:
        """Takes samples of a task into the memory; call it when training on the task has ended.

        A task that was remembered before, which its data tell, has its samples replaced.

        Args:
            dataset: the task's samples, a dataset of torch; usually of ``(x, y)`` or ``(x, y, task label)``.
            task: the task's number, which errors name; None (default) counts from 0.
            key: what recognises the task; None (default) is the dataset's
                :func:`~avalanche_mgem.memory.fingerprint`.
            extends: whether these samples come on top of those that the task had before.

        Raises:
            ValueError: if the samples make no batch that can be kept.
        """
        self._steps = self._step = self.last_step = None
        self.references.reset()
        self.memory.remember(dataset, experience=task, key=key, extends=extends)

    def strength(self, task: int, clock: Any = None) -> float:
        """Gamma while a task is trained, divided by the number of groups where that is asked for.

        Args:
            task: its number, from 0.
            clock: what a memory strength that is a function gets.

        Raises:
            ValueError: if the memory strength has no such value.
        """
        strength = memory_strength_at(self.memory_strength, task, clock)
        return strength / self.memory.num_groups if self.normalize_memory_strength else strength

    def _known_model(self) -> nn.Module:
        if self.model is None:
            raise ValueError("the projector has no model; set projector.model before the first step.")
        return unwrapped(self.model)

    def _keep(self, step: _Step, report: ProjectionReport) -> None:
        self.last_step = ConstrainedStep(report, step.groups.sizes, step.groups.origins, step.seconds)

    def _check_unconstrained_gradient(self) -> None:
        """Finds a gradient that is not finite where no product would show it."""
        gradients = [p.grad.to_dense() for p in self._known_model().parameters() if p.grad is not None]
        largest = [g.abs().amax().to(gradients[0].device) for g in gradients if g.numel()]
        if largest and not bool(torch.stack(largest).isfinite().all()):
            raise NonFiniteGradientError(_described(None, None))


def _described(row: int | None, groups: StepGroups | None) -> str:
    if row is None or groups is None:
        return "gradient or update of the current minibatch"
    experience, group = groups.origins[row]
    return f"reference gradient of experience {experience}, group {group}"


def _usable(device: str | torch.device) -> torch.device:
    """The device, which is used only once there is a past: what is wrong with it is said at once."""
    try:
        return torch.empty(0, device=device).device
    except (RuntimeError, AssertionError, TypeError) as error:
        reason = str(error).partition("\n")[0].partition(". ")[0]
        raise ValueError(
            f"memory_device={device!s}: {reason}; allowed are None, cpu, and the devices of this machine."
        ) from error
