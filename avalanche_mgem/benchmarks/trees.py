"""Reads ``<folder>/<class>/<image files>``, with an error for each missing part."""

import os
from collections.abc import Iterable, Mapping
from pathlib import Path

from torchvision.datasets.folder import IMG_EXTENSIONS, is_image_file, make_dataset

from avalanche_mgem.data import RGBImages


def subfolders(folder: Path, content: str) -> list[str]:
    """Sorted names of the folders in a folder. Names that begin with a dot are ignored.

    Args:
        folder: where to look.
        content: what the folder must hold, for the error.

    Raises:
        ValueError: if the folder does not exist, or has no folders in it.
    """
    if not folder.is_dir():
        raise ValueError(f"there is no folder {folder}; it must hold {content}.")
    with os.scandir(folder) as entries:
        names = sorted(entry.name for entry in entries if entry.is_dir() and not entry.name.startswith("."))
    if not names:
        raise ValueError(f"the folder {folder} has no folders in it; it must hold {content}.")
    return names


def class_names(folder: Path) -> list[str]:
    """Sorted names of the class folders in ``folder/train``.

    Raises:
        ValueError: if ``train`` or ``test`` is missing or empty, or if ``test`` has a class that ``train``
            lacks.
    """
    train, test = (
        subfolders(folder / split, "a folder of images for each class") for split in ("train", "test")
    )
    if unknown := sorted(set(test) - set(train)):
        raise ValueError(f"{folder / 'test' / unknown[0]}: {folder / 'train'} has no class {unknown[0]!r}.")
    return train


def numbered(names: Iterable[str]) -> dict[str, int]:
    """The class id of each name: its place in sorted order, from 0."""
    return {name: number for number, name in enumerate(sorted(set(names)))}


def images_of(folder: Path, ids: Mapping[str, int], image_size: int) -> RGBImages:
    """All images in the class folders of a folder, ordered by class and file name.

    Files without the extension of an image are ignored, and so is every name that begins with a dot.

    Args:
        folder: the folder that holds the class folders.
        ids: the class id of each class folder's name.
        image_size: height and width in pixels to which images are stretched.

    Raises:
        ValueError: if a class folder has no image.
    """
    names = subfolders(folder, "a folder of images for each class")
    samples = make_dataset(
        folder,
        {name: ids[name] for name in names},
        is_valid_file=lambda path: is_image_file(path) and f"{os.sep}." not in path.removeprefix(str(folder)),
        allow_empty=True,  # torchvision's own error does not name the folder
    )
    targets = [target for _, target in samples]
    found = set(targets)
    for name in names:
        if ids[name] not in found:
            endings = ", ".join(IMG_EXTENSIONS)
            raise ValueError(f"the class folder {folder / name} has no image in it; images end in {endings}.")
    return RGBImages([path for path, _ in samples], targets, image_size)
