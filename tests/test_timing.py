import pytest
import torch

from avalanche_mgem.timing import Timeline, now, phase, wait_for


def test_every_moment_is_in_one_phase(pass_time) -> None:
    with Timeline() as timeline:
        pass_time(1)
        timeline.switch("data")
        pass_time(2)
        with phase("outer"):
            pass_time(4)
            with phase("inner"):
                pass_time(8)
            with phase("inner"):
                pass_time(16)
            pass_time(32)
        pass_time(64)
        times = timeline.take()
    assert times.seconds == {"other": 1, "data": 66, "outer": 36, "inner": 24}
    assert times.calls == {"outer": 1, "inner": 2}


def test_take_starts_anew_in_the_same_phase(pass_time) -> None:
    timeline = Timeline()
    timeline.switch("data")
    pass_time(1)
    assert timeline.take().seconds == {"other": 0, "data": 1}
    pass_time(2)
    assert timeline.take().seconds == {"data": 2}


def test_an_error_ends_its_phase(pass_time) -> None:
    def broken() -> None:
        with phase("broken"):
            pass_time(1)
            raise ValueError("x")

    with Timeline() as timeline:
        with pytest.raises(ValueError, match="x"):
            broken()
        pass_time(2)
        assert timeline.take().seconds == {"other": 2, "broken": 1}


def test_what_a_device_still_does_belongs_to_the_phase_that_asked_for_it(pass_time) -> None:
    queue = []

    def wait() -> None:
        while queue:
            pass_time(queue.pop())

    with Timeline(wait) as timeline:
        with phase("solver"):
            queue.append(5)
        assert timeline.take().seconds == {"other": 0, "solver": 5}


def test_nothing_is_measured_outside_of_a_timeline(pass_time) -> None:
    with Timeline() as timeline:
        pass
    with phase("late"):
        pass_time(1)
    assert "late" not in timeline.take().seconds


def test_the_clock_waits_for_a_device_and_not_for_the_cpu(pass_time, monkeypatch) -> None:
    waited: list[torch.device | str] = []

    def synchronize(device: torch.device | str = "mps") -> None:
        waited.append(device)
        pass_time(5)

    monkeypatch.setattr(torch.cuda, "synchronize", synchronize)
    monkeypatch.setattr(torch.mps, "synchronize", synchronize)
    pass_time(1)
    assert (now("cpu"), now(torch.device("cpu")), waited) == (1, 1, [])
    assert now("cuda:1") == 6
    wait_for(torch.device("mps"))
    assert waited == ["cuda:1", "mps"]
