"""Episodic memory: a few samples of each past experience, and the groups into which d-mGEM splits them."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from numbers import Integral
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from avalanche_mgem.memory._draws import Draw, Draws, Index
from avalanche_mgem.memory._fingerprint import fingerprint
from avalanche_mgem.memory._grouping import GROUPINGS, Grouping, split
from avalanche_mgem.memory._groups import MemoryGroups
from avalanche_mgem.memory._storage import Batch, Samples, StoredSamples, UnreadSamples

MemoryTransform = Literal["eval", "train", "frozen"]

MEMORY_TRANSFORMS = ("eval", "train", "frozen")


@dataclass(eq=False)
class _Slot:
    """The memory of one experience."""

    key: str  # the experience's fingerprint
    experience: int
    priorities: npt.NDArray[np.float64]  # the samples with the least random priorities stay
    samples: Samples
    groups: Tensor | None = None  # group id of each sample, drawn when first needed


@dataclass
class EpisodicMemory:
    """Keeps at most ``patterns_per_experience`` samples, drawn uniformly, of every experience.

    An experience is recognised by its data, see :func:`fingerprint`. Remembering the same experience again
    replaces its samples. All randomness comes from a generator of the memory's own, so that a strategy with a
    memory sees the same minibatches as one without.

    Args:
        patterns_per_experience: samples kept of each experience.
        num_groups: groups ``d`` into which each experience's samples are split.
        grouping: ``"random"``: at random, of equal size (to one sample); ``"stratified"``: each with the
            class balance of the experience; ``"label"``: of whole classes; or a function
            ``(x, y) -> group ids [n]``.
        transform: ``"train"``: the datasets are kept, also in a pickle, and samples are read anew at every
            use, which is slower; ``"eval"`` (default) and ``"frozen"``: samples are read once. In Avalanche
            ``"eval"`` reads them under the evaluation transform, without augmentation, and ``"frozen"`` under
            one draw of the training transform, as its GEM does.
        seed: of the generator; None takes the seed of torch's global generator at the first draw, without
            advancing it.
        patterns_per_step: samples drawn anew for each step, shared evenly among its groups and at least one
            for each; None (default) takes the whole memory, as GEM does.
        experiences_per_step: past experiences drawn anew for each step, the others constrain nothing in it;
            None (default) takes all.

    Raises:
        ValueError: for values that are not allowed.

    Example:
        >>> memory = EpisodicMemory(4, num_groups=2, seed=0)
        >>> memory.remember([(torch.tensor([float(i)]), i % 2) for i in range(10)])
        >>> memory.groups().sizes
        (2, 2)
    """

    patterns_per_experience: int
    num_groups: int = 1
    grouping: Grouping = "random"
    transform: MemoryTransform = "eval"
    seed: int | None = None
    patterns_per_step: int | None = None
    experiences_per_step: int | None = None
    _slots: list[_Slot] = field(default_factory=list, repr=False)
    _generators: tuple[np.random.Generator, np.random.Generator] | None = field(default=None, repr=False)

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

    def remember(
        self, dataset: Any, *, experience: int | None = None, key: str | None = None, extends: bool = False
    ) -> None:
        """Draws samples of an experience; call it when training on it has ended.

        Args:
            dataset: the experience's samples ``(x, y)`` or ``(x, y, task label)``, a dataset of torch. Its
                ``collate_fn`` is used if it has one.
            experience: the experience's number, which errors name; None (default) counts from 0.
            key: what recognises the experience; None (default) is the dataset's :func:`fingerprint`.
            extends: whether these samples come on top of those that the experience had before, as in an
                online stream. The kept samples are then uniform over all of them.
        """
        key = fingerprint(dataset) if key is None else key
        slot = self._find(key)
        priorities: npt.NDArray[np.float64] = np.empty(0)
        old = None
        if slot is not None and extends:
            priorities, old = slot.priorities, slot.samples
        new = self._generator().random(len(dataset))
        keep = np.sort(np.argsort(np.concatenate([priorities, new]))[: self.patterns_per_experience])
        kept_old, kept_new = keep[keep < len(priorities)], keep[keep >= len(priorities)] - len(priorities)
        if len(keep) == 0:
            return
        number = len(self) if experience is None else experience
        updated = _Slot(
            key=key,
            experience=number if slot is None or experience is not None else slot.experience,
            priorities=np.concatenate([priorities[kept_old], new[kept_new]]),
            samples=self._merged(old, kept_old, dataset, kept_new),
        )
        if slot is None:
            self._slots.append(updated)
        else:
            self._slots[self._slots.index(slot)] = updated

    def groups(self, *, but: str | None = None, device: torch.device | str = "cpu") -> MemoryGroups:
        """The groups of all experiences, in the order in which these were first remembered.

        Args:
            but: key of an experience to leave out, the one that is being trained on; None leaves out none.
            device: of the returned tensors.

        Raises:
            ValueError: if an experience's samples cannot be split into the groups asked for, or those of two
                experiences differ in shape.
        """
        slots = self._others(but)
        if not slots:
            return MemoryGroups(torch.empty(0), torch.empty(0), None, (), (), ())
        stored = [slot.samples.read(self._next_seed(slot)) for slot in slots]
        for slot, (inputs, targets, _) in zip(slots, stored, strict=True):
            self._group(slot, inputs, targets)
        rows = torch.from_numpy(np.concatenate(_ordered(slots)))
        ids = [slot.groups for slot in slots if slot.groups is not None]
        sizes = tuple(n for group in ids for n in torch.bincount(group, minlength=self.num_groups).tolist())
        origins = tuple((slot.experience, group) for slot in slots for group in range(self.num_groups))
        x, y, task_labels = (_joined(parts, slots) for parts in zip(*stored, strict=True))
        labels = None if task_labels is None else task_labels[rows]
        assert x is not None
        assert y is not None
        groups = MemoryGroups(x[rows], y[rows], labels, sizes, origins, _tasks(labels, sizes))
        return groups.to(torch.device(device))

    def steps(
        self,
        *,
        but: str | None = None,
        device: torch.device | str = "cpu",
        memory_device: torch.device | None = None,
    ) -> Iterator[MemoryGroups]:
        """The groups of one step after another, without an end.

        Ends at once where there are none. The whole memory unless ``patterns_per_step`` or
        ``experiences_per_step`` say otherwise.

        Args:
            but: key of an experience to leave out, the one that is being trained on; None leaves out none.
            device: of the yielded tensors.
            memory_device: where the memory rests between the steps; None (default) is ``device``. On the
                host it is pinned for a GPU, and copied in every step.

        Raises:
            ValueError: as :meth:`groups`.
        """
        device = torch.device(device)
        if not self._others(but):
            return iter(())
        if self.transform == "train":
            return self._read_steps(but, device)
        return self._stored_steps(self.groups(but=but, device=memory_device or device), device)

    def _stored_steps(self, whole: MemoryGroups, device: torch.device) -> Iterator[MemoryGroups]:
        if device.type == "cuda" and whole.x.device.type == "cpu":
            whole = whole.pin()
        draws = self._draws(whole.sizes, whole.origins)
        if draws is None:
            while True:
                yield whole.to(device)
        while True:
            yield whole.take(draws.next()).to(device)

    def _read_steps(self, but: str | None, device: torch.device) -> Iterator[MemoryGroups]:
        """Reads the samples anew for each step, and only those of the step."""
        slots = self._others(but)
        whole = self.groups(but=but)
        everything: Any = slots[0].samples
        for slot in slots[1:]:
            everything = everything.joined(slot.samples)
        order = np.concatenate(_ordered(slots))
        all_samples = Draw(np.arange(len(order)), whole.sizes, tuple(range(len(whole))))
        draws = self._draws(whole.sizes, whole.origins)
        while True:
            draw = all_samples if draws is None else draws.next()
            batch: Batch = everything.take(order[draw.positions]).read(self._next_seed())
            yield whole.with_samples(draw, *batch).to(device)

    def _draws(self, sizes: tuple[int, ...], origins: tuple[tuple[int, int], ...]) -> Draws | None:
        if self.patterns_per_step is None and self.experiences_per_step is None:
            return None
        return Draws(
            sizes,
            origins,
            patterns_per_step=self.patterns_per_step,
            experiences_per_step=self.experiences_per_step,
            generator=self._generator(of_draws=True),
        )

    def _others(self, but: str | None) -> list[_Slot]:
        return [slot for slot in self._slots if slot.key != but]

    def _find(self, key: str) -> _Slot | None:
        return next((slot for slot in self._slots if slot.key == key), None)

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

    def _merged(self, old: Any, kept_old: Index, dataset: Any, kept_new: Index) -> Samples:
        """The kept ones of a slot's samples (None if it begins) and of a dataset, as a slot holds them."""
        new: Any = UnreadSamples([(dataset, int(index)) for index in kept_new])
        if self.transform != "train" and len(kept_new):
            new = StoredSamples(new.read(self._next_seed()))
        if old is None:
            return new  # type: ignore[no-any-return]
        kept = old.take(kept_old)
        return kept.joined(new) if len(kept_new) else kept  # type: ignore[no-any-return]

    def _generator(self, of_draws: bool = False) -> np.random.Generator:
        """The memory's generator, or another for the steps' draws, which must not change what is kept."""
        if self._generators is None:  # both at once: after a restart torch's seed may be another
            seed = (torch.initial_seed() if self.seed is None else self.seed) % 2**64
            self._generators = np.random.default_rng(seed), np.random.default_rng([seed, 1])
        return self._generators[of_draws]

    def _next_seed(self, slot: _Slot | None = None) -> int:
        """A seed for reading samples; samples that were read already need none."""
        if slot is not None and isinstance(slot.samples, StoredSamples):
            return 0
        return int(self._generator().integers(2**32))


def _ordered(slots: Sequence[_Slot]) -> list[Index]:
    """The places of the slots' samples among those of all, ordered by group."""
    places, start = [], 0
    for slot in slots:
        assert slot.groups is not None
        places.append(start + np.argsort(slot.groups.numpy(), kind="stable"))
        start += len(slot.groups)
    return places


def _tasks(task_labels: Tensor | None, sizes: Sequence[int]) -> tuple[int | None, ...]:
    """The only task label of each group, or None."""
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


def checked_integer(name: str, value: Any, *, at_least: int) -> int:
    """The value as an int, NumPy's too; a ValueError with its name for any other."""
    if isinstance(value, bool) or not isinstance(value, Integral) or value < at_least:
        raise ValueError(f"{name} must be an integer of at least {at_least}; got {value!r}.")
    return int(value)
