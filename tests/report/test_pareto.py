import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from avalanche_mgem.report.pareto import bootstrap_hypervolumes, hypervolume, non_dominated

ORIGIN = np.zeros(2)
GRID = st.integers(-3, 12)
POINTS = st.lists(st.tuples(GRID, GRID), min_size=1, max_size=12).map(
    lambda rows: np.array(rows, dtype=float)
)


def dominates(a, b) -> bool:
    return all(x >= y for x, y in zip(a, b, strict=True)) and any(x > y for x, y in zip(a, b, strict=True))


@given(POINTS)
def test_the_front_by_brute_force(points) -> None:
    expected = [not any(dominates(other, point) for other in points) for point in points]
    assert non_dominated(points).tolist() == expected


@given(POINTS)
def test_the_hypervolume_counts_unit_cells(points) -> None:
    """A cell of the integer grid is dominated if its upper right corner is."""
    cells = sum(any(x >= i + 1 and y >= j + 1 for x, y in points) for i in range(12) for j in range(12))
    assert hypervolume(points, ORIGIN) == cells


def test_the_hypervolume_by_monte_carlo() -> None:
    generator = np.random.default_rng(0)
    points, reference = generator.random((6, 2)), np.array([0.1, 0.2])
    samples = reference + generator.random((200_000, 2)) * (1 - reference)
    inside = (samples[:, None] <= points).all(axis=-1).any(axis=-1).mean()
    assert hypervolume(points, reference) == pytest.approx(inside * 0.9 * 0.8, abs=3e-3)


@given(POINTS, st.tuples(GRID, GRID), st.randoms())
def test_properties_of_the_hypervolume(points, added, random) -> None:
    volume = hypervolume(points, ORIGIN)
    more = np.vstack([points, added])
    assert hypervolume(more, ORIGIN) >= volume
    order = list(range(len(points)))
    random.shuffle(order)
    assert hypervolume(points[order], ORIGIN) == volume
    assert hypervolume(points[non_dominated(points)], ORIGIN) == volume
    if not non_dominated(more)[-1] or added in points.tolist():
        assert hypervolume(more, ORIGIN) == volume
    assert hypervolume(points + 7, ORIGIN + 7) == volume


def test_the_hypervolume_of_a_batch() -> None:
    batch = np.random.default_rng(1).random((4, 5, 2))
    np.testing.assert_allclose(hypervolume(batch, ORIGIN), [hypervolume(points, ORIGIN) for points in batch])


def test_resamples_are_paired() -> None:
    """Fronts that differ by the same at every seed have a certain difference, however much seeds differ."""
    generator = np.random.default_rng(2)
    points = np.tile(generator.uniform(0.2, 1, (6, 1, 2)), (1, 3, 1))
    better = points * [1.0, 2.0]  # twice the area at every seed, and of every mean
    volumes, differences = bootstrap_hypervolumes({"a": points, "b": better}, ORIGIN, "a")
    assert list(differences) == ["b"]
    assert differences["b"].value == pytest.approx(volumes["a"].value)
    assert differences["b"].low == pytest.approx(volumes["a"].low)
    assert differences["b"].high == pytest.approx(volumes["a"].high)
    assert volumes["a"].low < volumes["a"].value < volumes["a"].high
    equal = bootstrap_hypervolumes({"a": points, "b": points}, ORIGIN, "a")[1]["b"]
    assert (equal.value, equal.low, equal.high) == (0, 0, 0)


def test_the_bootstrap_interval_is_that_of_all_resamples() -> None:
    """Of five seeds there are 3,125 resamples, so their quantiles can be counted."""
    values = np.array([1.0, 2.0, 4.0, 8.0, 16.0])
    every = np.stack(np.meshgrid(*[values] * 5)).reshape(5, -1).mean(axis=0)
    points = np.stack([values, np.ones(5)], axis=-1)[:, None, :]  # the area is the first coordinate
    (volume,) = bootstrap_hypervolumes({"a": points}, ORIGIN, None)[0].values()
    assert volume.value == pytest.approx(6.2)
    assert (volume.low, volume.high) == pytest.approx(tuple(np.quantile(every, [0.025, 0.975])), abs=0.2)


def test_the_bootstrap_is_repeatable_and_needs_five_seeds() -> None:
    points = np.random.default_rng(3).random((5, 4, 2))
    assert bootstrap_hypervolumes({"a": points}, ORIGIN, None) == bootstrap_hypervolumes(
        {"a": points}, ORIGIN, None
    )
    (few,) = bootstrap_hypervolumes({"a": points[:4]}, ORIGIN, None)[0].values()
    assert (few.low, few.high) == (None, None)
    with pytest.raises(ValueError, match="must have the same seeds"):
        bootstrap_hypervolumes({"a": points, "b": points[:2]}, ORIGIN, None)
