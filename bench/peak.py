"""Measures the peak memory of one step in a new process: ``python -m bench.peak ours 50 8 0 2``.

It reads the kernel's high-water mark of the resident memory, which is reset before each step. So it works on
Linux only. The mark includes memory that a trace of torch's allocator misses: that of NumPy and the solvers,
and the scratch memory of kernels.
"""

import argparse
import json
import os
import re
import subprocess
import sys
from pathlib import Path

# With these settings glibc returns every larger block at once, so that the mark follows the memory in use.
_RETURNS_MEMORY = {"MALLOC_MMAP_THRESHOLD_": str(2**20), "MALLOC_TRIM_THRESHOLD_": str(2**20)}


def peak_of(side: str, past: int, samples: int, seed: int, threads: int) -> dict[str, int]:
    """Runs this file in a new process.

    Args:
        side: ``"ours"`` or ``"stock"``.
        past: number of past experiences.
        samples: samples kept of each past experience.
        seed: of all random draws.
        threads: number of torch's threads.

    Returns:
        Three numbers of bytes. ``ordinary`` is the peak in a step without constraints, ``step`` the peak in a
        step with constraints, and ``G`` the size of the reference gradients in float32.
    """
    arguments = map(str, (side, past, samples, seed, threads))
    command = [sys.executable, "-m", "bench.peak", *arguments]
    done = subprocess.run(
        command, check=True, stdout=subprocess.PIPE, text=True, env={**os.environ, **_RETURNS_MEMORY}
    )
    found: dict[str, int] = json.loads(done.stdout.splitlines()[-1])
    return found


def _reset() -> None:
    Path("/proc/self/clear_refs").write_text("5")


def _high_water_mark() -> int:
    status = Path("/proc/self/status").read_text()
    match = re.search(r"VmHWM:\s+(\d+) kB", status)
    assert match is not None
    return int(match[1]) * 1024


def _measure(side: str, past: int, samples: int, seed: int, threads: int) -> dict[str, int]:
    import torch
    from torch import nn
    from torchvision.models import resnet18

    from bench.data import noise
    from bench.midstream import MidStream, ours, stock_gem

    torch.set_num_threads(threads)
    torch.manual_seed(seed)
    stream = noise(past + 1, samples, (3, 32, 32), 10, seed)
    make = ours if side == "ours" else stock_gem
    state = MidStream(make(resnet18(num_classes=10), samples, seed), stream)
    model, (x, y, *_) = state.strategy.model, state.minibatch

    def ordinary() -> None:
        model.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()  # type: ignore[no-untyped-call]
        state.strategy.optimizer.step()

    peaks = []
    for call in (ordinary, state.step):
        call()  # memory that is allocated only once is allocated now
        model.zero_grad()
        _reset()
        call()
        peaks.append(_high_water_mark())
    size = 4 * past * sum(p.numel() for p in model.parameters())
    return {"ordinary": peaks[0], "step": peaks[1], "G": size}


def _main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("side", choices=("ours", "stock"))
    for name in ("past", "samples", "seed", "threads"):
        parser.add_argument(name, type=int)
    sys.stdout.write(json.dumps(_measure(**vars(parser.parse_args()))) + "\n")


if __name__ == "__main__":
    _main()
