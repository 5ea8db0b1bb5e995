import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import ttest_1samp, ttest_rel

from avalanche_mgem.report.statistics import holm, paired_difference
from avalanche_mgem.runs import mean_interval

ACCURACIES = st.lists(st.integers(0, 1000).map(lambda n: n / 1000), min_size=2, max_size=8)


@given(ACCURACIES)
def test_the_interval_is_scipys(values) -> None:
    mean = mean_interval(values)
    assert mean.n == len(values)
    if np.ptp(values) > 0:
        low, high = ttest_1samp(values, 0).confidence_interval(0.95)
        assert mean.mean - mean.half_width == pytest.approx(low)
        assert mean.mean + mean.half_width == pytest.approx(high)
    else:
        assert mean.half_width == pytest.approx(0)


@given(st.lists(st.tuples(*[st.integers(0, 1000).map(lambda n: n / 1000)] * 2), min_size=5, max_size=8))
def test_the_paired_test_is_scipys(pairs) -> None:
    ours, theirs = zip(*pairs, strict=True)
    result = paired_difference(dict(enumerate(ours)), dict(enumerate(theirs)))
    differences = np.subtract(ours, theirs)
    if np.ptp(differences) > 1e-9:
        expected = ttest_rel(ours, theirs)
        assert result.p == pytest.approx(expected.pvalue, rel=1e-6)
        low, _ = expected.confidence_interval(0.95)
        assert result.difference.mean - result.difference.half_width == pytest.approx(low)
    else:
        assert result.p is None


def test_only_common_seeds_are_paired() -> None:
    result = paired_difference({0: 0.5, 1: 0.7, 3: 0.9}, {1: 0.6, 3: 0.7, 4: 0.0})
    assert (result.seeds, result.left_out) == ((1, 3), (0, 4))
    assert result.difference.mean == pytest.approx(0.15)


def test_no_test_without_pairs_or_variance() -> None:
    assert paired_difference({0: 0.5}, {1: 0.5}).difference.mean is None
    assert paired_difference({0: 0.5}, {0: 0.4}).p is None
    # 0.1 at each seed, up to rounding, which has a variance of 1e-34.
    ours, theirs = (0.3, 0.8, 0.6, 0.4, 0.5), (0.2, 0.7, 0.5, 0.3, 0.4)
    same = paired_difference(dict(enumerate(ours)), dict(enumerate(theirs)))
    assert same.p is None
    assert same.difference.mean == pytest.approx(0.1)
    zeros = dict.fromkeys(range(5), 0.0)
    assert paired_difference(zeros, zeros).p is None


@pytest.mark.parametrize("n", [2, 4, 5])
def test_no_test_below_five_pairs(n: int) -> None:
    values = {seed: 0.5 + 0.01 * seed for seed in range(n)}
    result = paired_difference(values, {seed: 0.1 * (seed % 2) for seed in range(9)})
    assert (result.p is None) == (n < 5)
    assert result.difference.half_width is not None


def test_holm_on_a_known_example() -> None:
    # Of R's p.adjust(c(0.01, 0.04, 0.03, 0.005), "holm").
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])


@given(st.lists(st.none() | st.floats(0, 1), max_size=12))
def test_holm_by_its_definition(p_values) -> None:
    """A hypothesis is rejected at level a when all smaller p are, and p <= a / (number left)."""
    corrected = holm(p_values)
    assert [value is None for value in corrected] == [value is None for value in p_values]
    tests = [(p, c) for p, c in zip(p_values, corrected, strict=True) if p is not None]
    assert all(p <= c <= 1 for p, c in tests)
    for level in (0.01, 0.05, 0.5):
        ordered, rejected = sorted(p for p, _ in tests), set()
        for place, p in enumerate(ordered):
            if p * (len(ordered) - place) > level:
                break
            rejected.add(p)
        assert {p for p, c in tests if c <= level} == rejected


def test_holm_controls_the_family() -> None:
    generator = np.random.default_rng(0)
    t = generator.standard_normal((4000, 5))
    p_values = 2 * scipy.stats.norm.sf(np.abs(t))
    wrong = np.mean([min(holm(row.tolist())) < 0.05 for row in p_values])
    assert 0.03 < wrong < 0.065
