"""What happens before and after the runs of a sweep (``mgem -m``)."""

import json
import sys
from collections import Counter
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from hydra.experimental.callback import Callback
from omegaconf import DictConfig

# Of a run folder; here, because folder.py imports torch.
SUMMARY = "summary.json"  # written last: where it is, the run is complete
ERROR_FILE = "error.txt"  # of a run that failed, so that it is known with every launcher
UNFINISHED = ".unfinished"  # from the beginning of a run to its end
LOCK = ".lock"  # held while it runs; released by the operating system when the process dies

_NAMED_ELSEWHERE = ("strategy", "benchmark", "seed", "dataset_root", "device", "logger")


class SweepTable(Callback):
    """Says what a sweep's folder holds before it begins, and prints the table of all runs at the end.

    Hydra turns a callback's exceptions into warnings, so this one leaves by ``SystemExit``.
    """

    def on_multirun_start(self, config: DictConfig, **_: Any) -> None:
        """Ends the program if the sweep's folder holds anything but a sweep."""
        folder = Path(config.hydra.sweep.dir)
        if not folder.is_dir() or not any(folder.iterdir()):
            return
        if not (folder / "multirun.yaml").is_file():
            sys.stderr.write(
                f"mgem: the sweep folder {folder} is not empty and holds no sweep; nothing is overwritten: "
                "give another hydra.sweep.dir\n"
            )
            raise SystemExit(2)
        complete = len(list(folder.glob(f"*/{SUMMARY}")))
        print(f"going on in {folder}: complete runs are kept, {complete} so far")  # noqa: T201

    def on_multirun_end(self, config: DictConfig, **_: Any) -> None:
        """Prints the table, then the runs that failed with their errors; then the status is 2."""
        from avalanche_mgem.experiment.table import print_sweep

        folder = Path(config.hydra.sweep.dir)
        runs = [path.parent for path in folder.glob(f"*/{SUMMARY}")]
        environments = {run: _read(run / "environment.json") for run in runs}
        # The order in which the user has written them; runs of an earlier sweep have their own numbers.
        runs.sort(key=lambda run: (environments[run].get("job") or 0, run.name))
        if runs:
            summaries = [_read(run / SUMMARY) for run in runs]
            overrides = [environments[run]["overrides"] for run in runs]
            names, shared = _settings(overrides, summaries)
            print_sweep(zip(names, summaries, strict=True), shared)
        print(f"results: {folder}", flush=True)  # noqa: T201
        running = _running_elsewhere(folder)
        if running:
            sys.stderr.write(
                f"mgem: the table lacks {len(running)} runs that another process is at; once they end, "
                f"the same command with hydra.sweep.dir={folder} shows them\n"
            )
        failures = _failures(folder)
        if failures:
            number = len(failures.keys() | {run.name for run in runs})
            sys.stderr.write(
                f"mgem: {len(failures)} of {number} runs have failed; the same command with "
                f"hydra.sweep.dir={folder} tries these again:\n"
            )
            sys.stderr.writelines(f"mgem:   {name}: {error}\n" for name, error in failures.items())
        if running or failures:
            raise SystemExit(2)


def _read(path: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        sys.stderr.write(
            f"mgem: {path} is missing or damaged; delete its folder, and the same command makes it anew\n"
        )
        raise SystemExit(2) from None


def _failures(folder: Path) -> dict[str, str]:
    """The runs that have left an error, or nothing because their process was ended; a line for each."""
    failures = {}
    for run in _folders(folder):
        if (run / ERROR_FILE).is_file():
            failures[run.name] = (run / ERROR_FILE).read_text(encoding="utf-8").partition("\n")[0]
        elif (run / UNFINISHED).is_file() and not (run / SUMMARY).is_file() and not _is_running(run):
            failures[run.name] = "its process ended in the middle"
    return failures


def _running_elsewhere(folder: Path) -> list[Path]:
    return [run for run in _folders(folder) if not (run / SUMMARY).is_file() and _is_running(run)]


def _is_running(run: Path) -> bool:
    """Whether a process holds the folder: the sweep may have been started twice."""
    if not (run / LOCK).is_file():
        return False
    try:
        with FileLock(run / LOCK, timeout=0):
            return False
    except Timeout:
        return True


def _folders(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_dir())


def _settings(overrides: list[list[str]], summaries: list[dict[str, Any]]) -> tuple[list[str], str]:
    """For each run its strategy and what else tells it from others, but for the seed; and what all share."""
    keys = {word.partition("=")[0] for words in overrides for word in words}
    short = Counter(key.rpartition(".")[2] for key in keys)
    settings = []
    for words, summary in zip(overrides, summaries, strict=True):
        options = []
        for word in words:
            key, _, value = word.partition("=")
            if key in _NAMED_ELSEWHERE:
                continue
            last = key.rpartition(".")[2]
            # A key that is dropped, ~key, has no value; groups tell keys of the same end apart.
            options.append(f"{last if short[last] == 1 else key}={value}" if value else word)
        settings.append((summary["strategy"], [summary["benchmark"], *options]))
    shared = set.intersection(*(set(options) for _, options in settings))
    names = [
        " ".join([strategy, *(option for option in options if option not in shared)])
        for strategy, options in settings
    ]
    return names, " ".join(option for option in settings[0][1] if option in shared)
