"""Times several sides in turns."""

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
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, list[float]]:
    """The seconds of each side. The sides run in turns (ABAB...), so a slow moment of the machine hits all.

    Args:
        sides: the functions to time, by name.
        repetitions: number of timed turns of each side.
        report: shows the progress.
        calls: calls of a side in one turn. A step of a few milliseconds needs several, because training takes
            one step after another. A single call would find the processor's caches full of the other side's
            data.
        warm_up: turns of each side before the clock runs.
        clock: gives seconds; ``time.process_time`` those of the processor.

    Returns:
        The seconds of one call in every timed turn, by name, in order.
    """
    report.phase("timing " + " / ".join(sides), warm_up + repetitions)
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    gc.collect()
    gc.disable()  # a collection would add its time to the side that happens to trigger it
    try:
        for turn in range(warm_up + repetitions):
            for name, call in sides.items():
                start = clock()
                for _ in range(calls):
                    call()
                elapsed = (clock() - start) / calls
                if turn >= warm_up:
                    seconds[name].append(elapsed)
            report.advance()
    finally:
        gc.enable()
    return seconds
