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

import joblib
import psutil
import pytest
from avalanche.training import Naive
from omegaconf import OmegaConf

from avalanche_mgem.experiment.configuration import register
from avalanche_mgem.report import load_results
from avalanche_mgem.runs import claimed, is_running

SMALL = ("benchmark.n_experiences=2", "samples_per_experience=40", "test_samples_per_experience=40")
Mgem = Callable[..., Any]

MINE = ("--config-dir", "mine")
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


@pytest.mark.slow
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


@pytest.mark.slow
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
        assert re.search(
            rf"\nmgem:   {mine.name}: \S+ holds thesis.tex, which no run wrote; give", result.err
        )
        assert os.listdir(mine) == ["thesis.tex"]
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
    # A file of another program of Hydra's does not make it a sweep.
    (tmp_path / "mine/multirun.yaml").write_text("hydra: {job: {name: mgem}}\n")
    again = mgem("-m", "strategy=naive", "seed=0", *SMALL, "hydra.sweep.dir=mine")
    assert (again.status, again.err) == (result.status, result.err)
    assert (tmp_path / "mine/multirun.yaml").read_text() == "hydra: {job: {name: mgem}}\n"


@pytest.mark.parametrize("size", [0, 600])
def test_a_sweep_that_was_killed_while_its_file_was_written_goes_on(
    mgem: Mgem, tmp_path: Path, size: int
) -> None:
    words = ("-m", "strategy=naive", "seed=-1", *SMALL, "hydra.sweep.dir=sweep")
    mgem(*words)
    text = (tmp_path / "sweep/multirun.yaml").read_text()
    shutil.rmtree(tmp_path / "sweep")
    (tmp_path / "sweep").mkdir()
    (tmp_path / "sweep/multirun.yaml").write_text(text[:size])
    assert mgem(*words).out.startswith("going on in sweep: complete runs are kept, 0 so far\n")


def test_names_with_separators_stay_in_the_sweep(mgem: Mgem, tmp_path: Path) -> None:
    (tmp_path / "mine/strategy/team").mkdir(parents=True)
    (tmp_path / "mine/strategy/team/mine.yaml").write_text("_target_: avalanche.training.Naive\n")
    words = ("-m", "--config-dir", "mine", "strategy=team/mine", *SMALL, "hydra.sweep.dir=sweep")
    result = mgem(*words, "seed=0,../../x")
    assert result.status == 2
    assert "mgem: 1 of 2 runs have failed" in result.err
    assert "seed=../../x: it must be an integer" in result.err
    assert re.search(r"^ ?team/mine +1 ", result.out, flags=re.MULTILINE)
    assert sorted(os.listdir(tmp_path)) == ["mine", "sweep"]
    assert all(path.parent.parent == tmp_path / "sweep" for path in (tmp_path / "sweep").glob("**/*.json"))


def test_runs_in_subfolders_are_counted(mgem: Mgem, tmp_path: Path) -> None:
    words = ("-m", "strategy=naive,gem", "seed=0", *SMALL, "hydra.sweep.dir=sweep")
    subdir = "hydra.sweep.subdir=${hydra:runtime.choices.strategy}/seed${seed}"
    result = mgem(*words, subdir)
    assert (result.status, result.err) == (0, "")
    assert re.findall(r"^ ?(naive|gem) +1 ", result.out, flags=re.MULTILINE) == ["naive", "gem"]
    assert len(load_results(tmp_path / "sweep").runs) == 2
    assert mgem(*words, subdir).out.startswith("going on in sweep: complete runs are kept, 2 so far\n")


@pytest.mark.parametrize(
    ("subdir", "message"),
    [
        ("../mine", r"hydra.sweep.subdir=../mine: it must be a folder below that of the sweep, \S+/sweep"),
        ("${seed}", r"hydra.sweep.subdir=../x: it must be a folder below that of the sweep, \S+/sweep"),
        (".", r"hydra.sweep.subdir=.: it must be a folder below that of the sweep, \S+/sweep"),
        ("a${seed}", "hydra.sweep.subdir puts a run into the folder of another: .*"),
    ],
)
def test_folders_outside_of_the_sweep_are_refused(
    mgem: Mgem, tmp_path: Path, subdir: str, message: str
) -> None:
    seeds = "seed=/b,/b/c" if subdir == "a${seed}" else "seed=../x"
    result = mgem("-m", "strategy=naive", seeds, "hydra.sweep.dir=sweep", f"hydra.sweep.subdir={subdir}")
    assert result.status == 2
    assert re.fullmatch(f"mgem: {message}\n", result.err)
    assert os.listdir(tmp_path) == ["sweep"]
    assert os.listdir(tmp_path / "sweep") == ["multirun.yaml"]


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


@pytest.fixture
def own_strategies(tmp_path: Path) -> dict[str, str]:
    """The environment of a process that knows two strategies: one ends its process, one never ends."""
    (tmp_path / "mine/strategy").mkdir(parents=True)
    for name in ("deadly", "endless"):
        (tmp_path / f"mine/strategy/{name}.yaml").write_text(f"_target_: own_strategies.{name.title()}\n")
    (tmp_path / "own_strategies.py").write_text(
        "import os, signal, time\n"
        "from avalanche.training import Naive\n"
        "class Deadly(Naive):\n"
        "    def train(self, *_, **__): os.kill(os.getpid(), signal.SIGKILL)\n"
        "class Endless(Naive):\n"
        "    def train(self, *_, **__): time.sleep(600)\n"
    )
    return ONE_THREAD  # the working folder is importable in the processes of every launcher


def start(folder: Path, environment: dict[str, str], *words: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [*COMMAND, *words], cwd=folder, env=environment,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def wait_until(condition: Callable[[], bool], process: "subprocess.Popen[str] | None" = None) -> None:
    deadline = time.monotonic() + 120
    while not condition():
        assert process is None or process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.slow
def test_a_killed_sweep_ends_in_the_same_table(mgem: Mgem, tmp_path: Path) -> None:
    words = ["strategy=naive,gem", "seed=0,1", "benchmark.n_experiences=3", "samples_per_experience=200"]
    undisturbed = mgem("-m", *words, "hydra.sweep.dir=a")
    killed = start(tmp_path, ONE_THREAD, *words, "hydra.sweep.dir=b")
    gem = tmp_path / "b/permuted_digits-gem-benchmark.n_experiences=3,samples_per_experience=200-seed0"
    wait_until((gem / ".unfinished").exists, killed)  # in the middle of the third run
    killed.send_signal(signal.SIGKILL)
    killed.communicate()
    wait_until(lambda: not is_running(gem))  # it ends with the sweep
    assert len(runs(tmp_path / "b")) == 2
    before = made(tmp_path / "b")
    again = mgem("-m", *words, "hydra.sweep.dir=b")
    assert again.err == ""
    assert made(tmp_path / "b").items() > before.items()
    assert table(again.out) == table(undisturbed.out)
    for name, run in runs(tmp_path / "a").items():
        for file in ("accuracy_matrix.csv", "config.yaml"):
            assert (run / file).read_text() == (tmp_path / "b" / name / file).read_text()


@pytest.mark.slow
@pytest.mark.parametrize("launcher", ["parallel", "submitit_local", "ray_cluster"])
def test_launchers_run_a_sweep_though_a_run_dies(
    tmp_path: Path, own_strategies: dict[str, str], launcher: str
) -> None:
    words = ["strategy=deadly,naive", *SMALL, f"hydra.sweep.dir={tmp_path / 'sweep'}"]
    options = ["+hydra.launcher.ray.init.num_cpus=2"] if launcher == "ray_cluster" else []
    process = start(tmp_path, own_strategies, *MINE, f"hydra/launcher={launcher}", *options, *words)
    out, err = process.communicate(timeout=900)
    assert process.returncode == 2, err
    (run,) = runs(tmp_path / "sweep").values()
    made_by = json.loads((run / "environment.json").read_text())
    assert made_by["threads"] == 1
    names = {"parallel": "joblib", "submitit_local": "local", "ray_cluster": "ray"}
    at_once = joblib.cpu_count() if launcher == "parallel" else None
    assert made_by["launcher"] == {"name": names[launcher], "runs_at_once": at_once}
    assert re.search(r"naive +1 +\d\.\d+ ", out)
    assert "Traceback" not in err
    assert "mgem: 1 of 2 runs have failed; the same command" in err
    assert re.search(r"\nmgem:   permuted_digits-deadly-\S+: died: killed by signal 9 \(SIGKILL\)\n", err)


@pytest.mark.slow
def test_a_terminated_sweep_leaves_no_process(tmp_path: Path, own_strategies: dict[str, str]) -> None:
    words = ["strategy=endless", "seed=0,1", *SMALL, "hydra.sweep.dir=sweep"]
    sweep = start(
        tmp_path, own_strategies, *MINE, "hydra/launcher=parallel", "hydra.launcher.n_jobs=2", *words
    )
    wait_until(lambda: len(list(tmp_path.glob("sweep/*/.unfinished"))) == 2, sweep)
    below = psutil.Process(sweep.pid).children(recursive=True)
    assert len(below) >= 4  # two of joblib, each with a run
    sweep.send_signal(signal.SIGTERM)
    _, err = sweep.communicate(timeout=60)
    assert sweep.returncode == 143
    assert err == (
        "mgem: interrupted; complete runs are kept\n"
        "mgem: the same command with hydra.sweep.dir=sweep goes on with the sweep\n"
    )
    assert psutil.wait_procs(below, timeout=30)[1] == []


def test_a_launcher_that_is_not_installed_names_its_extra(
    mgem: Mgem, monkeypatch: pytest.MonkeyPatch
) -> None:
    from hydra.core.config_store import ConfigStore
    from hydra.core.plugins import Plugins

    Plugins.instance()  # registers the launchers, where no test did before
    group = ConfigStore.instance().repo["hydra"]["launcher"]
    monkeypatch.delitem(group, "submitit_slurm.yaml")
    result = mgem("-m", "hydra/launcher=slurm", "strategy=naive", "seed=0", *SMALL)
    assert result.status == 2
    line = "this launcher is an extra: in a clone of avalanche-mgem, pip install '.[slurm]'"
    assert result.err == f"mgem: {line}\n"


def test_slurm_without_slurm_is_one_line(mgem: Mgem) -> None:
    result = mgem("-m", "hydra/launcher=slurm", "strategy=naive", "seed=0", *SMALL)
    assert result.status == 2
    assert re.fullmatch(r"mgem: hydra/launcher: Could not detect \"srun\"[^\n]+\n", result.err)


def test_long_options_give_short_folder_names() -> None:
    register()
    long = "strategy.num_modules=['" + 30 * "a/b*c" + "']"
    cfg = OmegaConf.create({"a": [], "b": ["x.y=0.5"], "c": [long], "d": [long.replace("a", "d")]})
    names = [OmegaConf.create({**cfg, "n": f"${{run_options:${{{key}}}}}"}).n for key in cfg]
    assert names[:2] == ["", "x.y=0.5-"]
    assert all(len(name) < 140 and re.fullmatch(r"[\w.,=+-]+", name) for name in names[2:])
    assert names[2] != names[3]


def test_folder_names_have_what_makes_another_run() -> None:
    register()
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


@pytest.mark.slow
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
