import subprocess
from pathlib import Path

import pytest
import torch
from joblib import cpu_count

from avalanche_mgem.experiment import _environment as environment


def test_peak_memory_is_that_of_the_run() -> None:
    block = torch.ones(64 * 2**18)  # 64 MiB
    before = environment.peak_memory_mb("cpu")
    assert before is not None
    assert before > 64
    del block
    environment.reset_peak_memory()
    after = environment.peak_memory_mb("cpu")
    assert after is not None
    assert after < before - 50


@pytest.mark.parametrize(
    ("jobs", "at_once"), [(None, cpu_count()), (3, 3), (-1, cpu_count()), (-2, max(1, cpu_count() - 1))]
)
def test_how_many_runs_the_launcher_makes_at_once(jobs: int | None, at_once: int) -> None:
    config = {"_target_": "x.JoblibLauncher"} | ({} if jobs is None else {"n_jobs": jobs})
    assert environment.launcher(config) == {"name": "joblib", "runs_at_once": at_once}
    assert environment.launcher({"_target_": "x.BasicLauncher"}) == {"name": "basic", "runs_at_once": 1}
    assert environment.launcher({"_target_": "x.SlurmLauncher"}) == {"name": "slurm", "runs_at_once": None}


def test_git_state_is_recorded(tmp_path: Path) -> None:
    source = tmp_path / "package" / "source.py"
    source.parent.mkdir()
    source.touch()
    assert environment._git(source) is None

    def git(*arguments: str) -> str:
        identity = ["-c", "user.name=a", "-c", "user.email=a@example.org"]
        command = ["git", "-C", str(tmp_path), *identity, *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    git("init")
    git("commit", "--allow-empty", "-m", "first")
    assert environment._git(source) is None  # installed inside of another repository
    git("add", ".")
    git("commit", "-m", "second")
    assert environment._git(source) == {"revision": git("rev-parse", "HEAD"), "dirty": False}
    (tmp_path / "new").touch()
    assert environment._git(source)["dirty"] is True
