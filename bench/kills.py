"""``python -m bench.kills``: runs that are killed at random moments against the same runs left alone.

Each run of ``mgem`` gets SIGKILL at a random moment after it has begun, is started again, is perhaps killed
again, and is then left to end. Its accuracy matrix, its constraints and its weights must be those of a run
that was never killed: the matrix byte for byte, the constraints but for their seconds, and the weights bit
for bit. The same for whole sweeps with the parallel launcher, all of whose processes are killed.
"""

import argparse
import csv
import os
import random
import re
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import torch

from bench.command import MGEM, one_thread

STRATEGIES = (
    "dmgem",
    "replay",
    "agem",
    "ewc",
    "gem",
    "si",
    "lwf",
    "pdmgem",
    "cumulative",
    "avalanche_gem",
    "er_ace",
    "pmgem",
    "naive",
    "joint",
)
_SIZE = (
    "benchmark=permuted_digits",
    "benchmark.n_experiences=6",
    "samples_per_experience=200",
    "test_samples_per_experience=100",
    "train_epochs=4",  # so that most of a run is training, where there are checkpoints
    "optimizer.momentum=0.5",
    "save_model=true",
)
_MOST_KILLS = 3
_LIMIT = 300.0  # seconds that a run may take


class _Process:
    """A command in a process group of its own, with what it says on standard error."""

    def __init__(self, words: Sequence[str], errors: Path) -> None:
        self.started = time.time()
        self._errors = errors.open("a")
        self._process = subprocess.Popen(
            [*MGEM, *words, "progress=false"],
            env=one_thread(),
            stdout=subprocess.DEVNULL,
            stderr=self._errors,
            start_new_session=True,
        )

    def has_ended(self) -> bool:
        return self._process.poll() is not None

    def wait(self, seconds: float) -> int | None:
        """Its status, or None if it runs after so many seconds."""
        try:
            return self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            return None

    def kill(self) -> None:
        """Kills all processes of the group."""
        os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self._errors.close()


def main(arguments: Sequence[str] | None = None) -> int:
    """Kills runs and sweeps, and prints a line for each and a total.

    Returns:
        the status: 0 if all were equal.
    """
    parser = argparse.ArgumentParser(prog="python -m bench.kills", description=__doc__)
    parser.add_argument("--runs", type=int, default=40, help="single runs (default 40)")
    parser.add_argument("--sweeps", type=int, default=10, help="sweeps (default 10)")
    parser.add_argument("--seed", type=int, default=0, help="of the moments (default 0)")
    parser.add_argument("--strategies", nargs="+", default=STRATEGIES, help="taken in turn")
    asked = parser.parse_args(arguments)
    moments = random.Random(asked.seed)
    with tempfile.TemporaryDirectory(prefix="mgem-kills-") as name:
        folder = Path(name)
        failures = [_single(folder, number, moments, asked.strategies) for number in range(asked.runs)]
        failures += [_sweep(folder, number, moments) for number in range(asked.sweeps)]
    wrong = sum(failures)
    print(f"{asked.runs} runs and {asked.sweeps} sweeps, {wrong} of them not as if never killed")  # noqa: T201
    return 1 if wrong else 0


def _single(folder: Path, number: int, moments: random.Random, strategies: Sequence[str]) -> bool:
    strategy = strategies[number % len(strategies)]
    words = [*_SIZE, f"strategy={strategy}", f"seed={number // len(strategies)}"]
    whole, run = folder / f"whole-{number}", folder / f"run-{number}"
    seconds = _left_alone([*words, f"hydra.run.dir={whole}"], whole)
    killed, errors = _killed([*words, f"hydra.run.dir={run}"], run, moments, seconds)
    return _told(f"run {number} {strategy}", killed, errors, {"": (whole, run)})


def _sweep(folder: Path, number: int, moments: random.Random) -> bool:
    words = ["-m", "hydra/launcher=parallel", "hydra.launcher.n_jobs=2", *_SIZE]
    words += ["strategy=dmgem,replay", f"seed={2 * number},{2 * number + 1}"]
    whole, sweep = folder / f"whole-sweep-{number}", folder / f"sweep-{number}"
    seconds = _left_alone([*words, f"hydra.sweep.dir={whole}"], whole)
    killed, errors = _killed([*words, f"hydra.sweep.dir={sweep}"], sweep, moments, seconds)
    pairs = {path.parent.name: path.parent for path in whole.glob("*/summary.json")}
    assert len(pairs) == 4
    return _told(
        f"sweep {number}", killed, errors, {name: (path, sweep / name) for name, path in pairs.items()}
    )


def _begun(process: _Process, folder: Path) -> None:
    """Waits until the imports are done: then a run marks its folder, or marks it again."""
    deadline = time.monotonic() + _LIMIT
    while not process.has_ended() and not any(
        mark.stat().st_mtime > process.started
        for pattern in (".unfinished", "*/.unfinished")
        for mark in folder.glob(pattern)
    ):
        if time.monotonic() > deadline:
            raise TimeoutError("the run has not begun")
        time.sleep(0.01)


def _left_alone(words: Sequence[str], folder: Path) -> float:
    """Runs a command to its end; the seconds from its beginning, without the imports."""
    errors = folder.with_name(f"{folder.name}.txt")
    process = _Process(words, errors)
    _begun(process, folder)
    start = time.monotonic()
    status = process.wait(_LIMIT)
    if status != 0:
        raise RuntimeError(f"status {status} of a command left alone: {errors.read_text()}")
    return time.monotonic() - start


def _killed(
    words: Sequence[str], folder: Path, moments: random.Random, seconds: float
) -> tuple[list[str], str]:
    """Runs a command and kills it, a few times.

    Returns:
        when it was killed, and what it said on standard error in the end.
    """
    errors = folder.with_name(f"{folder.name}.txt")
    killed: list[str] = []
    for _ in range(moments.randint(1, _MOST_KILLS)):
        process = _Process(words, errors)
        _begun(process, folder)
        moment = moments.uniform(0, seconds)
        if (status := process.wait(moment)) is None:
            process.kill()
        killed.append(f"{moment:.2f} s" if status is None else "never: it had ended")
        if status is not None or (folder / "summary.json").is_file():  # killed behind the end
            return killed, errors.read_text() + (f"status {status}" if status else "")
    process = _Process(words, errors)
    status = process.wait(_LIMIT)
    if status is None:
        process.kill()
    return killed, errors.read_text() + (f"status {status}" if status != 0 else "")


def _told(name: str, killed: Sequence[str], errors: str, pairs: dict[str, tuple[Path, Path]]) -> bool:
    """Prints the line of a run or a sweep; whether it is not as if never killed."""
    went_on = re.findall(r"goes on after experience (\d+)", errors)
    wrong = [f"{place} {what}".strip() for place, (a, b) in pairs.items() for what in _differences(a, b)]
    other = [line for line in errors.splitlines() if "goes on after experience" not in line]
    wrong += other
    verdict = "; ".join(wrong) or "equal"
    print(  # noqa: T201
        f"{name}: killed after {', '.join(killed)}; "
        f"went on after experience {', '.join(went_on) or '-'}: {verdict}",
        flush=True,
    )
    for pair in pairs.values():
        for path in pair:
            shutil.rmtree(path, ignore_errors=True)
    return bool(wrong)


def _differences(whole: Path, run: Path) -> list[str]:
    """What of a run is not as in the other."""
    if not (run / "summary.json").is_file():
        return ["not complete"]
    wrong = []
    if (whole / "accuracy_matrix.csv").read_bytes() != (run / "accuracy_matrix.csv").read_bytes():
        wrong.append("another accuracy matrix")
    if _constraints(whole) != _constraints(run):
        wrong.append("other constraints")
    if not _equal_weights(whole / "model.pt", run / "model.pt"):
        wrong.append("other weights")
    if {path.name for path in whole.iterdir()} != {path.name for path in run.iterdir()}:
        wrong.append("other files")
    return wrong


def _constraints(run: Path) -> list[dict[str, str]]:
    """The rows as they are written, without the seconds."""
    file = run / "constraints.csv"
    if not file.is_file():
        return []
    with file.open() as text:
        return [
            {name: value for name, value in row.items() if not name.startswith("seconds")}
            for row in csv.DictReader(text)
        ]


def _equal_weights(one: Path, other: Path) -> bool:
    a, b = (torch.load(path, weights_only=True) for path in (one, other))
    return a.keys() == b.keys() and all(
        value.dtype == b[name].dtype and value.numpy().tobytes() == b[name].numpy().tobytes()
        for name, value in a.items()
    )


if __name__ == "__main__":
    raise SystemExit(main())
