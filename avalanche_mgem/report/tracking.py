"""The report as a run of W&B. The only file that imports wandb, and only when asked for."""

import os
import shlex
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import wandb

from avalanche_mgem.runs import printable


def log_report(
    project: str | None,
    name: str,
    tables: Mapping[str, pd.DataFrame],
    figures: Path,
    config: Mapping[str, Any],
) -> None:
    """Logs tables and figures as one run of job type ``report``; offline without an API key, and never asks.

    Args:
        project: of W&B; None leaves it to ``WANDB_PROJECT`` or W&B's default.
        name: of the run.
        tables: by their names.
        figures: a folder of PNG files.
        config: protocol and command.

    Raises:
        ValueError: in one line, for what W&B refuses.
    """
    try:
        run = _begin(project, name, config)
    except wandb.errors.Error as error:
        raise ValueError(f"W&B: {' '.join(str(error).split())}") from error
    with run:
        values: dict[str, Any] = {key: wandb.Table(dataframe=table) for key, table in tables.items()}
        values |= {path.stem: wandb.Image(str(path)) for path in sorted(figures.glob("*.png"))}
        run.log(values)
    if run.offline:
        folder = shlex.quote(os.path.relpath(run.settings.sync_dir))
        line = f"the report is logged offline; upload it with: wandb sync {folder}"
        sys.stderr.write(f"W&B: {printable(line)}\n")
    elif not run.disabled:
        sys.stderr.write(f"W&B: {run.url}\n")


def _begin(project: str | None, name: str, config: Mapping[str, Any]) -> wandb.Run:
    mode = os.environ.get("WANDB_MODE") or wandb.setup().settings.mode
    if mode == "online" and not wandb.login(prompt=False, verify=False):
        mode = "offline"
    return wandb.init(
        project=project,
        name=name,
        job_type="report",
        config=dict(config),
        mode=mode,  # type: ignore[arg-type]
        settings=wandb.Settings(silent=True, console="off"),
    )
