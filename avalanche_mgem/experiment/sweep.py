"""What happens before and after the runs of a sweep (``mgem -m``)."""

import json
import sys
from pathlib import Path
from typing import Any

from hydra.experimental.callback import Callback
from omegaconf import DictConfig

ERROR_FILE = "error.txt"  # in the folder of a run that failed, so that it is known with every launcher


class SweepTable(Callback):
    """Refuses a sweep folder that is in use, and prints the table of all runs at the end.

    Hydra turns a callback's exceptions into warnings, so this one leaves by ``SystemExit``.
    """

    def on_multirun_start(self, config: DictConfig, **_: Any) -> None:
        """Ends the program if there is anything in the sweep's folder."""
        folder = Path(config.hydra.sweep.dir)
        if folder.is_dir() and any(folder.iterdir()):
            sys.stderr.write(
                f"mgem: the sweep folder {folder} is not empty; nothing is overwritten: give another "
                "hydra.sweep.dir\n"
            )
            raise SystemExit(2)

    def on_multirun_end(self, config: DictConfig, **_: Any) -> None:
        """Prints the table, and ends the program with status 2 if a run failed."""
        from avalanche_mgem.experiment.table import print_sweep

        folder = Path(config.hydra.sweep.dir)
        runs = sorted((path.parent for path in folder.glob("*/summary.json")), key=_job_number)
        if runs:
            summaries = [json.loads((run / "summary.json").read_text()) for run in runs]
            names, shared = _settings(runs, summaries)
            print_sweep(zip(names, summaries, strict=True), shared)
        print(f"results: {folder}")  # noqa: T201
        failed = len(list(folder.glob(f"*/{ERROR_FILE}")))
        if failed:
            sys.stderr.write(f"mgem: {failed} of {failed + len(runs)} runs failed, see */{ERROR_FILE}\n")
            raise SystemExit(2)


def _job_number(run: Path) -> int:
    number = run.name.partition("-")[0]
    return int(number) if number.isdigit() else 0


def _settings(runs: list[Path], summaries: list[dict[str, Any]]) -> tuple[list[str], str]:
    """For each run its strategy and what else tells it from others, but for the seed; and what all share."""
    settings = []
    for run, summary in zip(runs, summaries, strict=True):
        overrides = json.loads((run / "environment.json").read_text())["overrides"]
        pairs = [item.split("=", 1) for item in overrides if "=" in item]
        options = [
            f"{key.rpartition('.')[2]}={value}"
            for key, value in pairs
            if key not in ("strategy", "benchmark", "seed")
        ]
        settings.append((summary["strategy"], [summary["benchmark"], *options]))
    shared = set.intersection(*(set(options) for _, options in settings))
    names = [
        " ".join([strategy, *(option for option in options if option not in shared)])
        for strategy, options in settings
    ]
    return names, " ".join(option for option in settings[0][1] if option in shared)
