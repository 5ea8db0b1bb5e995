"""How each experience's memory is split into groups (d-mGEM)."""

from collections.abc import Callable
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from avalanche_mgem.memory._tree import Tree

Grouping = Literal["random", "stratified", "label"] | Callable[[Any, Any], Tensor]

GROUPINGS = ("random", "stratified", "label")


def check_grouping(y: Tree, n: int, num_groups: int, grouping: Grouping, where: str) -> None:
    """Checks that samples with targets like ``y`` can be split, as far as that is known in advance.

    Args:
        y: targets of some samples.
        n: number of samples that are split.
        num_groups: see :func:`split`.
        grouping: see :func:`split`.
        where: see :func:`split`.

    Raises:
        ValueError: if they cannot.
    """
    if num_groups > n:
        raise ValueError(
            f"num_groups={num_groups} but {where} holds only {n} samples; a group is never empty."
        )
    if callable(grouping) or grouping == "random" or num_groups == 1:
        return
    if not isinstance(y, Tensor) or y.dim() != 1 or y.is_floating_point():
        found = f"{y.dtype} of shape {list(y.shape)}" if isinstance(y, Tensor) else f"in a {type(y).__name__}"
        raise ValueError(
            f"grouping={grouping!r} needs class labels, integers of shape [n]; {where} has targets {found}."
        )


def check_classes(dataset: Any, num_groups: int, where: str) -> None:
    """Checks that a data set has a class for each group, if it lists its ``targets``, as torchvision's do.

    Args:
        dataset: the samples of a whole experience.
        num_groups: see :func:`split`.
        where: see :func:`split`.

    Raises:
        ValueError: if it has fewer.
    """
    targets = getattr(dataset, "targets", None)
    if targets is None:
        return
    found = len(torch.unique(torch.as_tensor(list(targets))))
    if found < num_groups:
        raise ValueError(_too_few_classes(num_groups, found, where))


def split(
    x: Tree,
    y: Tree,
    n: int,
    *,
    num_groups: int,
    grouping: Grouping,
    generator: np.random.Generator,
    where: str,
) -> Tensor:
    """Group id of each sample ``[n]``, every id in ``0..num_groups-1`` used at least once.

    Args:
        x: inputs ``[n, ...]``.
        y: targets ``[n, ...]``.
        n: number of samples.
        num_groups: the number of groups d.
        grouping: see :class:`~avalanche_mgem.memory.EpisodicMemory`.
        generator: of the random groupings.
        where: whose samples they are, for the errors.

    Raises:
        ValueError: if the samples cannot be split so.
    """
    d = num_groups
    check_grouping(y, n, d, grouping, where)
    if callable(grouping):
        return _checked_groups(grouping(x, y), d, n, where)
    order = torch.from_numpy(generator.permutation(n))
    if d == 1:
        return torch.zeros(n, dtype=torch.long)
    groups = torch.empty(n, dtype=torch.long)
    if grouping == "label":
        return _whole_classes(y, d, where)
    if grouping == "stratified":
        order = order[torch.argsort(y[order], stable=True)]  # classes together, at random within one
    groups[order] = torch.arange(n) % d  # dealt like cards
    return groups


def _whole_classes(y: Tensor, d: int, where: str) -> Tensor:
    """Deals whole classes, largest first, each to the group that is smallest so far."""
    classes, class_of, counts = torch.unique(y, return_inverse=True, return_counts=True)
    if d > len(classes):
        raise ValueError(_too_few_classes(d, len(classes), where))
    sizes = [0] * d
    group_of = torch.empty(len(classes), dtype=torch.long)
    for c in torch.argsort(counts, descending=True, stable=True).tolist():
        smallest = sizes.index(min(sizes))
        group_of[c] = smallest
        sizes[smallest] += int(counts[c])
    return group_of[class_of]


def _too_few_classes(d: int, found: int, where: str) -> str:
    return (
        f"grouping='label' splits whole classes into num_groups={d} groups, but {where} has only {found} "
        "classes."
    )


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
