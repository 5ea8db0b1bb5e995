import csv
import errno
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from avalanche.training import Naive
from image_trees import write_classes
from omegaconf import OmegaConf

import avalanche_mgem
from avalanche_mgem.experiment import api, run
from avalanche_mgem.experiment.main import config_folder
from avalanche_mgem.experiment.progress import ProgressBar
from avalanche_mgem.runs import UserError, all_metrics, keep_run

SMALL = ("benchmark.n_experiences=2", "samples_per_experience=40", "test_samples_per_experience=40")
DATA = Path(__file__).resolve().parents[3] / "shared" / "data"
STRATEGIES = sorted(path.stem for path in (config_folder() / "strategy").glob("*.yaml"))
ONE_HEAD_ONLY = {"der", "derpp"}
RUN_FILES = ["accuracy_matrix.csv", "config.yaml", "environment.json", "summary.json"]
Mgem = Callable[..., Any]

# Avalanche's synaptic intelligence calls NumPy's square on a torch tensor, which NumPy 2 deprecates.
pytestmark = pytest.mark.filterwarnings("ignore:__array_wrap__ must accept context:DeprecationWarning")


def matrix(folder: Path) -> list[list[float]]:
    with (folder / "accuracy_matrix.csv").open() as file:
        header, *rows = csv.reader(file)
    assert header == [f"exp_{number}" for number in range(len(header))]
    return [[float(cell) for cell in row] for row in rows]


def summary(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "summary.json").read_text())


def test_run_leaves_its_results(mgem: Mgem, tmp_path: Path) -> None:
    result = mgem("strategy=gem", "benchmark.n_experiences=3", "samples_per_experience=600", "seed=5")
    assert result.status == 0
    assert result.err == ""
    (folder,) = (tmp_path / "runs/permuted_digits/gem").iterdir()
    assert folder.name.startswith("seed5-")
    assert f"results: {folder.relative_to(tmp_path)}" in result.out

    R = matrix(folder)
    assert (len(R), len(R[0])) == (4, 3)
    assert all(0 <= accuracy < 0.3 for accuracy in R[0])  # chance is 0.1
    assert all(R[i + 1][i] > 0.6 for i in range(3))

    saved = summary(folder)
    assert list(saved) == [
        "acc", "bwd", "la", "fwt", "forgetting", "seconds_train", "seconds_eval", "seconds_data",
        "peak_memory_mb", "strategy", "benchmark", "seed",
    ]  # fmt: skip
    assert saved.items() >= all_metrics(R).items()
    assert saved.items() >= {"strategy": "gem", "benchmark": "permuted_digits", "seed": 5}.items()
    assert all(saved[key] > 0 for key in ("seconds_train", "seconds_eval", "seconds_data", "peak_memory_mb"))
    assert f"{saved['acc']:.3f}" in result.out

    config = OmegaConf.load(folder / "config.yaml")
    assert config.strategy._target_ == "avalanche_mgem.MGEM"
    assert config.strategy.seed == config.benchmark.seed == 5
    assert config.model.num_classes == 10
    environment = json.loads((folder / "environment.json").read_text())
    assert environment["torch"] == torch.__version__
    assert environment["device"] == "cpu"
    assert environment.keys() >= {"python", "avalanche-lib", "numpy", "daqp", "quadprog", "threads", "git"}
    assert environment["launcher"] == {"name": None, "runs_at_once": 1}


@pytest.mark.slow
@pytest.mark.parametrize("strategy", sorted({*STRATEGIES} - ONE_HEAD_ONLY))
def test_every_strategy_learns_with_task_labels(mgem: Mgem, tmp_path: Path, strategy: str) -> None:
    result = mgem(
        f"strategy={strategy}", "benchmark=split_digits", "samples_per_experience=100", "hydra.run.dir=run"
    )
    assert (result.status, result.err) == (0, "")
    R = matrix(tmp_path / "run")
    assert len(R) == (2 if strategy == "joint" else 6)
    assert sum(R[-1]) / 5 > 0.85  # chance is 0.5
    assert (summary(tmp_path / "run")["bwd"] is None) == (strategy == "joint")


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_every_strategy_runs_with_one_head(mgem: Mgem, tmp_path: Path, strategy: str) -> None:
    result = mgem(f"strategy={strategy}", *SMALL, "train_epochs=8", "hydra.run.dir=run")
    assert (result.status, result.err) == (0, "")
    assert matrix(tmp_path / "run")[-1][-1] > 0.3  # chance is 0.1


def test_same_seed_same_result() -> None:
    one, again, other = (run(["strategy=dmgem", *SMALL, f"seed={seed}"]).matrix for seed in (1, 1, 2))
    assert one == again
    assert one != other


@pytest.mark.parametrize(
    "benchmark", ["permuted_digits", pytest.param("split_digits", marks=pytest.mark.slow)]
)
def test_strategies_see_the_same_minibatches(monkeypatch: pytest.MonkeyPatch, benchmark: str) -> None:
    seen: list[torch.Tensor] = []
    monkeypatch.setattr(
        ProgressBar, "after_training_iteration", lambda self, s, **_: seen.append(s.mb_x.clone())
    )
    sizes = ["benchmark.n_experiences=5", "samples_per_experience=30", "test_samples_per_experience=5"]
    runs = []
    for strategy in ("naive", "gem", "pmgem", "dmgem"):
        seen = []
        run([f"strategy={strategy}", f"benchmark={benchmark}", *sizes])
        runs.append(torch.cat(seen))
    assert len(runs[0]) == 5 * 30
    assert all(torch.equal(each, runs[0]) for each in runs)


@pytest.mark.parametrize("strategy", ["replay", "er_gem"])
def test_the_samples_of_the_replay_memory_in_a_step_are_a_key(
    mgem: Mgem, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, strategy: str
) -> None:
    sizes: list[int] = []
    monkeypatch.setattr(ProgressBar, "after_training_iteration", lambda _, s, **__: sizes.append(len(s.mb_x)))
    words = (f"strategy={strategy}", *SMALL)
    assert mgem(*words, "hydra.run.dir=default").status == 0
    assert sizes == [10] * 4 + [10 + 10] * 4
    sizes.clear()
    assert mgem(*words, "strategy.plugins.replay.batch_size_mem=20", "hydra.run.dir=more").status == 0
    assert sizes == [10] * 4 + [10 + 20] * 4
    has_constraints = (tmp_path / "more/constraints.csv").is_file()
    assert has_constraints == (strategy == "er_gem")


def test_replay_is_avalanches(mgem: Mgem, tmp_path: Path) -> None:
    assert mgem("strategy=replay", *SMALL, "hydra.run.dir=ours").status == 0
    size = OmegaConf.load(tmp_path / "ours/config.yaml").strategy.plugins.replay.mem_size
    stock = ["strategy._target_=avalanche.training.Replay", "~strategy.plugins", f"+strategy.mem_size={size}"]
    assert mgem("strategy=replay", *stock, *SMALL, "hydra.run.dir=stock").status == 0
    assert matrix(tmp_path / "ours") == matrix(tmp_path / "stock")


def test_any_plugin_joins_any_strategy(mgem: Mgem, tmp_path: Path) -> None:
    plugin = "{_target_: avalanche_mgem.MGEMPlugin, patterns_per_experience: 20}"
    result = mgem("strategy=naive", f"+strategy.plugins.mine={plugin}", *SMALL, "hydra.run.dir=run")
    assert (result.status, result.err) == (0, "")
    assert (tmp_path / "run/constraints.csv").is_file()


def test_sweep_ends_with_one_table(mgem: Mgem, tmp_path: Path) -> None:
    result = mgem("-m", "strategy=naive,gem", "seed=0,1", *SMALL, "hydra.sweep.dir=sweep")
    assert (result.status, result.err) == (0, "")
    options = "benchmark.n_experiences=2,samples_per_experience=40,test_samples_per_experience=40"
    folders = [f"permuted_digits-{s}-{options}-seed{n}" for s in ("naive", "gem") for n in (0, 1)]
    assert sorted(os.listdir(tmp_path / "sweep")) == ["multirun.yaml", *sorted(folders)]
    lines = result.out.splitlines()
    assert [line.partition(":")[0] for line in lines[:4]] == [f"run {number}/4" for number in (1, 2, 3, 4)]
    assert [re.split(r": |:", line)[1] for line in lines[:4]] == [
        f"{s} permuted_digits seed {n}" for s in ("naive", "gem") for n in (0, 1)
    ]
    assert result.out.count("95 %") == 1
    assert max(map(len, lines)) <= 80
    for strategy, pair in (("naive", folders[:2]), ("gem", folders[2:])):
        mean = sum(summary(tmp_path / "sweep" / folder)["acc"] for folder in pair) / 2
        (row,) = (line for line in lines if re.match(rf" ?{strategy} .*\d±", line))
        n, accuracy = row.split()[-6:-4]
        assert n == "2"
        assert accuracy.startswith(f"{mean:.3f}±")


def test_sweep_tells_settings_apart(mgem: Mgem) -> None:
    result = mgem("-m", "strategy=gem", "strategy.memory_strength=0,0.5", "seed=0,1", *SMALL)
    table = result.out.split("gem permuted_digits seed")[-1]
    title, _, rows = table.partition("over n seeds")
    assert "permuted_digits" in title
    assert re.findall(r"memory_strength=\S+", rows) == ["memory_strength=0", "memory_strength=0.5"]
    assert len(re.findall(r"gem +2 ", rows)) == 2


ERRORS = {
    "group": (["strategy=foo"], ["'foo'", "allowed are agem, avalanche_gem, cumulative"]),
    "close group": (["optimizer=sdg"], ["did you mean 'sgd'?"]),
    "experiment": (["experiment=nope"], ["no experiment is called 'nope'", "smoke/split_digits"]),
    "close experiment": (["experiment=pareto/permuted_mnits"], ["did you mean 'pareto/permuted_mnist'?"]),
    "key": (["sed=1"], ["'sed'", "did you mean 'seed'?", "train_mb_size"]),
    "key in a group": (["strategy.num_group=3"], ["'strategy.num_group'", "did you mean 'num_groups'?"]),
    "override": (["seed=["], ["cannot read 'seed=['"]),
    "no value": (["strategy"], ["cannot read 'strategy'"]),
    "group null": (["strategy=null"], ["must be a string"]),
    "text for integer": (["train_mb_size=abc"], ["train_mb_size=abc", "integer, at least 1"]),
    "bool for integer": (["train_mb_size=true"], ["train_mb_size=True", "integer, at least 1"]),
    "seed": (["seed=x"], ["seed=x", "integer, at least 0"]),
    "negative": (["eval_mb_size=-2"], ["eval_mb_size=-2", "at least 1"]),
    "zero samples": (["samples_per_experience=0"], ["at least 1 or null"]),
    "no root": (["dataset_root=null"], ["dataset_root=None"]),
    "device": (["device=foo"], ["device=foo", "allowed are auto, cpu"]),
    "target module": (["strategy._target_=no_such.Thing"], ["mgem: strategy._target_=no_such.Thing: "]),
    "target class": (["model._target_=torch.nn.Nope"], ["mgem: model._target_=torch.nn.Nope: "]),
    "no target": (["model._target_=null"], ["model needs a _target_"]),
    "keyword": (["strategy=naive", "+strategy.mem=3"], ["avalanche.training.Naive", "mem"]),
    "torch keyword": (["+optimizer.x=3"], ["torch.optim.SGD", "'x'"]),
    "torch value": (["optimizer.lr=-1"], ["optimizer.lr=-1", "at least 0"]),
    "torch type": (["optimizer.lr=abc"], ["optimizer.lr=abc", "float"]),
    "avalanche type": (["strategy=er_ace", "strategy.mem_size=abc"], ["strategy.mem_size=abc", "type int"]),
    "plugin type": (
        ["strategy=replay", "strategy.plugins.replay.mem_size=abc"],
        ["strategy.plugins.replay.mem_size=abc", "type int"],
    ),
    "plugin class": (["+strategy.plugins.a._target_=builtins.dict"], ["strategy.plugins.a", "is BasePlugin"]),
    "plugins as a list": (["+strategy.plugins=[1]"], ["strategy.plugins=[1]", "a name for each plugin"]),
    "plugin without target": (["+strategy.plugins.mine=3"], ["a name for each plugin", "a _target_ under"]),
    "avalanche value": (["strategy=ewc", "strategy.mode=foo"], ["avalanche.training.EWC", "Mode must be"]),
    "our value": (["strategy.grouping=foo"], ["grouping", "'random', 'stratified', 'label'"]),
    "our solver": (["strategy.solver=foo"], ["unknown solver 'foo'", "'exact'"]),
    "late value": (["strategy=gem", "strategy.num_modules=99", *SMALL], ["num_modules=99", "3 layers"]),
    "divergence": (["optimizer.lr=1e30", *SMALL], ["not finite", "experience"]),
    "classes": (["benchmark=split_digits", "benchmark.n_experiences=3"], ["(10)", "n_experiences (3)"]),
    "no experience": (["benchmark.n_experiences=0"], ["n_experiences is 0", "at least 1"]),
    "model": (["model=reduced_resnet18"], ["SlimResNet18", "[1, 8, 8]"]),
    "outputs": (["model.num_classes=3"], ["avalanche.models.SimpleMLP", "3 outputs", "at least 10"]),
    "given twice": (["+strategy.train_epochs=2"], ["strategy.train_epochs", "outside of strategy"]),
    "given by mgem": (["+strategy.evaluator=2"], ["mgem gives evaluator itself; drop it\n"]),
    **{
        f"{name}: a minibatch of all tasks": (
            [f"strategy={name}", "benchmark=split_digits", "train_mb_size=4"],
            ["task label, of which the benchmark has 5; set train_mb_size=5 or more"],
        )
        for name in ("joint", "cumulative", "gdumb")
    },
    "one head only": (["strategy=der", "benchmark=split_digits"], ["DER", "benchmark.return_task_id=false"]),
    "no benchmark": (["~benchmark", "+benchmark._target_=builtins.dict"], ["a dict", "CLScenario"]),
    "no strategy": (["strategy=naive", "strategy._target_=builtins.dict"], ["a dict", "BaseSGD"]),
    "no optimizer": (["optimizer._target_=builtins.dict"], ["gives a dict", "is Optimizer"]),
    "no logger": (["+logger.mine._target_=builtins.dict"], ["logger.mine", "is BaseLogger"]),
    "large seed": (["seed=4294967296"], ["seed=4294967296", "less than 2**32"]),
    "text of gamma": (["strategy.memory_strength=abc"], ["memory_strength=abc", "Schedule or Sequence"]),
    "model value": (["model.hidden_size=-1"], ["model.hidden_size=-1", "at least 1"]),
    "config dir": (["--config-dir", "nowhere"], ["nowhere"]),
    "unwritable": (["hydra.run.dir=/dev/null/run"], ["/dev/null"]),
    "angles": (
        ["benchmark=rotated_mnist", "benchmark.rotations_list=[0,1]"],
        ["number of rotations should match"],
    ),
    "sweep": (["-m", "strategy=gem,foo"], ["'foo'", "allowed are agem"]),
}  # fmt: skip


@pytest.mark.parametrize("case", ERRORS)
def test_a_mistake_gets_one_line(mgem: Mgem, tmp_path: Path, case: str) -> None:
    arguments, fragments = ERRORS[case]
    few = () if any("benchmark" in word for word in arguments) else SMALL[:1]
    result = mgem(*arguments, *few)
    assert result.status == 2
    assert result.out == ""
    assert re.fullmatch(r"mgem: [^\n]+\n", result.err)
    for fragment in fragments:
        assert fragment in result.err
    left = [path for path in tmp_path.rglob("*") if path.is_file() and path.name != "multirun.yaml"]
    assert left == []


def test_a_deleted_working_folder_is_named(mgem: Mgem, tmp_path: Path, monkeypatch) -> None:
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    result = mgem(*SMALL)
    assert result.status == 2
    assert result.err == "mgem: the working folder is not there any more; go to another one\n"


@pytest.mark.parametrize(
    ("benchmark", "file"),
    [
        ("permuted_mnist", "MNIST/raw/train-images-idx3-ubyte"),
        ("split_mnist", "MNIST/raw/train-images-idx3-ubyte"),
        ("rotated_mnist", "MNIST/raw/train-images-idx3-ubyte"),
        ("digit_domains", "MNIST/raw/train-images-idx3-ubyte"),
        ("split_cifar100", "cifar-100-python/train"),
    ],
)
def test_missing_data_names_folder_and_file(
    mgem: Mgem, monkeypatch: pytest.MonkeyPatch, benchmark: str, file: str
) -> None:
    def offline(*_: Any, **__: Any) -> None:
        raise OSError("Name or service not known")

    monkeypatch.setattr("socket.getaddrinfo", offline)
    result = mgem(f"benchmark={benchmark}", "dataset_root=empty")
    assert result.status == 2
    assert re.fullmatch(rf"mgem: \w+ needs the file {file} in the folder empty; [^\n]+\n", result.err)
    assert "Traceback" not in result.out  # older releases of torchvision print what they try to download


def test_a_used_folder_is_not_overwritten(mgem: Mgem, tmp_path: Path) -> None:
    assert mgem("strategy=naive", *SMALL, "hydra.run.dir=run").status == 0
    before = {path.name: path.read_bytes() for path in (tmp_path / "run").iterdir()}
    result = mgem("strategy=naive", "seed=7", *SMALL, "hydra.run.dir=run")
    assert result.status == 2
    assert re.fullmatch(r"mgem: the run folder \S+/run holds a complete run[^\n]+\n", result.err)
    assert {path.name: path.read_bytes() for path in (tmp_path / "run").iterdir()} == before


@pytest.mark.parametrize("folder", ["thesis", "."])
@pytest.mark.parametrize("file", [".lock", ".unfinished", "error.txt", ".hydra/config.yaml"])
def test_a_users_folder_is_refused_untouched(mgem: Mgem, tmp_path: Path, folder: str, file: str) -> None:
    mine = tmp_path / folder
    (mine / "chapters").mkdir(parents=True)
    (mine / "chapters/one.tex").write_text("precious")
    (mine / file).parent.mkdir(exist_ok=True)
    (mine / file).write_text("mine")
    before = sorted(tmp_path.rglob("*"))
    # Hydra's own files, which it would write before the run begins.
    hydra = ["hydra/job_logging=default", "hydra.output_subdir=.hydra"]
    result = mgem("strategy=naive", *SMALL, f"hydra.run.dir={folder}", *hydra)
    assert result.status == 2
    assert re.fullmatch(
        r"mgem: \S+ holds \S+( and 1 more)?, which no run wrote; give an empty folder\n", result.err
    )
    assert sorted(tmp_path.rglob("*")) == before
    assert ((mine / file).read_text(), (mine / "chapters/one.tex").read_text()) == ("mine", "precious")


def test_an_empty_folder_of_the_user_stays(mgem: Mgem, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    for folder in ("mine", "mine/new"):
        assert mgem("strategy=naive", "seed=oops", f"hydra.run.dir={folder}").status == 2
    assert os.listdir(tmp_path) == ["mine"]
    assert os.listdir(tmp_path / "mine") == []


def test_a_seed_with_separators_stays_below_the_runs(mgem: Mgem, tmp_path: Path) -> None:
    result = mgem("strategy=naive", "seed=../../../../x")
    assert result.status == 2
    assert result.err == "mgem: seed=../../../../x: it must be an integer, at least 0\n"
    assert list(tmp_path.rglob("*x*")) == []


def test_debug_shows_the_traceback(mgem: Mgem, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MGEM_DEBUG", "1")
    with pytest.raises(UserError, match="grouping must be one of"):
        mgem("strategy.grouping=foo", *SMALL)


def test_a_bug_is_not_hidden(mgem: Mgem, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any, **__: Any) -> None:
        raise AttributeError("a bug")

    monkeypatch.setattr(Naive, "train", broken)
    with pytest.raises(AttributeError, match="a bug"):
        mgem("strategy=naive", *SMALL)


def test_interrupt_leaves_nothing(mgem: Mgem, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Naive, "train", interrupted)
    result = mgem("strategy=naive", *SMALL, "hydra.run.dir=run")
    assert result.status == 130
    assert result.err == "mgem: interrupted, nothing is kept of this run\n"
    assert not (tmp_path / "run").exists()


@pytest.mark.usefixtures("_signals")
@pytest.mark.parametrize(
    ("number", "status"), [(signal.SIGTERM, 143), (signal.SIGHUP, 129), (signal.SIGINT, 130)]
)
def test_a_signal_ends_a_run_as_an_interrupt_does(
    mgem: Mgem, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, status: int
) -> None:
    monkeypatch.setattr(Naive, "train", lambda *_, **__: os.kill(os.getpid(), number))
    result = mgem("strategy=naive", *SMALL, "hydra.run.dir=run")
    assert result.status == status
    assert result.err == "mgem: interrupted, nothing is kept of this run\n"
    assert os.listdir(tmp_path) == []


def test_an_interrupt_after_the_run_says_that_it_is_kept(
    mgem: Mgem, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def keep_and_interrupt(*arguments: Any) -> None:
        keep_run(*arguments)
        raise KeyboardInterrupt

    monkeypatch.setattr(api, "keep_run", keep_and_interrupt)
    result = mgem("strategy=naive", *SMALL, "hydra.run.dir=run")
    assert result.status == 130
    assert result.err == "mgem: interrupted after the run; its results are complete: run\n"
    assert summary(tmp_path / "run")["strategy"] == "naive"


def test_results_of_a_folder_that_vanishes_are_kept(
    mgem: Mgem, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train = Naive.train

    def train_and_remove(*arguments: Any, **options: Any) -> Any:
        shutil.rmtree(tmp_path / "run", ignore_errors=True)
        return train(*arguments, **options)

    monkeypatch.setattr(Naive, "train", train_and_remove)
    result = mgem("strategy=naive", *SMALL, "checkpoint=false", "hydra.run.dir=run")
    assert result.status == 0
    assert result.err == (
        f"mgem: the run folder {tmp_path / 'run'} had vanished; it was made anew for the results\n"
    )
    assert sorted(os.listdir(tmp_path / "run")) == RUN_FILES


@pytest.mark.parametrize("target", ["keep_run", "train_and_evaluate"])
def test_a_full_disk_is_one_line(
    mgem: Mgem, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, target: str
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(api, target, fail)
    result = mgem("strategy=naive", *SMALL, "hydra.run.dir=run")
    assert result.status == 2
    place = f"perhaps in the run folder {tmp_path / 'run'}; nothing is kept of this run"
    assert result.err == f"mgem: No space left on device, {place}\n"


def test_users_own_configuration_and_any_class(mgem: Mgem, tmp_path: Path) -> None:
    (tmp_path / "mine/strategy").mkdir(parents=True)
    (tmp_path / "mine/strategy/lfl.yaml").write_text("_target_: avalanche.training.LFL\nlambda_e: 0.1\n")
    result = mgem("--config-dir", "mine", "strategy=lfl", *SMALL, "hydra.run.dir=run")
    assert (result.status, result.err) == (0, "")
    assert summary(tmp_path / "run")["strategy"] == "lfl"


@pytest.mark.parametrize("model", ["mlp", "paper_cnn"])
def test_models_fit_the_benchmark(mgem: Mgem, tmp_path: Path, model: str) -> None:
    class_incremental = ["benchmark=split_digits", "benchmark.return_task_id=false", f"model={model}"]
    small = ["samples_per_experience=20", "test_samples_per_experience=20"]
    assert mgem("strategy=naive", *class_incremental, *small, "hydra.run.dir=run").status == 0
    assert OmegaConf.load(tmp_path / "run/config.yaml").model.num_classes == 10


def test_help_teaches(mgem: Mgem) -> None:
    result = mgem("--help")
    assert result.status == 0
    assert f"strategy: {', '.join(sorted([*STRATEGIES, 'custom']))}" in result.out
    assert "mgem -m strategy=gem,pmgem,dmgem seed=0,1,2" in result.out
    assert "mgem profile --help" in result.out


@pytest.mark.parametrize("words", [["--version"], ["profile", "--version"], ["seed=1", "--version"]])
def test_the_version_is_the_packages(mgem: Mgem, tmp_path: Path, words: list[str]) -> None:
    assert mgem(*words) == (0, f"mgem {avalanche_mgem.__version__}\n", "")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("path", sorted(config_folder().rglob("*.yaml")), ids=lambda path: path.stem)
def test_every_configuration_file_starts_with_an_explanation(path: Path) -> None:
    # Hydra reads "# @package" in the first line only.
    assert re.match(r"(# @package \w+\n)?# \S.{30,}\n", path.read_text())


@pytest.mark.skipif(not (DATA / "MNIST").is_dir(), reason="MNIST is not in ../shared/data")
@pytest.mark.parametrize("benchmark", ["permuted_mnist", "rotated_mnist", "split_mnist"])
def test_real_mnist(mgem: Mgem, tmp_path: Path, benchmark: str) -> None:
    sizes = ["samples_per_experience=200", "test_samples_per_experience=50", "benchmark.n_experiences=2"]
    result = mgem(f"benchmark={benchmark}", f"dataset_root={DATA}", *sizes, "hydra.run.dir=run")
    assert (result.status, result.err) == (0, "")
    R = matrix(tmp_path / "run")
    assert R[2][1] > R[0][1] + 0.2


@pytest.mark.slow
@pytest.mark.skipif(not (DATA / "cifar-100-python").is_dir(), reason="CIFAR-100 is not in ../shared/data")
def test_real_cifar100(mgem: Mgem, tmp_path: Path) -> None:
    sizes = ["benchmark.n_experiences=4", "samples_per_experience=20", "test_samples_per_experience=4"]
    options = ["benchmark=split_cifar100", f"dataset_root={DATA}", "model=reduced_resnet18", *sizes]
    result = mgem("strategy=naive", *options, "hydra.run.dir=run")
    assert result.status == 0
    assert result.err == "mgem: preload: left to Avalanche, sample by sample: RandomCrop (train)\n"
    assert len(matrix(tmp_path / "run")) == 5
    config = OmegaConf.load(tmp_path / "run/config.yaml")
    assert config.model.nclasses == 25


@pytest.mark.slow
def test_as_a_process_in_an_empty_folder(tmp_path: Path) -> None:
    command = "from avalanche_mgem.experiment.main import main; main()"
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", command, "strategy=pdmgem", *SMALL],
        cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0
    lines = done.stderr.splitlines()
    assert [line.partition(":")[2].partition(":")[0] for line in lines] == [
        f" experience {number} of 0..1" for number in (0, 1)
    ]
    assert "pdmgem on permuted_digits, seed 0" in done.stdout
    assert len(list(tmp_path.glob("runs/permuted_digits/pdmgem/seed0-*/summary.json"))) == 1


@pytest.mark.parametrize("benchmark", ["permuted_mnist", "split_mnist"])
def test_damaged_data_names_its_file(mgem: Mgem, mnist_root: Path, tmp_path: Path, benchmark: str) -> None:
    shutil.copytree(mnist_root, tmp_path / "data")
    path = tmp_path / "data/MNIST/raw/train-images-idx3-ubyte"
    path.write_bytes(path.read_bytes()[:-1])
    result = mgem(f"benchmark={benchmark}", "dataset_root=data")
    assert (result.status, result.out) == (2, "")
    file = "data/MNIST/raw/train-images-idx3-ubyte"
    assert re.fullmatch(
        rf"mgem: [^\n]*{file}: it has 47055 bytes, but by its header 47056[^\n]*\n", result.err
    )


def test_damaged_cifar_names_its_file(mgem: Mgem, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(*_: Any, **__: Any) -> None:
        raise OSError("Name or service not known")

    monkeypatch.setattr("socket.getaddrinfo", offline)
    (tmp_path / "data/cifar-100-python").mkdir(parents=True)
    for name in ("train", "test", "meta"):
        (tmp_path / "data/cifar-100-python" / name).write_bytes(b"\x80")
    result = mgem("benchmark=split_cifar100", "dataset_root=data")
    assert (result.status, result.out) == (2, "")
    damaged = "SplitCIFAR100 cannot read data/cifar-100-python/train: it is damaged"
    assert re.fullmatch(rf"mgem: {damaged}[^\n]+\n", result.err)


def test_a_damaged_image_names_its_file(mgem: Mgem, tmp_path: Path) -> None:
    write_classes(tmp_path / "data/day", 0, "ab")
    path = tmp_path / "data/day/train/a/001.png"
    path.write_bytes(path.read_bytes()[:40])
    for preload in ("true", "false"):
        words = ["benchmark=image_folders", "dataset_root=data", "benchmark.image_size=8", "strategy=naive"]
        result = mgem(*words, f"benchmark.preload={preload}")
        assert (result.status, result.out) == (2, "")
        line = r"mgem: data/day/train/a/001.png cannot be read as an image: [^\n]+\n"
        assert re.fullmatch(line, result.err), result.err
