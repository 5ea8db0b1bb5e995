from types import SimpleNamespace

import numpy as np
import pytest

from avalanche_mgem.schedules import (
    Cosine,
    Linear,
    PerExperience,
    Schedule,
    Shared,
    check_memory_strength,
    memory_strength_at,
)


def at(spec, experience, clock=None):
    return memory_strength_at(check_memory_strength(spec), experience, clock)


@pytest.mark.parametrize("value", [0, 0.5, np.float32(0.5)])
def test_a_number_is_constant(value):
    found = [at(value, t) for t in (0, 3, 100)]
    assert found == [float(value)] * 3
    assert {type(strength) for strength in found} == {float}


def test_linear_and_cosine_reach_their_ends_and_stay_there():
    for schedule in (Linear(1.0, 0.2, 5), Cosine(1.0, 0.2, 5)):
        values = [at(schedule, t) for t in range(8)]
        assert values[0] == pytest.approx(1.0)
        assert values[2] == pytest.approx(0.6)
        assert values[4:] == pytest.approx([0.2] * 4)
        assert values == sorted(values, reverse=True)
    assert at(Linear(1.0, 0.2, 5), 1) == pytest.approx(0.8)
    assert at(Cosine(1.0, 0.2, 5), 1) > 0.8  # slow at the start


def test_a_shared_strength_is_the_same_over_all_past_experiences_together():
    values = [at(Shared(3.0), t) for t in range(1, 30)]
    assert [n * value for n, value in enumerate(values, 1)] == pytest.approx([3.0] * 29)
    assert at(Shared(3.0), 0) == 3.0  # nothing is past
    for wrong in (-1.0, float("inf"), "3"):
        with pytest.raises(ValueError, match="is not allowed; it is a finite number of at least 0"):
            Shared(wrong)


def test_a_schedule_over_one_experience_is_its_start():
    assert at(Linear(0.3, 1.0, 1), 0) == 0.3


def test_a_list_has_one_value_for_each_experience():
    for values in ([0, 0.5, 1.0], (0, 0.5, 1.0), PerExperience((0, 0.5, 1.0))):
        assert [at(values, t) for t in range(3)] == [0, 0.5, 1.0]
    with pytest.raises(ValueError, match="lists 3 values but experience 3 is being trained"):
        at([0, 0.5, 1.0], 3)


def test_a_function_gets_the_clock():
    clock = SimpleNamespace(train_iterations=40)
    assert at(lambda c: c.train_iterations / 100, 2, clock) == 0.4


@pytest.mark.parametrize(
    "value", [-1, float("nan"), float("inf"), "0.5", None, True, [], [0.1, -0.2], "ab", Linear]
)
def test_what_is_not_a_memory_strength_is_refused_at_once(value):
    with pytest.raises(ValueError, match=r"memory_strength=.* is not allowed; it is a finite number"):
        check_memory_strength(value)


class Falling(Schedule):
    """A user's own, which falls below 0."""

    def at(self, experience):
        return 0.5 - experience


@pytest.mark.parametrize("spec", [lambda clock: -1.0, lambda clock: None, Falling()])
def test_what_a_function_or_schedule_returns_may_not_leave_the_range(spec):
    with pytest.raises(ValueError, match=r"memory_strength=(-1.0|None|-0.5) is not allowed"):
        at(spec, 1)


def test_a_users_own_schedule_is_asked_for_each_experience():
    assert at(Falling(), 0) == 0.5


@pytest.mark.parametrize("make", [Linear, Cosine])
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((-1, 0, 3), "memory_strength=-1 is not allowed"),
        ((0, -1, 3), "memory_strength=-1 is not allowed"),
        ((0, 1, 0), "n_experiences must be an integer of at least 1; got 0"),
        ((0, 1, 2.5), "n_experiences must be an integer of at least 1; got 2.5"),
    ],
)
def test_a_ramp_is_checked_when_it_is_made(make, arguments, message):
    with pytest.raises(ValueError, match=message):
        make(*arguments)


def test_a_list_is_checked_when_it_is_made():
    with pytest.raises(ValueError, match="memory_strength=-1 is not allowed"):
        PerExperience([0.5, -1])
