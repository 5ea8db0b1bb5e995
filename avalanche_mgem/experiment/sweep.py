"""What happens before and after the runs of a sweep (``mgem -m``)."""

import sys
from pathlib import Path
from typing import Any

from hydra.experimental.callback import Callback
from omegaconf import DictConfig

from avalanche_mgem.runs import (
    SUMMARY_FILE,
    UNFINISHED_FILE,
    Run,
    UserError,
    error_line,
    is_complete,
    is_running,
    read_run,
)


class SweepTable(Callback):
    """Says what a sweep's folder holds before it begins, and prints the table of all runs at the end.

    It leaves by ``SystemExit``, because Hydra turns a callback's exceptions into warnings.
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
        complete = len(list(folder.glob(f"*/{SUMMARY_FILE}")))
        print(f"going on in {folder}: complete runs are kept, {complete} so far")  # noqa: T201

    def on_multirun_end(self, config: DictConfig, **_: Any) -> None:
        """Prints the table, then the runs that failed with their errors; then the status is 2."""
        folder = Path(config.hydra.sweep.dir)
        runs, damaged = _read(folder)
        if runs:
            from avalanche_mgem.report.closing import print_sweep

            print_sweep(runs)
        print(f"results: {folder}", flush=True)  # noqa: T201
        running = _running_elsewhere(folder)
        if running:
            sys.stderr.write(
                f"mgem: the table lacks {len(running)} runs that another process is at; once they end, "
                f"the same command with hydra.sweep.dir={folder} shows them\n"
            )
        sys.stderr.writelines(
            f"mgem: {reason}; delete its folder, and the same command makes it anew\n" for reason in damaged
        )
        failures = _failures(folder)
        if failures:
            number = len(failures.keys() | {run.path.name for run in runs})
            sys.stderr.write(
                f"mgem: {len(failures)} of {number} runs have failed; the same command with "
                f"hydra.sweep.dir={folder} tries these again:\n"
            )
            sys.stderr.writelines(f"mgem:   {name}: {error}\n" for name, error in failures.items())
        if running or damaged or failures:
            raise SystemExit(2)


class OneRunOnly(Callback):
    """Refuses a sweep of ``mgem profile``.

    It leaves by ``SystemExit``, because Hydra turns a callback's exceptions into warnings.
    """

    def on_multirun_start(self, config: DictConfig, **_: Any) -> None:
        """Ends the program."""
        sys.stderr.write("mgem: profile measures one run; leave out --multirun\n")
        raise SystemExit(2)


def _read(folder: Path) -> tuple[list[Run], list[str]]:
    """The complete runs of a sweep, and what is wrong with those whose files are damaged."""
    runs, damaged = [], []
    for run in filter(is_complete, _folders(folder)):
        try:
            runs.append(read_run(run))
        except UserError as error:
            damaged.append(str(error))
    return runs, damaged


def _failures(folder: Path) -> dict[str, str]:
    """A line for each run that has left an error, or whose process was ended."""
    failures = {}
    for run in _folders(folder):
        if error := error_line(run):
            failures[run.name] = error
        elif (run / UNFINISHED_FILE).is_file() and not is_complete(run) and not is_running(run):
            failures[run.name] = "its process ended in the middle"
    return failures


def _running_elsewhere(folder: Path) -> list[Path]:
    return [run for run in _folders(folder) if not is_complete(run) and is_running(run)]


def _folders(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_dir())
