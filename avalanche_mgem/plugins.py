"""GEM, p-mGEM and d-mGEM as Avalanche plugins: the hooks, and nothing but the hooks."""

import math
import warnings
import weakref
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, Self, Unpack

import torch
from avalanche.benchmarks import OnlineCLExperience
from avalanche.benchmarks.utils.data_attribute import has_task_labels
from avalanche.models import DynamicModule
from avalanche.models.utils import is_multi_task_module
from avalanche.training.plugins import SupervisedPlugin
from avalanche.training.templates.problem_type import SupervisedProblem
from torch import Tensor
from torch.utils.data import default_collate

from avalanche_mgem.functional import NonFiniteGradientError
from avalanche_mgem.memory import Batch, Collate, EpisodicMemory, Tree, fingerprint, tree_map, unpacked
from avalanche_mgem.memory import Unpack as UnpackBatch
from avalanche_mgem.options import DEFAULTS, Options, call_text, explains, with_signature
from avalanche_mgem.projector import ConstrainedStep, Projector
from avalanche_mgem.references import Criterion, Forward, check_reduction, unwrapped
from avalanche_mgem.schedules import MemoryStrength, check_length


@explains()
class MGEMPlugin(SupervisedPlugin, supports_distributed=True):  # type: ignore[misc, call-arg]
    """Fine-grained gradient episodic memory (Liu et al., 2024, arXiv 2410.00868) in any Avalanche strategy.

    Keeps samples of every past experience. Before each step the gradient is projected so that it conflicts
    with no reference gradient: one for each past experience and group, one problem for each module. One
    module and one group is GEM (Lopez-Paz and Ranzato, 2017). More modules are p-mGEM, more groups d-mGEM,
    and both together pd-mGEM. The method itself is a :class:`~avalanche_mgem.projector.Projector`.

    The projection comes in ``after_backward``: put plugins that add to the gradient before this one, and
    those that clip it after. A strategy that scales its loss keeps its ``torch.amp.GradScaler`` as
    ``strategy.scaler``; the plugin then calls ``unscale_`` before it projects, and leaves a gradient that
    overflows to the scaler.

    Args:
        patterns_per_experience: samples kept of each experience; None where ``mem_size`` is given.
        memory_strength: gamma, the pull along the old gradients where a constraint is violated: a number of
            at least 0 (default 0.5, as GEM), a list with one for each experience, a
            :class:`~avalanche_mgem.schedules.Schedule`, or a function of Avalanche's clock. The pull grows
            with the number of constraints; see ``normalize_memory_strength``.
        {arguments}

    Attributes:
        projector: memory, references and projection.

    Raises:
        ValueError: for values that are not allowed; in training, where model or data do not fit them.
        FloatingPointError: in training, when the loss or a gradient stops being finite.

    Example:
        >>> from avalanche.training import Naive
        >>> import torch
        >>> model = torch.nn.Linear(4, 2)
        >>> strategy = Naive(
        ...     model=model, optimizer=torch.optim.SGD(model.parameters(), lr=0.1), evaluator=None,
        ...     plugins=[MGEMPlugin(256, 0.1, num_modules="layer", num_groups=2)],
        ... )
        >>> MGEMPlugin.of(strategy)
        MGEMPlugin(patterns_per_experience=256, memory_strength=0.1, num_modules='layer', num_groups=2)
    """

    @with_signature(Options, DEFAULTS)
    def __init__(
        self,
        patterns_per_experience: int | None,
        memory_strength: MemoryStrength = 0.5,
        **options: Unpack[Options],
    ):
        super().__init__()
        self.projector = Projector(None, None, patterns_per_experience, memory_strength, **options)
        self._owner: weakref.ref[Any] | None = None
        self._has_warned = False
        self._known: tuple[weakref.ref[Any], str] | None = None  # a dataset and its fingerprint

    def __repr__(self) -> str:
        return call_text(type(self).__name__, self.projector.arguments("patterns_per_experience"))

    def __getstate__(self) -> dict[str, Any]:
        """A checkpoint holds the memory, but no strategy."""
        return self.__dict__ | {"_owner": None, "_known": None}

    @classmethod
    def of(cls, strategy: Any) -> Self | None:
        """The strategy's plugin of this class, or None."""
        return next((plugin for plugin in strategy.plugins if isinstance(plugin, cls)), None)

    @property
    def memory(self) -> EpisodicMemory:
        """The samples of the past."""
        return self.projector.memory

    @property
    def last_step(self) -> ConstrainedStep | None:
        """What the last step's constraints did, where ``projector.keeps_last_step``; None without any."""
        return self.projector.last_step

    def before_training_exp(self, strategy: Any, **kwargs: Any) -> None:
        """Collects the memory groups that constrain the training on this experience."""
        if self._owner is not None and self._owner() is not strategy:
            raise ValueError(
                f"this {type(self).__name__} already holds the memory of another strategy; "
                "make a new plugin for each strategy."
            )
        self._owner = weakref.ref(strategy)
        self._warn_of_hidden_boundaries(strategy.experience)
        check_reduction(strategy._criterion)  # or Avalanche fails unclearly when it adds the loss to a number
        self._attach(strategy)
        self._check(strategy)
        self.projector.begin(self._key(strategy.experience), strategy.device)

    def before_training_iteration(self, strategy: Any, **kwargs: Any) -> None:
        """Computes the reference gradients at the current weights."""
        self._attach(strategy)
        self.projector.compute_references()

    def after_backward(self, strategy: Any, **kwargs: Any) -> None:
        """Projects the gradient of the current minibatch."""
        experience = origin_experience(strategy.experience).current_experience
        strength = self.projector.strength(experience, strategy.clock)
        scaler: Any = getattr(strategy, "scaler", None)
        has_scaler = isinstance(scaler, torch.amp.GradScaler) and scaler.is_enabled()
        try:
            if has_scaler:
                scaler.unscale_(strategy.optimizer)
            elif not math.isfinite(float(strategy.loss.detach())):
                raise NonFiniteGradientError("loss of the current minibatch")
            self.projector.project(strength, leave_non_finite=has_scaler)
        except NonFiniteGradientError as error:
            raise FloatingPointError(
                f"the {error.what} is not finite while training experience {experience} "
                f"(iteration {strategy.clock.train_exp_iterations}, memory_strength {strength:g}); "
                "lower the learning rate or memory_strength, or set normalize_memory_strength."
            ) from error

    def after_training_exp(self, strategy: Any, **kwargs: Any) -> None:
        """Takes samples of the experience into the memory."""
        experience = strategy.experience
        is_piece = isinstance(experience, OnlineCLExperience)
        self.projector.remember(
            samples_of(experience, self.memory.transform),
            task=origin_experience(experience).current_experience,
            key=self._key(experience),
            extends=is_piece and not experience.is_first_subexp,
        )
        # What is the strategy's, its checkpoint has.
        self.projector.model = self.projector.criterion = self.projector.forward = None
        self.memory.unpack, self.memory.collate_fn = unpacked, None

    def _attach(self, strategy: Any) -> None:
        loss = StrategyLoss.of(strategy)
        self.projector.model = strategy.model
        self.projector.criterion, self.projector.forward = loss.criterion, loss.forward
        self.memory.collate_fn, self.memory.unpack = loss.collate_fn, loss.unpack

    def _check(self, strategy: Any) -> None:
        """Finds before an experience is trained what would stop the training of a later one."""
        experience = origin_experience(strategy.experience)
        stream: Any = getattr(experience, "origin_stream", None)
        past = max(experience.current_experience, 1)
        if hasattr(stream, "__len__"):
            check_length(self.projector.memory_strength, len(stream))
            is_last = experience.current_experience == len(stream) - 1
            past = 0 if is_last else len(stream) - 1
        if strategy.experience is not experience and not strategy.experience.is_first_subexp:
            return
        if not any(isinstance(module, DynamicModule) for module in strategy.model.modules()):
            self.projector.partition.check(unwrapped(strategy.model))  # one that grows may get more layers
        dataset = samples_of(experience, self.memory.transform)
        if len(dataset) == 0:
            return
        where = f"the memory of experience {experience.current_experience}"
        group = self.memory.check(dataset, where=where, past=past)
        if self.projector.forward is not None or group.sizes == (1,):
            self.projector.check(dataset, past=past)

    def _key(self, experience: Any) -> str:
        """What recognises the origin experience; read once, and not again for each piece of a stream."""
        dataset = origin_experience(experience).dataset
        if self._known is None or self._known[0]() is not dataset:
            self._known = weakref.ref(dataset), fingerprint(dataset.eval())
        return self._known[1]

    def _warn_of_hidden_boundaries(self, experience: Any) -> None:
        is_online = isinstance(experience, OnlineCLExperience)
        if is_online and not experience.access_task_boundaries and not self._has_warned:
            self._has_warned = True
            warnings.warn(
                "GEM is defined by task boundaries, but this online stream hides them: they are read from "
                "origin_experience. Pass access_task_boundaries=True to split_online_stream to allow it.",
                stacklevel=2,
            )


@explains()
class PMGEMPlugin(MGEMPlugin, supports_distributed=True):  # type: ignore[call-arg]
    """p-mGEM (Liu et al., 2024): the parameters in ``num_modules`` modules, each constrained on its own.

    Args:
        patterns_per_experience: samples kept of each experience; None where ``mem_size`` is given.
        memory_strength: gamma, see :class:`MGEMPlugin`; default 0.5, as GEM.
        {arguments}

    Example:
        >>> PMGEMPlugin(256, 0.1)
        PMGEMPlugin(patterns_per_experience=256, memory_strength=0.1, num_modules=2)
    """

    @with_signature(Options, {**DEFAULTS, "num_modules": 2})
    def __init__(
        self,
        patterns_per_experience: int | None,
        memory_strength: MemoryStrength = 0.5,
        **options: Unpack[Options],
    ):
        super().__init__(patterns_per_experience, memory_strength, **options)


@explains()
class DMGEMPlugin(MGEMPlugin, supports_distributed=True):  # type: ignore[call-arg]
    """d-mGEM (Liu et al., 2024): each experience's memory in ``num_groups`` groups, each a constraint.

    Args:
        patterns_per_experience: samples kept of each experience; None where ``mem_size`` is given.
        memory_strength: gamma, see :class:`MGEMPlugin`; default 0.5, as GEM.
        {arguments}

    Example:
        >>> DMGEMPlugin(256, 0.1, num_groups=4)
        DMGEMPlugin(patterns_per_experience=256, memory_strength=0.1, num_groups=4)
    """

    @with_signature(Options, {**DEFAULTS, "num_groups": 2})
    def __init__(
        self,
        patterns_per_experience: int | None,
        memory_strength: MemoryStrength = 0.5,
        **options: Unpack[Options],
    ):
        super().__init__(patterns_per_experience, memory_strength, **options)


@dataclass(frozen=True)
class StrategyLoss:
    """How a strategy computes the loss of a batch.

    Attributes:
        collate_fn: of its loader; None where that of the data set serves.
        unpack: what is kept of a batch of its data.
        criterion: the loss of outputs and targets.
        forward: the output on inputs and task labels; None calls the model.
    """

    collate_fn: Collate | None
    unpack: UnpackBatch
    criterion: Criterion
    forward: Forward | None

    @classmethod
    def of(cls, strategy: Any) -> "StrategyLoss":
        """That of a strategy: its own methods where it has any, as one for batches of Hugging Face has."""
        has_labels = has_task_labels(strategy.experience.dataset)
        own = [name for name in _OF_A_BATCH if _of(type(strategy), name) is not _of(SupervisedProblem, name)]
        collate_fn = _collate_of(getattr(strategy, "dataloader", None))
        if not own:
            unpack = _with_task_labels if has_labels else _without_task_labels
            return cls(collate_fn, unpack, strategy._criterion, None)
        has_heads = has_labels and is_multi_task_module(strategy.model)
        forward, criterion = partial(_own_forward, strategy), partial(_own_criterion, strategy)
        return cls(collate_fn, _whole_with_task_labels if has_heads else _whole, criterion, forward)


# What a strategy may have of its own, instead of Avalanche's.
_OF_A_BATCH = ("_unpack_minibatch", "forward", "criterion", "mb_x", "mb_y", "mb_task_id")


def _collate_of(loader: Any) -> Collate | None:
    """The collate function that a strategy gave its loader, torch's or Avalanche's; None for torch's own."""
    given = getattr(loader, "collate_fn", None) or getattr(loader, "loader_kwargs", {}).get("collate_fn")
    return None if given is default_collate else given


def _of(cls: type, name: str) -> Any:
    return getattr(cls, name, None)


def _with_task_labels(batch: Any) -> Batch:
    """As Avalanche reads a batch: the last part is the task labels."""
    x, y, _ = _without_task_labels(batch)
    return x, y, batch[-1]


def _without_task_labels(batch: Any) -> Batch:
    if isinstance(batch, Mapping):
        raise ValueError(
            f"a batch is a {type(batch).__name__}, which Avalanche's strategies do not unpack; give the data "
            "set a collate_fn that returns inputs and targets, or the strategy an _unpack_minibatch, forward "
            "and criterion of its own."
        )
    x, y, _ = unpacked(batch)
    return x, y, None


def _whole_with_task_labels(batch: Any) -> Batch:
    return batch, batch, None if isinstance(batch, Mapping) else batch[-1]


def _whole(batch: Any) -> Batch:
    """For a strategy that reads the batch itself: all of it is inputs, and all of it is targets."""
    return batch, batch, None


def _own_forward(strategy: Any, batch: Tree, task_labels: Tensor | None) -> Any:
    """What the strategy's forward pass returns on a batch."""
    with _working_on(strategy, batch):
        return strategy.forward()


def _own_criterion(strategy: Any, output: Any, batch: Tree) -> Tensor:
    """The strategy's loss of this output on a batch."""
    with _working_on(strategy, batch):
        strategy.mb_output = output
        loss: Tensor = strategy.criterion()
        return loss


@contextmanager
def _working_on(strategy: Any, batch: Tree) -> Iterator[None]:
    """Makes a batch the strategy's minibatch, unpacked by the strategy."""
    before = strategy.mbatch, strategy.mb_output, strategy.model
    try:
        strategy.mbatch = tree_map(_same, batch)  # it may be unpacked in place
        strategy.model = unwrapped(strategy.model)
        strategy._unpack_minibatch()
        yield
    finally:
        strategy.mbatch, strategy.mb_output, strategy.model = before


def _same(tensor: Tensor) -> Tensor:
    return tensor


def origin_experience(experience: Any) -> Any:
    """The experience that an online stream split into this one, or the experience itself."""
    return experience.origin_experience if isinstance(experience, OnlineCLExperience) else experience


def samples_of(experience: Any, transform: str) -> Any:
    """An experience's dataset as the memory takes it: under the evaluation or the training transform."""
    return experience.dataset.eval() if transform == "eval" else experience.dataset.train()
