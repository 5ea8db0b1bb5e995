"""Domain-incremental benchmarks: each experience has the same classes in another kind of images."""

from collections.abc import Callable, Collection, Sequence
from typing import Any

from avalanche.benchmarks import GenericCLScenario
from avalanche.benchmarks.utils import DefaultTransformGroups, TaskAwareSupervisedClassificationDataset
from avalanche.benchmarks.utils.data_attribute import DataAttribute, TaskLabels
from avalanche.benchmarks.utils.flat_data import ConstantSequence
from avalanche.benchmarks.utils.transform_groups import TransformGroups
from torchvision.transforms import Compose, Normalize, ToTensor

from avalanche_mgem.data._streams import benchmark_of, values_of

Transform = Callable[[Any], Any]

HALF = (0.5, 0.5, 0.5)


def domain_incremental(
    train: Sequence[Any],
    test: Sequence[Any],
    *,
    return_task_id: bool,
    train_transform: Transform | None,
    eval_transform: Transform | None,
    changes: Sequence[Transform] | None = None,
) -> GenericCLScenario:
    """A benchmark whose experience i is the i-th data set. Targets stay as they are.

    Avalanche's ``nc_benchmark`` does not fit: it renumbers the classes of each data set, or demands all
    classes in each.

    Args:
        train: the training data sets, one an experience. Their ``targets`` are the classes as integers.
        test: the test data sets, one an experience.
        return_task_id: whether experience i has the task label i. Otherwise all experiences have label 0.
        train_transform: transform of the images in training.
        eval_transform: transform of the images in tests and, by default, in a memory.
        changes: one transform for each experience, such as its permutation of pixels. It comes before
            ``train_transform`` and ``eval_transform``. None changes nothing.

    Returns:
        A benchmark with a train and a test stream.
    """
    nothing: list[Transform | None] = [None] * len(train)
    labels = [number if return_task_id else 0 for number in range(len(train))]
    transforms = {"train": (train_transform, None), "eval": (eval_transform, None)}
    streams: dict[str, list[Any]] = {}
    for name, group, datasets in (("train", "train", train), ("test", "eval", test)):
        streams[name] = [
            TaskAwareSupervisedClassificationDataset(
                [dataset],
                data_attributes=[
                    DataAttribute(values_of(dataset.targets), "targets"),
                    TaskLabels(ConstantSequence(label, len(dataset))),
                ],
                transform_groups=TransformGroups(transforms),
                frozen_transform_groups=DefaultTransformGroups((change, None)),
            ).with_transforms(group)
            for dataset, label, change in zip(datasets, labels, changes or nothing, strict=True)
        ]
    return benchmark_of(streams, {"train": labels, "test": labels})


def image_transforms(
    train_transform: Transform | None,
    eval_transform: Transform | None,
    mean: Sequence[float],
    std: Sequence[float],
) -> tuple[Transform, Transform]:
    """The two transforms. Each that is None is replaced by RGB images to ``(x / 255 - mean) / std``.

    Raises:
        ValueError: if there are not three means and three positive standard deviations.
    """
    if len(mean) != 3 or len(std) != 3 or min(std) <= 0:
        raise ValueError(
            f"mean={list(mean)} and std={list(std)}: they must be three numbers each, those of std above 0."
        )
    default = Compose([ToTensor(), Normalize(mean, std)])
    train, test = (default if given is None else given for given in (train_transform, eval_transform))
    return train, test


def checked_names(key: str, names: Sequence[object], known: Collection[str]) -> list[str]:
    """Checks a list of names of experiences. Names may look like numbers, such as folders of years.

    Args:
        key: name of the argument, for the error.
        names: the list.
        known: the names that are allowed.

    Returns:
        The names as strings.

    Raises:
        ValueError: if it is not a list, if it is empty, or if a name is unknown or given twice.
    """
    if isinstance(names, str):
        raise ValueError(f"{key} must be a list of names, such as [{names}]; got {names!r}.")
    chosen = [str(name) for name in names]
    unknown = [name for name in chosen if name not in known]
    if unknown or not chosen or len(set(chosen)) < len(chosen):
        problem = (
            f"there is no {unknown[0]!r}" if unknown else "it must have at least one name, and each once"
        )
        raise ValueError(f"{key}=[{', '.join(chosen)}]: {problem}; allowed are {', '.join(sorted(known))}.")
    return chosen
