"""Episodic memory: a few samples of each past experience, and the groups into which d-mGEM splits them."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import groupby
from numbers import Integral
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch

from avalanche_mgem.memory._draws import Draw, Draws, Index
from avalanche_mgem.memory._fingerprint import fingerprint
from avalanche_mgem.memory._grouping import GROUPINGS, Grouping, check_classes, check_grouping
from avalanche_mgem.memory._groups import MemoryGroups, MixedGroups, StepGroups, joined
from avalanche_mgem.memory._slot import Slot, of_least_priority, only_tasks
from avalanche_mgem.memory._storage import (
    Batch,
    Collate,
    Reading,
    Samples,
    StoredSamples,
    Unpack,
    UnreadSamples,
    check_dataset,
    unpacked,
)

MemoryTransform = Literal["eval", "train", "frozen"]

MEMORY_TRANSFORMS = ("eval", "train", "frozen")

_LEAST = {"seed": 0, "patterns_per_step": 1, "experiences_per_step": 1}


@dataclass
class EpisodicMemory:
    """Keeps at most ``patterns_per_experience`` samples, drawn uniformly, of every experience.

    Or ``mem_size`` samples of all, so that the memory is full from the first experience on, as that of
    replay: experiences have equal shares, and give samples up as more come. What stays is uniform, too.

    An experience is recognised by its data, see :func:`fingerprint`. Remembering the same experience again
    replaces its samples. All randomness comes from a generator of the memory's own, so that a strategy with a
    memory sees the same minibatches as one without.

    Args:
        patterns_per_experience: samples kept of each experience; None where ``mem_size`` is given.
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
        mem_size: samples kept of all experiences together, in place of ``patterns_per_experience``.
        collate_fn: makes a batch of samples, as that of a ``DataLoader``: inputs and targets, and task labels
            where there are any. None (default) takes that of the dataset, or torch's own. Inputs and targets
            are tensors with the samples first, or tuples, lists, mappings and dataclasses of such. They may
            differ in shape from experience to experience.
        unpack: inputs, targets and task labels of a batch; see
            :func:`~avalanche_mgem.memory.unpacked`, the default.

    Raises:
        ValueError: for values that are not allowed.

    Example:
        >>> memory = EpisodicMemory(4, num_groups=2, seed=0)
        >>> memory.remember([(torch.tensor([float(i)]), i % 2) for i in range(10)])
        >>> memory.groups().sizes
        (2, 2)
    """

    patterns_per_experience: int | None
    num_groups: int = 1
    grouping: Grouping = "random"
    transform: MemoryTransform = "eval"
    seed: int | None = None
    patterns_per_step: int | None = None
    experiences_per_step: int | None = None
    mem_size: int | None = None
    collate_fn: Collate | None = field(default=None, repr=False)
    unpack: Unpack = field(default=unpacked, repr=False)
    _slots: list[Slot] = field(default_factory=list, repr=False)
    _generators: tuple[np.random.Generator, np.random.Generator] | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        self.num_groups = checked_integer("num_groups", self.num_groups, at_least=1)
        sizes = {"patterns_per_experience": self.patterns_per_experience, "mem_size": self.mem_size}
        for name, least in (*((size, 1) for size in sizes), *_LEAST.items()):
            if getattr(self, name) is not None:
                setattr(self, name, checked_integer(name, getattr(self, name), at_least=least))
        given = [name for name, value in sizes.items() if value is not None]
        if len(given) != 1:
            found = ", ".join(f"{name}={value!r}" for name, value in sizes.items())
            raise ValueError(
                f"{found}: give one of the two, a number of samples of each experience or of all together."
            )
        if self.num_groups > self._share(1):
            raise ValueError(
                f"num_groups={self.num_groups} is larger than the memory of {self._share(1)} {given[0]}; "
                "a group is never empty."
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
            dataset: the experience's samples, a dataset of torch; usually of ``(x, y)`` or
                ``(x, y, task label)``.
            experience: the experience's number, which errors name; None (default) counts from 0.
            key: what recognises the experience; None (default) is the dataset's :func:`fingerprint`.
            extends: whether these samples come on top of those that the experience had before, as in an
                online stream. The kept samples are then uniform over all of them.

        Raises:
            ValueError: if the samples have no places, make no batch that can be kept, or those of a stream's
                pieces differ in shape.
        """
        check_dataset(dataset)
        key = fingerprint(dataset) if key is None else key
        slot = self._find(key)
        priorities: npt.NDArray[np.float64] = np.empty(0)
        old = None
        if slot is not None and extends:
            priorities, old = slot.priorities, slot.samples
        share = self._share(len(self) + (slot is None))
        new = self._generator().random(len(dataset))
        keep = of_least_priority(np.concatenate([priorities, new]), share)
        kept_old, kept_new = keep[keep < len(priorities)], keep[keep >= len(priorities)] - len(priorities)
        if len(keep) == 0:
            return
        number = len(self) if experience is None else experience
        updated = Slot(
            key=key,
            experience=number if slot is None or experience is not None else slot.experience,
            priorities=np.concatenate([priorities[kept_old], new[kept_new]]),
            samples=self._merged(old, kept_old, dataset, kept_new),
        )
        if slot is None:
            self._slots = [*(one.cut(share) for one in self._slots), updated]
        else:
            self._slots[self._slots.index(slot)] = updated

    def _share(self, experiences: int) -> int:
        """The samples of each of so many experiences, at least one."""
        if self.patterns_per_experience is not None:
            return self.patterns_per_experience
        assert self.mem_size is not None
        if experiences > self.mem_size:
            raise ValueError(
                f"mem_size={self.mem_size} has no sample for each of {experiences} experiences; give more."
            )
        return self.mem_size // experiences

    def check(
        self, dataset: Any, *, where: str = "the memory of an experience", past: int = 1
    ) -> MemoryGroups:
        """Reads two samples of a dataset, to find what :meth:`remember` and :meth:`groups` will refuse.

        Args:
            dataset: the samples of a whole experience.
            where: whose samples they are, for the errors.
            past: the most past experiences that a step of the stream will have; 0 if this one will
                constrain no step, as the last does.

        Returns:
            the two, as a group; one, if a group of a step will have no more.

        Raises:
            ValueError: if they make no batch that can be kept, or not the groups asked for.
        """
        check_dataset(dataset)
        if len(dataset) == 0:
            raise ValueError(f"{where} would be empty: the data set has no samples.")
        kept = min(len(dataset), self._share(max(past, 1)))
        n = min(2, len(dataset), self._smallest_group(kept, past) if past else 2)
        batch = self._reading.batch([(dataset, place) for place in range(n)], 0)
        check_grouping(batch[1], kept, self.num_groups, self.grouping, where)
        if self.grouping == "label" and past:
            check_classes(dataset, self.num_groups, where)
        return MemoryGroups(*batch, (n,), ((0, 0),), only_tasks(batch[2], (n,)))

    def _smallest_group(self, kept: int, past: int) -> int:
        """The samples of the smallest group of a step, at least one, where groups are of equal size."""
        size = kept // self.num_groups
        if self.patterns_per_step is not None:
            drawn = past if self.experiences_per_step is None else min(past, self.experiences_per_step)
            size = min(size, self.patterns_per_step // (drawn * self.num_groups))
        return max(size, 1)

    def groups(self, *, but: str | None = None, device: torch.device | str = "cpu") -> StepGroups:
        """The groups of all experiences, in the order in which these were first remembered.

        Args:
            but: key of an experience to leave out, the one that is being trained on; None leaves out none.
            device: of the returned tensors.

        Raises:
            ValueError: if an experience's samples cannot be split into the groups asked for.
        """
        slots = self._others(but)
        if not slots:
            return MemoryGroups(torch.empty(0), torch.empty(0), None, (), (), ())
        stored = [slot.samples.read(self._next_seed(slot), self._reading) for slot in slots]
        for slot, batch in zip(slots, stored, strict=True):
            slot.split(batch, num_groups=self.num_groups, grouping=self.grouping, generator=self._generator())
        groups = joined([slot.grouped(batch) for slot, batch in zip(slots, stored, strict=True)])
        return groups.to(torch.device(device))

    def steps(
        self,
        *,
        but: str | None = None,
        device: torch.device | str = "cpu",
        memory_device: torch.device | None = None,
    ) -> Iterator[StepGroups]:
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

    def _stored_steps(self, whole: StepGroups, device: torch.device) -> Iterator[StepGroups]:
        if device.type == "cuda" and whole.device.type == "cpu":
            whole = whole.pin()
        draws = self._draws(whole.sizes, whole.origins)
        if draws is None:
            while True:
                yield whole.to(device)
        while True:
            yield whole.take(draws.next()).to(device)

    def _read_steps(self, but: str | None, device: torch.device) -> Iterator[StepGroups]:
        """Reads the samples anew for each step, and only those of the step."""
        slots = self._others(but)
        whole = self.groups(but=but)
        order = np.concatenate([slot.order for slot in slots])
        all_samples = Draw(np.arange(len(order)), whole.sizes, tuple(range(len(whole))))
        draws = self._draws(whole.sizes, whole.origins)
        everything: Any = slots[0].samples
        for slot in slots[1:]:
            everything = everything.joined(slot.samples)
        starts = np.cumsum([0, *(len(slot.priorities) for slot in slots)])
        order += np.repeat(starts[:-1], np.diff(starts))
        while True:
            draw = all_samples if draws is None else draws.next()
            if isinstance(whole, MixedGroups):
                yield self._read_apart(everything, order, whole, draw).to(device)
            else:
                batch: Batch = everything.take(order[draw.positions]).read(self._next_seed(), self._reading)
                yield whole.with_samples(draw, batch).to(device)

    def _read_apart(self, everything: Any, order: Index, whole: MixedGroups, draw: Draw) -> StepGroups:
        """A draw, of which the samples of each experience are read by themselves."""
        found, sample = [], 0
        drawn = zip(draw.kept, draw.sizes, strict=True)
        for _, of_slot in groupby(drawn, key=lambda one: one[0] // self.num_groups):
            kept, sizes = zip(*of_slot, strict=True)
            places = order[draw.positions[sample : sample + sum(sizes)]]
            sample += sum(sizes)
            batch: Batch = everything.take(places).read(self._next_seed(), self._reading)
            origins, tasks = tuple(whole.origins[k] for k in kept), tuple(whole.tasks[k] for k in kept)
            found.append(MemoryGroups(*batch, sizes, origins, tasks))
        return joined(found)

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

    def _others(self, but: str | None) -> list[Slot]:
        return [slot for slot in self._slots if slot.key != but]

    def _find(self, key: str) -> Slot | None:
        return next((slot for slot in self._slots if slot.key == key), None)

    @property
    def _reading(self) -> Reading:
        return Reading(self.collate_fn, self.unpack)

    def _merged(self, old: Any, kept_old: Index, dataset: Any, kept_new: Index) -> Samples:
        """The kept ones of a slot's samples (None if it begins) and of a dataset, as a slot holds them."""
        new: Any = UnreadSamples([(dataset, int(index)) for index in kept_new])
        if self.transform != "train" and len(kept_new):
            new = StoredSamples(new.read(self._next_seed(), self._reading))
        if old is None:
            return new  # type: ignore[no-any-return]
        kept = old.take(kept_old)
        if len(kept_new) == 0:
            return kept  # type: ignore[no-any-return]
        if not kept.fits(new):
            raise ValueError(
                "the samples of this piece of an experience differ in shape from those of the pieces before; "
                "pad all to one length, or take memory_transform='train', which reads a step's together."
            )
        return kept.joined(new)  # type: ignore[no-any-return]

    def _generator(self, of_draws: bool = False) -> np.random.Generator:
        """The memory's generator, or another for the steps' draws, which must not change what is kept."""
        if self._generators is None:  # both at once: after a restart torch's seed may be another
            seed = (torch.initial_seed() if self.seed is None else self.seed) % 2**64
            self._generators = np.random.default_rng(seed), np.random.default_rng([seed, 1])
        return self._generators[of_draws]

    def _next_seed(self, slot: Slot | None = None) -> int:
        """A seed for reading samples; samples that were read already need none."""
        if slot is not None and isinstance(slot.samples, StoredSamples):
            return 0
        return int(self._generator().integers(2**32))


def checked_integer(name: str, value: Any, *, at_least: int) -> int:
    """The value as an int, NumPy's too; a ValueError with its name for any other."""
    if isinstance(value, bool) or not isinstance(value, Integral) or value < at_least:
        raise ValueError(f"{name} must be an integer of at least {at_least}; got {value!r}.")
    return int(value)
