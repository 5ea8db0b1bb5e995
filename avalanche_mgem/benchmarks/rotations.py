"""Rotated MNIST with the angles of the GEM paper."""

import random
from collections.abc import Sequence
from typing import Any

from avalanche.benchmarks import NCScenario
from avalanche.benchmarks import RotatedMNIST as AvalancheRotatedMNIST


def rotation_angles(n_experiences: int, seed: int | None = None) -> list[float]:
    """The angles of the GEM paper's MNIST rotations.

    The range from 0 to 180 degrees is cut into ``n_experiences`` equal intervals; experience i gets a random
    angle of the i-th one.

    Args:
        n_experiences: number of angles.
        seed: of the draw; None draws anew.

    Returns:
        Increasing angles in degrees, one an experience.
    """
    draw = random.Random(seed)
    return [180.0 * (i + draw.random()) / n_experiences for i in range(n_experiences)]


def RotatedMNIST(  # noqa: N802 (Avalanche's benchmarks are spelt as classes)
    n_experiences: int,
    *,
    seed: int | None = None,
    rotations_list: Sequence[float] | None = None,
    **options: Any,
) -> NCScenario:
    """Avalanche's ``RotatedMNIST``, with GEM's angles where Avalanche draws each from -180 to 180.

    Args:
        n_experiences: experiences.
        seed: of the angles.
        rotations_list: angles in degrees, one an experience; None takes :func:`rotation_angles`.
        options: further arguments of Avalanche's function.

    Returns:
        A benchmark with a train and a test stream.

    Raises:
        ValueError: if there is not one angle for each experience.
    """
    if rotations_list is None:
        rotations_list = rotation_angles(n_experiences, seed)
    return AvalancheRotatedMNIST(n_experiences, seed=seed, rotations_list=rotations_list, **options)
