"""Episodic memory: a few samples of each past experience, and the groups into which d-mGEM splits them."""

import random
import weakref
from collections.abc import Callable, Iterator
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

Grouping = Literal["random", "stratified", "label"] | Callable[[Tensor, Tensor], Tensor]
MemoryTransform = Literal["eval", "train", "frozen"]

GROUPINGS = ("random", "stratified", "label")
MEMORY_TRANSFORMS = ("eval", "train", "frozen")


@dataclass(frozen=True)
class Constraint:
    """The samples behind one row of G: a group of one past experience's memory.

    Attributes:
        experience: index of the past experience in its stream.
        group: index of the group, ``0..num_groups-1``.
        x: inputs ``[n, ...]``.
        y: targets ``[n, ...]``.
        task_labels: ``[n]``, or None if the benchmark has none.
    """

    experience: int
    group: int
    x: Tensor
    y: Tensor
    task_labels: Tensor | None


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

    Raises:
        ValueError: for values that are not allowed.
    """

    patterns_per_experience: int
    num_groups: int = 1
    grouping: Grouping = "random"
    transform: MemoryTransform = "eval"
    seed: int | None = None
    _slots: list[_Slot] = field(default_factory=list)
    _rng: np.random.Generator | None = None

    def __post_init__(self) -> None:
        self.patterns_per_experience = _integer(
            "patterns_per_experience", self.patterns_per_experience, at_least=1
        )
        self.num_groups = _integer("num_groups", self.num_groups, at_least=1)
        if self.seed is not None:
            self.seed = _integer("seed", self.seed, at_least=0)
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

    def constraints(self, experience: Any, device: torch.device) -> list[Constraint]:
        """The groups of all experiences but ``experience``, in the order in which these were trained.

        Args:
            experience: the one that is being trained on.
            device: of the returned tensors.

        Raises:
            ValueError: if an experience's samples cannot be split into the groups asked for.
        """
        current = self._find(experience)
        found = []
        for slot in self._slots:
            if slot is current:
                continue
            is_stored = isinstance(slot.samples, tuple)
            x, y, task_labels = slot.samples if is_stored else self._collate(slot.samples)
            if slot.groups is None:
                slot.groups = self._split(slot, x, y)
            for group in range(self.num_groups):
                chosen = (slot.groups == group).nonzero().squeeze(1)
                labels = None if task_labels is None else task_labels[chosen].to(device)
                found.append(
                    Constraint(slot.experience, group, x[chosen].to(device), y[chosen].to(device), labels)
                )
        return found

    def _find(self, experience: Any) -> _Slot | None:
        origin = origin_experience(experience)
        return next((slot for slot in self._slots if slot.is_of(origin)), None)

    def _generator(self) -> np.random.Generator:
        if self._rng is None:
            seed = torch.initial_seed() if self.seed is None else self.seed
            self._rng = np.random.default_rng(seed % 2**64)
        return self._rng

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

    def _split(self, slot: _Slot, x: Tensor, y: Tensor) -> Tensor:
        """Group id of each sample ``[n]``, every id in ``0..num_groups-1`` used at least once."""
        d, n = self.num_groups, len(y)
        where = f"the memory of experience {slot.experience}"
        if d > n:
            raise ValueError(f"num_groups={d} but {where} holds only {n} samples; a group is never empty.")
        if callable(self.grouping):
            return _checked_groups(self.grouping(x, y), d, n, where)
        order = torch.from_numpy(self._generator().permutation(n))
        if d == 1:
            return torch.zeros(n, dtype=torch.long)
        groups = torch.empty(n, dtype=torch.long)
        if self.grouping != "random" and (y.dim() != 1 or y.is_floating_point()):
            raise ValueError(
                f"grouping={self.grouping!r} needs class labels, integers of shape [n]; "
                f"{where} has targets {y.dtype} of shape {list(y.shape)}."
            )
        if self.grouping == "label":
            return _whole_classes(y, d, where)
        if self.grouping == "stratified":
            order = order[torch.argsort(y[order], stable=True)]  # classes together, at random within one
        groups[order] = torch.arange(n) % d  # dealt like cards
        return groups


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


def _integer(name: str, value: Any, *, at_least: int) -> int:
    if isinstance(value, bool) or not isinstance(value, Integral) or value < at_least:
        raise ValueError(f"{name} must be an integer of at least {at_least}; got {value!r}.")
    return int(value)


def _whole_classes(y: Tensor, d: int, where: str) -> Tensor:
    """Deals whole classes, largest first, each to the group that is smallest so far."""
    classes, class_of, counts = torch.unique(y, return_inverse=True, return_counts=True)
    if d > len(classes):
        raise ValueError(
            f"grouping='label' splits whole classes into num_groups={d} groups, but {where} has only "
            f"{len(classes)} classes."
        )
    sizes = [0] * d
    group_of = torch.empty(len(classes), dtype=torch.long)
    for c in torch.argsort(counts, descending=True, stable=True).tolist():
        smallest = sizes.index(min(sizes))
        group_of[c] = smallest
        sizes[smallest] += int(counts[c])
    return group_of[class_of]


def _checked_groups(groups: object, d: int, n: int, where: str) -> Tensor:
    groups = torch.as_tensor(groups).cpu()
    if groups.shape != (n,) or groups.is_floating_point() or groups.dtype == torch.bool:
        raise ValueError(
            f"grouping must return one integer group id a sample, shape [{n}], for {where}; "
            f"got {groups.dtype} of shape {list(groups.shape)}."
        )
    found = set(groups.tolist())
    if found != set(range(d)):
        raise ValueError(
            f"grouping must use every group id in 0..{d - 1} for {where}; got the ids {sorted(found)}."
        )
    return groups.long()
