"""What a user can get wrong in a configuration: each is one line that names the key."""

import re
from collections.abc import Callable
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hydra import version as hydra_version
from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig, OmegaConf

from avalanche_mgem.benchmarks import PermutedDigits
from avalanche_mgem.data import subsample
from avalanche_mgem.experiment import UserError, compose, run
from avalanche_mgem.experiment._limits import LIMITS
from avalanche_mgem.experiment.configuration import config_folder
from avalanche_mgem.report import load_results
from avalanche_mgem.runs import flatten

Mgem = Callable[..., Any]
SMALL = ("benchmark.n_experiences=2", "samples_per_experience=40", "test_samples_per_experience=40")

# Kinds of values that no key with a number has.
WRONG = {"text": "abc", "list": [[1]], "null": None, "nan": float("nan"), "negative": -1}

# What is allowed after all, by key; the rest must be refused.
ALLOWED: dict[str, set[str]] = {
    "samples_per_experience": {"null"},
    "test_samples_per_experience": {"null"},
    "gap_patterns_per_exp": {"null"},
    "log_every": {"null"},
    "strategy.decay_factor": {"null"},
}

# Keys of an option that its file gives no number, and those of a file that it is made of.
MORE = {
    "dmgem": ["patterns_per_exp", "memory_strength", "num_modules"],
    "replay": ["plugins.replay.mem_size"],
    "ewc": ["decay_factor"],
    **{name: ["mem_size"] for name in ("der", "er_ace", "gdumb", "mir")},
}

# The options of each group whose numbers can be tried without data.
OPTIONS = {
    "strategy": [
        *("dmgem", "agem", "avalanche_gem", "der", "er_ace", "ewc", "gdumb", "lwf", "mir", "replay", "si")
    ],
    "benchmark": ["permuted_digits", "split_digits"],
    "model": ["mlp"],
    "optimizer": ["sgd", "adam"],
}


def with_gem(word: str) -> list[str]:
    """The word, with a strategy that needs no data, unless it names one."""
    return [word] if word.startswith("strategy=") else ["strategy=gem", word]


def numbers(file: str) -> list[str]:
    """The keys of a configuration file whose value is a number."""
    values = flatten(OmegaConf.to_container(OmegaConf.load(config_folder() / file)))
    return [key for key, value in values.items() if type(value) in (int, float)]


def cases() -> list[tuple[str, str, str]]:
    """From the files: to compose them would take seconds in the collection."""
    top = [key for key in numbers("config.yaml") if "." not in key]
    top += ["samples_per_experience", "test_samples_per_experience", "gap_patterns_per_exp"]
    found = [("strategy=gem", key) for key in top]
    for group, options in OPTIONS.items():
        for option in options:
            keys = [*numbers(f"{group}/{option}.yaml"), *MORE.get(option, ())]
            found += [(f"{group}={option}", f"{group}.{key}") for key in keys]
    return [(word, key, kind) for word, key in dict.fromkeys(found) for kind in WRONG]


@cache
def configuration(word: str) -> DictConfig:
    """It is composed once, which takes a quarter of a second."""
    return compose(*with_gem(word), *SMALL, "benchmark.preload=false")


@pytest.fixture(scope="module")
def benchmark() -> Any:
    """The smallest, which is built once: that takes most of the time."""
    return PermutedDigits(2, seed=0)


@pytest.mark.parametrize(("word", "key", "kind"), cases(), ids=lambda part: part)
def test_a_wrong_value_of_a_number_names_its_key(
    benchmark: Any, monkeypatch: pytest.MonkeyPatch, word: str, key: str, kind: str
) -> None:
    cfg = configuration(word).copy()
    if not word.startswith("benchmark="):
        module = import_module("avalanche_mgem.experiment._prepare")
        small = subsample(benchmark, 20, 20)
        monkeypatch.setattr(module, "_benchmark", lambda _: small)
    OmegaConf.update(cfg, key, WRONG[kind], merge=False)
    if kind in ALLOWED.get(key, ()):
        run(cfg)
        return
    with pytest.raises(ValueError, match=re.escape(key.rpartition(".")[2])) as error:
        run(cfg)
    assert "\n" not in str(error.value)


def test_every_number_for_another_packages_class_has_a_limit() -> None:
    """A new key in a configuration file needs a line in LIMITS, where its class does not check it."""
    lacking = []
    for group in ("benchmark", "strategy", "model", "optimizer", "logger"):
        for path in sorted((config_folder() / group).rglob("*.yaml")):
            values = flatten(OmegaConf.to_container(OmegaConf.load(path)))
            for key, value in values.items():
                part = f"{key.rpartition('.')[0]}." if "." in key else ""
                target = values.get(f"{part}_target_")
                is_of_others = target is not None and not target.startswith("avalanche_mgem.")
                if type(value) in (int, float) and is_of_others:
                    lacking += [f"{target}.{key}"] * (key.removeprefix(part) not in LIMITS.get(target, {}))
    assert lacking == []


# What the command says to a mistake, by the words of the command line: fragments of the line.
ERRORS: dict[str, tuple[list[str], list[str]]] = {
    "replay": (
        ["strategy=replay", "strategy.plugins.replay.mem_size=-1"],
        ["replay.mem_size=-1", "at least 1"],
    ),
    "infinite": (["optimizer.lr=inf"], ["optimizer.lr=inf", "at least 0"]),
    "nan": (["strategy.memory_strength=nan"], ["strategy.memory_strength=nan", "a number"]),
    "batch": (["train_mb_size=0"], ["train_mb_size=0", "at least 1"]),
    "epochs": (["train_epochs=0"], ["train_epochs=0", "at least 1"]),
    "too many experiences": (
        ["benchmark=split_digits", "benchmark.n_experiences=11"],
        ["n_experiences (11)"],
    ),
    "negative lr": (["optimizer.lr=-1"], ["optimizer.lr=-1", "at least 0"]),
    "groups": (["strategy.num_groups=300"], ["num_groups=300", "is larger than the memory"]),
    "short list": (["strategy.memory_strength=[0.5]"], ["strategy.memory_strength has 1 values for 2"]),
    "names": (["names.strategy=[1]"], ["names.strategy=[1]"]),
    "no names": (["names=null"], ["names=None"]),
    "root": (["dataset_root=''"], ["dataset_root="]),
}


@pytest.mark.parametrize("case", ERRORS)
def test_a_mistake_is_one_line_of_the_command(mgem: Mgem, case: str) -> None:
    words, fragments = ERRORS[case]
    small = SMALL if "benchmark=split_digits" not in words else ()
    result = mgem(*small, *words)
    assert (result.status, result.out) == (2, "")
    assert re.fullmatch(r"mgem: [^\n]+\n", result.err)
    assert all(fragment in result.err for fragment in fragments), result.err


@pytest.mark.parametrize(
    "words",
    [("{}",), ("-m", "seed=0,1", "{}"), ("tune", "{}"), ("--config-dir=~/other", "{}")],
    ids=["run", "sweep", "tune", "with-config-dir"],
)
def test_a_folder_below_home_is_there(mgem: Mgem, tmp_path: Path, monkeypatch: Any, words: Any) -> None:
    """No shell but zsh with an option of its own expands the ~ of hydra.run.dir=~/mine."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    for folder in ("taken", "other"):
        (tmp_path / "home" / folder).mkdir(parents=True)
    (tmp_path / "home/taken/paper.tex").touch()
    key = "tune.dir" if "tune" in words else "hydra.sweep.dir" if "-m" in words else "hydra.run.dir"
    result = mgem(*(word.format(f"{key}=~/taken") for word in words))
    assert (result.status, result.out) == (2, "")
    assert str(tmp_path / "home/taken") in result.err
    assert re.fullmatch(r"mgem: [^\n]+\n", result.err)
    assert not (tmp_path / "~").exists()


def test_groups_larger_than_a_small_memory_are_one_line(mgem: Mgem) -> None:
    result = mgem("strategy=dmgem", "benchmark.n_experiences=2", "samples_per_experience=1")
    assert result.status == 2
    assert re.fullmatch(r"mgem: [^\n]*num_groups=2[^\n]*\n", result.err)


@pytest.mark.parametrize("size", ["samples_per_experience=1", "samples_per_experience=999999"])
def test_one_sample_and_more_than_there_are(mgem: Mgem, size: str) -> None:
    result = mgem("strategy=gem", "benchmark.n_experiences=2", size, "test_samples_per_experience=1")
    assert (result.status, result.err) == (0, "")


MALFORMED = {
    "syntax": b"lr: [\n",
    "tabs": b"lr:\n\t- 1\n",
    "duplicate": b"lr: 1\nlr: 2\n",
    "control": b"lr: \x00\n",
    "no text": b"lr: \xff\n",
    "number": b"5\n",
    "list": b"- 5\n",
    "defaults": b"defaults: 5\n",
    "tag": b"lr: !!python/object/apply:os.getcwd []\n",
}


@pytest.mark.parametrize("kind", MALFORMED)
def test_a_malformed_configuration_file_is_one_line(mgem: Mgem, tmp_path: Path, kind: str) -> None:
    (tmp_path / "mine/optimizer").mkdir(parents=True)
    (tmp_path / "mine/optimizer/mine.yaml").write_bytes(MALFORMED[kind])
    result = mgem("--config-dir", "mine", "optimizer=mine", *SMALL)
    assert (result.status, result.out) == (2, "")
    assert re.fullmatch(r"mgem: [^\n]+\n", result.err)


def test_hydra_of_the_calling_program_stays(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("mine: 1\n")
    with initialize_config_dir(version_base="1.2", config_dir=str(tmp_path)):
        hydra, base = GlobalHydra.instance().hydra, hydra_version.getbase()
        run(["strategy=naive", *SMALL])
        with pytest.raises(UserError, match="no strategy is called 'gm'"):
            run(["strategy=gm"])
        assert GlobalHydra.instance().hydra is hydra
        assert hydra_version.getbase() == base
        assert hydra_compose("config").mine == 1
    assert not GlobalHydra.instance().is_initialized()


def test_codes_for_the_terminal_are_written_out(mgem: Mgem, tmp_path: Path) -> None:
    code = "\x1b[31m"
    (tmp_path / "mine/strategy").mkdir(parents=True)
    (tmp_path / f"mine/strategy/{code}x.yaml").write_text("_target_: avalanche.training.Naive\n")
    (tmp_path / f"mine/optimizer{code}").mkdir()
    for words in (
        (f"seed='{code}'",),
        (f"names.strategy='{code}[red]'", "strategy=naive", "names.benchmark='[bold]'"),
        ("strategy=naive", f"hydra.run.dir='run{code}'"),
        (f"hydra.run.dir='{code}/a'", "strategy.grouping=foo"),
        (f"strategy='{code}x'",),
        (f"device='{code}'",),
        ("-m", "strategy=naive", f"names.strategy='{code}'", f"hydra.sweep.dir='sweep{code}'", "seed=0,x"),
    ):
        result = mgem(*words, *SMALL)
        assert "\x1b" not in result.out + result.err, words


SECRET = "hunter2-and-more"


@pytest.fixture
def secret(monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("MGEM_TEST_SECRET", SECRET)
    monkeypatch.setenv("MGEM_TEST_SEED", "3")
    return "${oc.env:MGEM_TEST_SECRET}"


def everything_in(folder: Path) -> str:
    files = [path for path in folder.rglob("*") if path.is_file()]
    return "".join(path.read_bytes().decode("utf-8", "replace") for path in files)


def test_what_comes_from_the_environment_is_written_as_typed(mgem: Mgem, tmp_path: Path, secret: str) -> None:
    words = [f"dataset_root='{secret}'", "seed='${oc.decode:${oc.env:MGEM_TEST_SEED}}'"]
    result = mgem("strategy=naive", *words, *SMALL, "hydra.run.dir=run")
    assert (result.status, result.err) == (0, "")
    assert SECRET not in result.out + everything_in(tmp_path / "run")
    config = OmegaConf.to_container(OmegaConf.load(tmp_path / "run/config.yaml"))
    assert config["dataset_root"] == secret
    assert config["seed"] == config["benchmark"]["seed"] == 3  # a number is a setting, which is needed
    # What the file is for still works: a report, and the sweep that is started again.
    assert load_results(tmp_path / "run").runs["seed"].tolist() == [3]
    for _ in range(2):
        result = mgem("-m", "strategy=naive", *words, *SMALL, "hydra.sweep.dir=sweep")
        assert (result.status, result.err) == (0, "")
    assert SECRET not in everything_in(tmp_path / "sweep")


@pytest.mark.parametrize(
    "word",
    [
        "device='{}'",
        "strategy.grouping='{}'",
        "+strategy.x='{}'",
        "train_mb_size='{}'",
        "strategy._target_='a.{}'",
    ],
)
def test_messages_show_no_value_of_the_environment(
    mgem: Mgem, tmp_path: Path, secret: str, word: str
) -> None:
    is_found_late = word.startswith(("device", "+strategy"))  # by the run itself, which a sweep is to outlive
    for mode in ((), *[("-m", "hydra.sweep.dir=sweep")] * is_found_late):
        result = mgem(*mode, word.format(secret), *SMALL)
        assert result.status == 2
        assert SECRET not in result.out + result.err + everything_in(tmp_path)
        assert "${oc.env:MGEM_TEST_SECRET}" in result.err or "strategy.x" in word


def test_trackers_get_no_value_of_the_environment(
    tmp_path: Path, secret: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun: list[dict[str, Any]] = []

    class Logger:
        def begin_run(self, **values: Any) -> None:
            begun.append(values)

        def end_run(self, *_: Any) -> None: ...

    api = import_module("avalanche_mgem.experiment.api")
    train = api.train_and_evaluate
    monkeypatch.setattr(
        api, "train_and_evaluate", lambda *words, loggers, **options: train(*words, **options)
    )
    monkeypatch.setattr(api, "make_loggers", lambda _: [Logger()])
    run(["strategy=naive", f"+logger.wandb.token='{secret}'", *SMALL], tmp_path / "run")
    assert SECRET not in str(begun)
    assert begun[0]["config"]["logger"]["wandb"]["token"] == secret
