"""Episodic memory: a few samples of each past experience, and the groups into which d-mGEM splits them."""

import random
import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from numbers import Integral
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from avalanche.benchmarks import OnlineCLExperience
from avalanche.benchmarks.utils import concat_datasets
from torch import Tensor
from torch.utils.data import default_collate

from avalanche_mgem.memory._draws import Draw, Draws, Index
from avalanche_mgem.memory._grouping import GROUPINGS, Grouping, split
from avalanche_mgem.memory._groups import MemoryGroups

MemoryTransform = Literal["eval", "train", "frozen"]

MEMORY_TRANSFORMS = ("eval", "train", "frozen")


Samples = tuple[Tensor, Tensor, Tensor | None]


@dataclass(eq=False)
class _Slot:
    """The memory of one experience."""

    stream: str
    experience: int
    source: weakref.ref[Any] | None  # the experience's dataset, to recognise the experience; not pickled
    priorities: npt.NDArray[np.float64]  # the samples with the least random priorities stay
    samples: Any  # Samples, or an Avalanche dataset where transforms are applied at every use
    groups: Tensor | None = None  # group id of each sample, drawn when first needed

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"source": None}

    def is_of(self, origin: Any) -> bool:
        """Whether it is the memory of this origin experience."""
        if (self.stream, self.experience) != (origin.origin_stream.name, origin.current_experience):
            return False
        # Two benchmarks may use the same names. After unpickling only the place is known.
        return self.source is None or self.source() is origin.dataset


@dataclass
class EpisodicMemory:
    """Keeps at most ``patterns_per_experience`` samples, drawn uniformly, of every experience.

    An *experience* is the origin experience where an online stream splits it, and training again on the
    same experience replaces its samples. All randomness comes from a generator of its own, so that a
    strategy with a memory sees the same minibatches as one without.

    Args:
        patterns_per_experience: samples kept of each experience.
        num_groups: groups ``d`` into which each experience's samples are split.
        grouping: ``"random"``: at random, of equal size (to one sample); ``"stratified"``: each with the
            class balance of the experience; ``"label"``: of whole classes; or a function
            ``(x, y) -> group ids [n]``.
        transform: ``"eval"`` (default): samples are stored under the evaluation transform, without
            augmentation; ``"train"``: the training transform is applied anew at every use, which is slower
            and keeps the benchmark's datasets, also in a pickle; ``"frozen"``: stored under one draw of the
            training transform, as Avalanche's GEM does.
        seed: of the generator; None takes the seed of torch's global generator at the first draw, without
            advancing it.
        patterns_per_step: samples drawn anew for each step, shared evenly among its constraints and at least
            one for each; None (default) takes the whole memory, as GEM does.
        experiences_per_step: past experiences drawn anew for each step, the others constrain nothing in it;
            None (default) takes all.

    Raises:
        ValueError: for values that are not allowed.
    """

    patterns_per_experience: int
    num_groups: int = 1
    grouping: Grouping = "random"
    transform: MemoryTransform = "eval"
    seed: int | None = None
    patterns_per_step: int | None = None
    experiences_per_step: int | None = None
    _slots: list[_Slot] = field(default_factory=list)
    _rng: np.random.Generator | None = None
    _draw_rng: np.random.Generator | None = None

    def __post_init__(self) -> None:
        self.patterns_per_experience = checked_integer(
            "patterns_per_experience", self.patterns_per_experience, at_least=1
        )
        self.num_groups = checked_integer("num_groups", self.num_groups, at_least=1)
        for name, least in (("seed", 0), ("patterns_per_step", 1), ("experiences_per_step", 1)):
            if getattr(self, name) is not None:
                setattr(self, name, checked_integer(name, getattr(self, name), at_least=least))
        if self.num_groups > self.patterns_per_experience:
            raise ValueError(
                f"num_groups={self.num_groups} is larger than the memory of {self.patterns_per_experience} "
                "patterns_per_experience; a group is never empty."
            )
        if not callable(self.grouping) and self.grouping not in GROUPINGS:
            raise ValueError(f"grouping must be one of {GROUPINGS} or a function; got {self.grouping!r}.")
        if self.transform not in MEMORY_TRANSFORMS:
            raise ValueError(f"memory_transform must be one of {MEMORY_TRANSFORMS}; got {self.transform!r}.")

    def __len__(self) -> int:
        """Number of experiences of which samples are kept."""
        return len(self._slots)

    def update(self, experience: Any) -> None:
        """Draws samples of an experience; call it when training on it has ended.

        Sub-experiences of an online stream extend the memory of their origin: the kept samples are
        uniform over all that have been seen of it.
        """
        slot = self._find(experience)
        starts_anew = not isinstance(experience, OnlineCLExperience) or experience.is_first_subexp
        if slot is None or starts_anew:
            priorities: npt.NDArray[np.float64] = np.empty(0)
            old = None
        else:
            priorities, old = slot.priorities, slot.samples

        new = self._generator().random(len(experience.dataset))
        keep = np.sort(np.argsort(np.concatenate([priorities, new]))[: self.patterns_per_experience])
        kept_old, kept_new = keep[keep < len(priorities)], keep[keep >= len(priorities)] - len(priorities)
        if len(keep) == 0:
            return
        origin = origin_experience(experience)
        updated = _Slot(
            stream=origin.origin_stream.name,
            experience=origin.current_experience,
            source=weakref.ref(origin.dataset),
            priorities=np.concatenate([priorities[kept_old], new[kept_new]]),
            samples=self._samples(old, kept_old, experience.dataset, kept_new),
        )
        if slot is None:
            self._slots.append(updated)
        else:
            self._slots[self._slots.index(slot)] = updated

    def constraints(self, experience: Any, device: torch.device) -> MemoryGroups:
        """The groups of all experiences but ``experience``, in the order in which these were trained.

        Args:
            experience: the one that is being trained on.
            device: of the returned tensors.

        Raises:
            ValueError: if an experience's samples cannot be split into the groups asked for, or those of two
                experiences differ in shape.
        """
        slots = self._others(experience)
        if not slots:
            return MemoryGroups(torch.empty(0), torch.empty(0), None, (), (), ())
        stored = [self._stored(slot) for slot in slots]
        for slot, (inputs, targets, _) in zip(slots, stored, strict=True):
            self._group(slot, inputs, targets)
        rows = torch.from_numpy(np.concatenate(_ordered(slots)))
        groups = [slot.groups for slot in slots if slot.groups is not None]
        sizes = tuple(n for ids in groups for n in torch.bincount(ids, minlength=self.num_groups).tolist())
        origins = tuple((slot.experience, group) for slot in slots for group in range(self.num_groups))
        x, y, task_labels = (_joined(parts, slots) for parts in zip(*stored, strict=True))
        labels = None if task_labels is None else task_labels[rows]
        assert x is not None
        assert y is not None
        return MemoryGroups(x[rows], y[rows], labels, sizes, origins, _tasks(labels, sizes)).to(device)

    def steps(
        self, experience: Any, device: torch.device, memory_device: torch.device | None = None
    ) -> Iterator[MemoryGroups]:
        """The constraints of one step after another while ``experience`` is trained, without an end.

        Ends at once where nothing constrains it. The whole memory unless ``patterns_per_step`` or
        ``experiences_per_step`` say otherwise.

        Args:
            experience: the one that is being trained on.
            device: of the yielded tensors.
            memory_device: where the memory rests between the steps; None (default) is ``device``. On the
                host it is pinned for a GPU, and copied in every step.

        Raises:
            ValueError: as :meth:`constraints`.
        """
        if not self._others(experience):
            return iter(())
        return (
            self._collated_steps(experience, device)
            if self.transform == "train"
            else self._stored_steps(self.constraints(experience, memory_device or device), device)
        )

    def _stored_steps(self, whole: MemoryGroups, device: torch.device) -> Iterator[MemoryGroups]:
        if device.type == "cuda" and whole.x.device.type == "cpu":
            whole = whole.pin()
        draws = self._draws(whole.sizes, whole.origins)
        if draws is None:
            while True:
                yield whole.to(device)
        while True:
            yield whole.take(draws.next()).to(device)

    def _collated_steps(self, experience: Any, device: torch.device) -> Iterator[MemoryGroups]:
        """The training transform is drawn anew for each step, but for the step's samples only."""
        slots = self._others(experience)
        whole = self.constraints(experience, torch.device("cpu"))
        joined = concat_datasets([slot.samples for slot in slots])
        order = np.concatenate(_ordered(slots))
        everything = Draw(np.arange(len(order)), whole.sizes, tuple(range(len(whole))))
        draws = self._draws(whole.sizes, whole.origins)
        while True:
            draw = everything if draws is None else draws.next()
            samples = self._collate(joined.subset(order[draw.positions].tolist()))
            yield whole.of(draw, *samples).to(device)

    def _draws(self, sizes: tuple[int, ...], origins: tuple[tuple[int, int], ...]) -> Draws | None:
        if self.patterns_per_step is None and self.experiences_per_step is None:
            return None
        if self._draw_rng is None:  # of its own: what the memory keeps does not depend on the draws
            self._draw_rng = np.random.default_rng([self._initial_seed(), 1])
        return Draws(
            sizes,
            origins,
            patterns_per_step=self.patterns_per_step,
            experiences_per_step=self.experiences_per_step,
            generator=self._draw_rng,
        )

    def _others(self, experience: Any) -> list[_Slot]:
        current = self._find(experience)
        return [slot for slot in self._slots if slot is not current]

    def _stored(self, slot: _Slot) -> Samples:
        return slot.samples if isinstance(slot.samples, tuple) else self._collate(slot.samples)

    def _group(self, slot: _Slot, x: Tensor, y: Tensor) -> None:
        """Splits a slot's samples into groups, once."""
        if slot.groups is None:
            slot.groups = split(
                x,
                y,
                num_groups=self.num_groups,
                grouping=self.grouping,
                generator=self._generator(),
                where=f"the memory of experience {slot.experience}",
            )

    def _find(self, experience: Any) -> _Slot | None:
        origin = origin_experience(experience)
        return next((slot for slot in self._slots if slot.is_of(origin)), None)

    def _generator(self) -> np.random.Generator:
        if self._rng is None:
            self._rng = np.random.default_rng(self._initial_seed())
        return self._rng

    def _initial_seed(self) -> int:
        return (torch.initial_seed() if self.seed is None else self.seed) % 2**64

    def _samples(
        self, old: Any, kept_old: npt.NDArray[np.int64], dataset: Any, kept_new: npt.NDArray[np.int64]
    ) -> Any:
        """The kept ones of a slot's samples (None if it begins) and of a dataset, as a slot holds them."""
        dataset = dataset.eval() if self.transform == "eval" else dataset.train()
        new = dataset.subset(kept_new.tolist())
        if self.transform == "train":
            return new if old is None else concat_datasets([old.subset(kept_old.tolist()), new])
        if old is None:
            return self._collate(new)
        kept = tuple(None if part is None else part[kept_old] for part in old)
        if len(kept_new) == 0:
            return kept
        return tuple(
            None if a is None or b is None else torch.cat([a, b])
            for a, b in zip(kept, self._collate(new), strict=True)
        )

    def _collate(self, dataset: Any) -> Samples:
        collate = getattr(dataset, "collate_fn", None) or default_collate
        with _seeded(int(self._generator().integers(2**32))):
            batch = collate([dataset[i] for i in range(len(dataset))])
        x, y = batch[0], batch[1]
        return x, y, batch[-1] if len(batch) > 2 else None


def _ordered(slots: Sequence[_Slot]) -> list[Index]:
    """The places of the slots' samples among those of all, ordered by group."""
    places, start = [], 0
    for slot in slots:
        assert slot.groups is not None
        places.append(start + np.argsort(slot.groups.numpy(), kind="stable"))
        start += len(slot.groups)
    return places


def _tasks(task_labels: Tensor | None, sizes: Sequence[int]) -> tuple[int | None, ...]:
    """The only task label of each constraint, or None."""
    if task_labels is None:
        return (None,) * len(sizes)
    found = [torch.unique(part).tolist() for part in torch.split(task_labels, list(sizes))]
    return tuple(labels[0] if len(labels) == 1 else None for labels in found)


def _joined(parts: Sequence[Tensor | None], slots: Sequence[_Slot]) -> Tensor | None:
    """Inputs, targets or task labels of all slots in one tensor."""
    tensors = [part for part in parts if part is not None]
    if len(tensors) < len(parts):
        return None
    for slot, tensor in zip(slots, tensors, strict=True):
        if tensor.shape[1:] != tensors[0].shape[1:]:
            raise ValueError(
                f"the memory of experience {slot.experience} has samples of shape {list(tensor.shape[1:])}, "
                f"that of experience {slots[0].experience} {list(tensors[0].shape[1:])}; they must be equal."
            )
    return torch.cat(tensors)


def origin_experience(experience: Any) -> Any:
    """The experience that an online stream split into this one, or the experience itself."""
    if isinstance(experience, OnlineCLExperience):
        return experience.origin_experience
    return experience


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Lets random transforms draw from generators of this seed, and gives the user's back as they were."""
    states = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            random.seed(seed)
            np.random.seed(seed)
            yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])


def checked_integer(name: str, value: Any, *, at_least: int) -> int:
    """The value as an int, NumPy's too; a ValueError with its name for any other."""
    if isinstance(value, bool) or not isinstance(value, Integral) or value < at_least:
        raise ValueError(f"{name} must be an integer of at least {at_least}; got {value!r}.")
    return int(value)
