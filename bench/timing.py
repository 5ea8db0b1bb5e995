"""Timing of several sides in turns."""

import gc
import time
from collections.abc import Callable, Mapping

from bench.progress import Reporter


def in_turns(
    sides: Mapping[str, Callable[[], object]],
    *,
    repetitions: int,
    report: Reporter,
    calls: int = 1,
    warm_up: int = 2,
) -> dict[str, list[float]]:
    """Seconds of each side, run in turns (ABAB...): what slows the machine down meets all of them.

    Args:
        sides: what to time, by name.
        repetitions: timed turns of each.
        report: progress.
        calls: of a side in one turn. A step of a few milliseconds is measured among its like, as training
            has them: alone, it would find the processor's caches full of what the other side left there.
        warm_up: turns of each before the clock runs.

    Returns:
        The seconds of one call in all timed turns, by name and in order.
    """
    report.phase("timing " + " / ".join(sides), warm_up + repetitions)
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    gc.collect()
    gc.disable()  # a collection would fall on whichever side happens to trigger it
    try:
        for turn in range(warm_up + repetitions):
            for name, call in sides.items():
                start = time.perf_counter()
                for _ in range(calls):
                    call()
                elapsed = (time.perf_counter() - start) / calls
                if turn >= warm_up:
                    seconds[name].append(elapsed)
            report.advance()
    finally:
        gc.enable()
    return seconds
