import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from loggers.wandb_log import read_log


@pytest.fixture
def without_key(tmp_path: Path) -> dict[str, str]:
    """An environment without credentials, in which W&B keeps its files to itself."""
    own = {key: value for key, value in os.environ.items() if not key.startswith("WANDB_")}
    for name in ("CACHE", "CONFIG", "DATA", "ARTIFACT"):
        own[f"WANDB_{name}_DIR"] = str(tmp_path / "wandb_home")
    return own | {"NETRC": str(tmp_path / "no_netrc"), "WANDB_ERROR_REPORTING": "false"}


def report(folder: Path, environment: dict[str, str], *words: str) -> subprocess.CompletedProcess[str]:
    """Runs the command in a folder as a program without a terminal, so that a question would end it."""
    command = [sys.executable, "-c", "from avalanche_mgem.report.main import main; main()", *words]
    return subprocess.run(
        command,
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        stdin=subprocess.DEVNULL,
    )


@pytest.mark.slow
def test_tables_and_figures_are_logged_offline(write_run, tmp_path: Path, without_key) -> None:
    for seed in (0, 1):
        write_run(f"runs/gem{seed}", seed=seed)
        write_run(f"runs/naive{seed}", "naive", seed)
    done = report(tmp_path, without_key, "runs", "--output", "out", "--wandb", "my-project")
    assert done.returncode == 0, done.stderr
    assert "upload it with: wandb sync wandb/offline-run-" in done.stderr
    log = read_log(tmp_path)
    assert (log.run.project, log.run.job_type, log.run.display_name) == ("my-project", "report", "out")
    assert log.config["protocol"]["train_mb_size"] == 10
    assert log.exit_code == 0
    (row,) = log.history
    logged = {key.partition("/")[0] for key in row if not key.startswith("_")}
    assert logged == {"results", "differences", "average_accuracy", "accuracy_matrices"}
    (table,) = tmp_path.glob("wandb/offline-run-*/files/media/table/results_*.json")
    content = json.loads(table.read_text())
    csv = (tmp_path / "out/results.csv").read_text().splitlines()
    assert content["columns"] == csv[0].split(",")
    place = content["columns"].index("acc_mean")
    assert [row[place] for row in content["data"]] == [float(line.split(",")[place]) for line in csv[1:]]
    assert len(list(tmp_path.glob("wandb/offline-run-*/files/media/images/*.png"))) == 2


@pytest.mark.slow
def test_what_wandb_refuses_is_one_line(write_run, tmp_path: Path, without_key) -> None:
    write_run("runs/gem")
    done = report(tmp_path, without_key, "runs", "--output", "out", "--wandb", "a/b")
    assert done.returncode == 2
    assert done.stderr.startswith("mgem-report: W&B: ")
    assert done.stderr.count("\n") == 1
    assert (tmp_path / "out/report.md").is_file()
