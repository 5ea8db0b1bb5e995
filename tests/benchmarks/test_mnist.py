from pathlib import Path

import avalanche.benchmarks as ab
import pytest
import torch
from avalanche.benchmarks import CLScenario
from helpers import is_equal

from avalanche_mgem.benchmarks import PermutedMNIST, RotatedMNIST, rotation_angles

ANGLES = [-30, 0, 17.5]


def contents(benchmark: CLScenario) -> list[object]:
    """All that can be read of a benchmark, with the images as nested lists."""
    return [
        (
            stream.name,
            experience.current_experience,
            experience.task_labels,
            experience.classes_in_this_experience,
            experience.classes_seen_so_far,
            list(experience.dataset.targets),
            list(experience.dataset.targets_task_labels),
            [
                (x.tolist(), x.dtype, y, type(y), t, type(t))
                for x, y, t in experience.dataset.with_transforms(g)
            ],
        )
        for stream in benchmark.streams.values()
        for experience in stream
        for g in ("train", "eval")
    ]


def current(benchmark: CLScenario) -> list[list[float]]:
    """The first image of each experience under the transforms that are switched on."""
    return [e.dataset[0][0].flatten().tolist() for s in benchmark.streams.values() for e in s]


@pytest.mark.parametrize("return_task_id", [False, True])
def test_permuted_mnist_is_avalanches(mnist_root: Path, return_task_id: bool) -> None:
    arguments = {
        "return_task_id": return_task_id,
        "seed": 3,
        "train_transform": torch.square,
        "dataset_root": mnist_root,
    }
    ours, theirs = PermutedMNIST(4, **arguments), ab.PermutedMNIST(4, **arguments)
    assert is_equal(contents(ours), contents(theirs))
    assert is_equal(current(ours), current(theirs))


def test_the_order_of_samples_is_avalanches_in_later_experiences_too(mnist_root: Path) -> None:
    # It follows a Python set of class ids, which are 190 to 199 in the last experience here: 192 comes first.
    streams = [
        (b.train_stream, b.test_stream)
        for b in (make(20, seed=0, dataset_root=mnist_root) for make in (PermutedMNIST, ab.PermutedMNIST))
    ]
    for ours, theirs in zip(*streams, strict=True):
        for a, b in zip(ours, theirs, strict=True):
            assert list(a.dataset.targets) == list(b.dataset.targets)
            assert torch.equal(a.dataset[0][0], b.dataset[0][0])
            assert torch.equal(a.dataset[-1][0], b.dataset[-1][0])
    assert list(streams[0][0][0].dataset.targets) != list(streams[0][0][19].dataset.targets)


@pytest.mark.parametrize("rotations_list", [ANGLES, None])
def test_rotated_mnist_is_avalanches(mnist_root: Path, rotations_list: list[float] | None) -> None:
    angles = rotation_angles(3, 5) if rotations_list is None else rotations_list
    ours = RotatedMNIST(
        3, seed=5, rotations_list=rotations_list, return_task_id=True, dataset_root=mnist_root
    )
    theirs = ab.RotatedMNIST(3, rotations_list=angles, return_task_id=True, dataset_root=mnist_root)
    assert is_equal(contents(ours), contents(theirs))
    assert is_equal(current(ours), current(theirs))


def test_the_global_generator_is_left_alone(mnist_root: Path) -> None:
    before = torch.get_rng_state()
    PermutedMNIST(2, seed=1, dataset_root=mnist_root)
    RotatedMNIST(2, seed=1, dataset_root=mnist_root)
    assert torch.equal(torch.get_rng_state(), before)


def test_no_seed_draws_anew(mnist_root: Path) -> None:
    first, second = (PermutedMNIST(1, dataset_root=mnist_root) for _ in range(2))
    assert not is_equal(current(first), current(second))


@pytest.mark.parametrize("make", [PermutedMNIST, RotatedMNIST])
def test_no_experience_is_an_error(make) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ValueError, match=r"n_experiences is 0; it must be at least 1"):
        make(0)


def test_one_angle_an_experience() -> None:
    with pytest.raises(ValueError, match=r"2 angles; the number of rotations should match n_experiences=3"):
        RotatedMNIST(3, rotations_list=[1.0, 2.0])
