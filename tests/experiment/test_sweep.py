import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from hashlib import sha1
from pathlib import Path
from typing import Any

import pytest
from avalanche.training import Naive
from omegaconf import OmegaConf

from avalanche_mgem.experiment.configuration import register_resolvers
from avalanche_mgem.runs import claimed

SMALL = ("benchmark.n_experiences=2", "samples_per_experience=40", "test_samples_per_experience=40")
Mgem = Callable[..., Any]

COMMAND = [sys.executable, "-c", "from avalanche_mgem.experiment.main import main; main()", "-m"]
ONE_THREAD = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}


def runs(sweep: Path) -> dict[str, Path]:
    """The complete runs by what comes last in their names, the strategy and seed where these are all."""
    return {path.parent.name: path.parent for path in sweep.glob("*/summary.json")}


def made(sweep: Path) -> dict[str, int]:
    """When each run was made."""
    return {name: (run / "summary.json").stat().st_mtime_ns for name, run in runs(sweep).items()}


def table(out: str) -> list[str]:
    """The rows of the closing table without the column of seconds, by which its other widths change."""
    rows = re.findall(r"^ ?(\w+ +\d+ +.*) \S+ *$", out[out.index("mean ±") :], flags=re.MULTILINE)
    assert rows
    return [" ".join(row.split()) for row in rows]


def test_a_sweep_started_again_runs_what_is_missing(mgem: Mgem, tmp_path: Path) -> None:
    sweep = tmp_path / "sweep"
    first = mgem("-m", "strategy=naive,gem", "seed=0", *SMALL, "hydra.sweep.dir=sweep")
    assert first.status == 0
    before = made(sweep)
    assert len(before) == 2
    again = mgem("-m", "strategy=naive,gem", "seed=0", *SMALL, "hydra.sweep.dir=sweep")
    assert (again.status, again.err) == (0, "")
    assert again.out.startswith("going on in sweep: complete runs are kept, 2 so far\n")
    assert made(sweep) == before
    assert table(again.out) == table(first.out)
    # With more values, though their places in the sweep are others.
    more = mgem("-m", "strategy=dmgem,naive,gem", "seed=1,0", *SMALL, "hydra.sweep.dir=sweep")
    assert more.status == 0
    assert made(sweep).items() > before.items()
    assert len(made(sweep)) == 6


def test_a_run_with_other_settings_is_not_taken_for_the_same(mgem: Mgem, tmp_path: Path) -> None:
    (tmp_path / "mine/optimizer").mkdir(parents=True)
    words = ("-m", "--config-dir", "mine", "strategy=naive", "seed=0", "optimizer=mine", *SMALL)
    errors = []
    for status, rate in ((0, 0.1), (2, 0.2), (0, 0.1)):  # and not held against it once it is right again
        (tmp_path / "mine/optimizer/mine.yaml").write_text(f"_target_: torch.optim.SGD\nlr: {rate}\n")
        result = mgem(*words, "hydra.sweep.dir=sweep")
        assert result.status == status
        errors.append(result.err)
    assert "holds a run with another optimizer.lr (0.1 there, 0.2 here); nothing is overwritten" in errors[1]
    assert errors[0] == errors[2] == ""
    assert len(runs(tmp_path / "sweep")) == 1


def test_a_sweep_started_twice_leaves_running_runs_alone(mgem: Mgem, tmp_path: Path) -> None:
    words = ("-m", "strategy=naive", "seed=0,1", *SMALL, "hydra.sweep.dir=sweep")
    assert mgem(*words).status == 0
    first, second = runs(tmp_path / "sweep").values()
    shutil.rmtree(first)
    with claimed(first):  # as another process
        result = mgem(*words)
        assert result.status == 2
        left, lacks = result.err.splitlines()
        assert left == f"mgem: {first.name}: left to another process"
        assert lacks.startswith("mgem: the table lacks 1 runs that another process is at; once they")
        assert not (first / "error.txt").exists()
    again = mgem(*words)
    assert (again.status, again.err) == (0, "")
    assert second in runs(tmp_path / "sweep").values()
    assert len(runs(tmp_path / "sweep")) == 2


def test_files_that_are_no_runs_are_kept(mgem: Mgem, tmp_path: Path) -> None:
    words = ("-m", "strategy=naive", "seed=0,1", *SMALL, "hydra.sweep.dir=sweep")
    assert mgem(*words).status == 0
    mine = next(iter(runs(tmp_path / "sweep").values()))
    shutil.rmtree(mine)
    mine.mkdir()
    (mine / "thesis.tex").write_text("x")
    for _ in range(2):
        result = mgem(*words)
        assert result.status == 2
        assert "mgem: 1 of 2 runs have failed" in result.err
        assert "is not empty; nothing is overwritten" in result.err
        assert (mine / "thesis.tex").read_text() == "x"
    (mine / "thesis.tex").unlink()
    assert mgem(*words).status == 0


def test_a_damaged_run_is_one_line(mgem: Mgem, tmp_path: Path) -> None:
    words = ("-m", "strategy=naive", "seed=0", *SMALL, "hydra.sweep.dir=sweep")
    assert mgem(*words).status == 0
    (run,) = runs(tmp_path / "sweep").values()
    (run / "summary.json").write_text("{")
    result = mgem(*words)
    assert result.status == 2
    pattern = r"mgem: sweep/[^\n]+/summary.json: not valid JSON: [^\n]+; delete its folder[^\n]+\n"
    assert re.fullmatch(pattern, result.err)


def test_failed_runs_are_listed_and_tried_again(
    mgem: Mgem, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ("-m", "strategy=naive,gem", "seed=0", *SMALL, "hydra.sweep.dir=sweep")
    with monkeypatch.context() as patch:
        patch.setattr(Naive, "train", lambda *_, **__: 1 / 0)
        result = mgem(*words)
    assert result.status == 2
    assert len(runs(tmp_path / "sweep")) == 1
    name = next(path.parent.name for path in (tmp_path / "sweep").glob("*/error.txt"))
    live, summary, listed = result.err.splitlines()
    assert live == f"mgem: {name}: ZeroDivisionError: division by zero"
    assert summary.startswith("mgem: 1 of 2 runs have failed; the same command with hydra.sweep.dir=sweep")
    assert listed == f"mgem:   {name}: ZeroDivisionError: division by zero"
    error = (tmp_path / "sweep" / name / "error.txt").read_text()
    assert "Traceback" in error  # a bug, not a mistake of the user's
    assert mgem(*words).status == 0
    assert len(runs(tmp_path / "sweep")) == 2
    assert list((tmp_path / "sweep").glob("*/error.txt")) == []


def test_a_mistake_in_one_run_is_one_line(mgem: Mgem, tmp_path: Path) -> None:
    result = mgem("-m", "strategy=naive", "seed=oops,0", *SMALL, "hydra.sweep.dir=sweep")
    assert result.status == 2
    (error,) = (tmp_path / "sweep").glob("*/error.txt")
    assert error.read_text() == "seed=oops: it must be an integer, at least 0\n"
    assert "naive permuted_digits seed 0: ACC" in result.out


def test_a_folder_that_holds_no_sweep_is_left_alone(mgem: Mgem, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/thesis.tex").write_text("x")
    result = mgem("-m", "strategy=naive", "seed=0", *SMALL, "hydra.sweep.dir=mine")
    assert result.status == 2
    assert re.fullmatch(r"mgem: the sweep folder mine is not empty and holds no sweep;[^\n]+\n", result.err)
    assert os.listdir(tmp_path / "mine") == ["thesis.tex"]


def test_an_interrupted_sweep_says_how_to_go_on(
    mgem: Mgem, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Naive, "train", interrupted)
    result = mgem("-m", "strategy=gem,naive", "seed=0", *SMALL, "hydra.sweep.dir=sweep")
    assert result.status == 130
    assert "mgem: the same command with hydra.sweep.dir=sweep goes on with the sweep\n" in result.err
    assert len(runs(tmp_path / "sweep")) == 1


def test_a_killed_sweep_ends_in_the_same_table(tmp_path: Path) -> None:
    words = ["strategy=naive,gem", "seed=0,1", "benchmark.n_experiences=3", "samples_per_experience=200"]

    def start(sweep: str) -> "subprocess.Popen[str]":
        return subprocess.Popen(
            [*COMMAND, *words, f"hydra.sweep.dir={sweep}"],
            cwd=tmp_path, env=ONE_THREAD, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip

    undisturbed, _ = start("a").communicate(timeout=120)
    killed = start("b")
    deadline = time.monotonic() + 120
    gem = tmp_path / "b/permuted_digits-gem-benchmark.n_experiences=3,samples_per_experience=200-seed0"
    while not (gem / ".unfinished").exists():  # in the middle of the third run
        assert time.monotonic() < deadline
        time.sleep(0.01)
    killed.send_signal(signal.SIGKILL)
    killed.communicate()
    assert (gem / ".unfinished").exists()
    assert len(runs(tmp_path / "b")) == 2
    before = made(tmp_path / "b")
    again, errors = start("b").communicate(timeout=120)
    assert errors == ""
    assert made(tmp_path / "b").items() > before.items()
    assert table(again) == table(undisturbed)
    for name, run in runs(tmp_path / "a").items():
        for file in ("accuracy_matrix.csv", "config.yaml"):
            assert (run / file).read_text() == (tmp_path / "b" / name / file).read_text()


@pytest.mark.parametrize("launcher", ["parallel", "submitit_local", "ray_cluster"])
def test_launchers_run_a_sweep(tmp_path: Path, launcher: str) -> None:
    words = ["strategy=naive,gem", "seed=0,1", *SMALL, f"hydra.sweep.dir={tmp_path / 'sweep'}"]
    options = ["+hydra.launcher.ray.init.num_cpus=2"] if launcher == "ray_cluster" else []
    done = subprocess.run(
        [*COMMAND, f"hydra/launcher={launcher}", *options, *words],
        cwd=tmp_path, env=ONE_THREAD, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert len(runs(tmp_path / "sweep")) == 4
    accuracies = [
        json.loads((run / "summary.json").read_text())["acc"] for run in runs(tmp_path / "sweep").values()
    ]
    assert len(set(accuracies)) == 4
    for run in runs(tmp_path / "sweep").values():
        assert json.loads((run / "environment.json").read_text())["threads"] == 1
    assert re.search(r"naive +2 +\d\.\d+±", done.stdout)


def test_a_launcher_that_is_not_installed_names_its_extra(
    mgem: Mgem, monkeypatch: pytest.MonkeyPatch
) -> None:
    from hydra.core.config_store import ConfigStore

    group = ConfigStore.instance().repo["hydra"]["launcher"]
    monkeypatch.delitem(group, "submitit_slurm.yaml")
    result = mgem("-m", "hydra/launcher=slurm", "strategy=naive", "seed=0", *SMALL)
    assert result.status == 2
    assert result.err == "mgem: this launcher is an extra: pip install 'avalanche-mgem[slurm]'\n"


def test_slurm_without_slurm_is_one_line(mgem: Mgem) -> None:
    result = mgem("-m", "hydra/launcher=slurm", "strategy=naive", "seed=0", *SMALL)
    assert result.status == 2
    assert re.fullmatch(r"mgem: hydra/launcher: Could not detect \"srun\"[^\n]+\n", result.err)


def test_long_options_give_short_folder_names() -> None:
    register_resolvers()
    long = "strategy.num_modules=['" + 30 * "a/b*c" + "']"
    cfg = OmegaConf.create({"a": [], "b": ["x.y=0.5"], "c": [long], "d": [long.replace("a", "d")]})
    names = [OmegaConf.create({**cfg, "n": f"${{run_options:${{{key}}}}}"}).n for key in cfg]
    assert names[:2] == ["", "x.y=0.5-"]
    assert all(len(name) < 140 and re.fullmatch(r"[\w.,=+-]+", name) for name in names[2:])
    assert names[2] != names[3]


def test_folder_names_have_what_makes_another_run() -> None:
    register_resolvers()
    words = ["strategy=gem", "seed=1", "benchmark.preload=false", "+strategy.memory_device=cpu", "logger=csv"]
    words += ["~x.y", "+z=1", "model=mlp"]
    cfg = OmegaConf.create({"words": words, "n": "${run_options:${words}}"})
    assert cfg.n == "+z=1,model=mlp,_x.y-" + sha1(b"+z=1,model=mlp,~x.y").hexdigest()[:8] + "-"


def test_a_sweep_over_what_makes_no_other_run_is_one_run(mgem: Mgem, tmp_path: Path) -> None:
    words = ("-m", "strategy=naive", "benchmark.preload=true,false", "channels_last=true,false", *SMALL)
    result = mgem(*words, "hydra.sweep.dir=sweep")
    assert (result.status, result.err) == (0, "")
    assert len(runs(tmp_path / "sweep")) == 1
    assert re.search(r"^ ?naive +1 ", result.out, flags=re.MULTILINE)


def test_benchmarks_of_one_sweep_have_a_table_each(mgem: Mgem) -> None:
    words = ("-m", "strategy=naive,gem", "benchmark=permuted_digits,split_digits", "seed=0,1", *SMALL[1:])
    result = mgem(*words, "train_mb_size=10")
    assert (result.status, result.err) == (0, "")
    tables = result.out.split("mean ±")[1:]
    assert [re.findall(r"^ ?(naive|gem) +2 ", table, flags=re.MULTILINE) for table in tables] == [
        ["naive", "gem"],
        ["naive", "gem"],
    ]
    assert re.findall(r"^ +(\w+)\s*\n +mean ±", result.out, flags=re.MULTILINE) == [
        "permuted_digits",
        "split_digits",
    ]


def test_a_run_that_was_asked_for_in_other_words_counts_once(mgem: Mgem, tmp_path: Path) -> None:
    for words in ([], ["strategy.memory_strength=0.5"]):
        result = mgem("-m", "strategy=gem", "seed=0", *words, *SMALL, "hydra.sweep.dir=sweep")
    assert (result.status, result.err) == (0, "")
    assert len(runs(tmp_path / "sweep")) == 2
    assert re.search(r"^ ?gem +1 ", result.out, flags=re.MULTILINE)
    counted = r"^the same run, counted once: \S+memory_strength=0.5\S+-seed0 and \S+-seed0$"
    assert re.search(counted, result.out, flags=re.MULTILINE)
