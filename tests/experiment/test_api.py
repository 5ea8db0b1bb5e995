import os
import re
from pathlib import Path

import pytest
import torch
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf

import avalanche_mgem.experiment
from avalanche_mgem.experiment import UserError, compose, grid, run, sweep
from avalanche_mgem.experiment._files import options_below
from avalanche_mgem.experiment._prepare import prepare
from avalanche_mgem.experiment.configuration import config_folder, quoted
from avalanche_mgem.report import load_results

SMALL = ["benchmark.n_experiences=2", "samples_per_experience=40", "test_samples_per_experience=40"]
TINY = {key: int(value) for key, _, value in (word.partition("=") for word in SMALL)}
EXPERIMENTS = sorted(
    str(path.relative_to(config_folder() / "experiment").with_suffix(""))
    for path in (config_folder() / "experiment").rglob("*.yaml")
)


def test_every_public_name_is_there() -> None:
    assert dir(avalanche_mgem.experiment) == sorted(avalanche_mgem.experiment.__all__)
    for name in avalanche_mgem.experiment.__all__:
        assert getattr(avalanche_mgem.experiment, name).__name__ == name
    with pytest.raises(AttributeError, match="'runs'"):
        _ = avalanche_mgem.experiment.runs


def test_run_measures_what_the_command_does(tmp_path: Path) -> None:
    words = ["strategy=gem", "seed=3", *SMALL]
    result = run(words, tmp_path / "run")
    assert sorted(os.listdir(tmp_path / "run"))[:2] == ["accuracy_matrix.csv", "config.yaml"]
    assert result.names == {"strategy": "gem", "benchmark": "permuted_digits"}
    assert result.accuracies.shape == (3, 2)
    assert result.accuracies.loc[2, 1] == result.matrix[2][1]
    assert result.summary["acc"] == pytest.approx(result.accuracies.loc[2].mean())
    assert result.summary["seed"] == 3
    # The same from a configuration, which is not changed, and without a folder.
    cfg = compose(*words)
    assert run(cfg).matrix == result.matrix
    assert cfg.inferred.num_classes is None
    assert run(OmegaConf.to_container(cfg)).matrix == result.matrix


def test_a_folder_in_use_and_other_mistakes_are_one_line(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").touch()
    with pytest.raises(UserError, match=r"holds mine\.txt, which no run wrote; give an empty folder"):
        run(SMALL, tmp_path)
    with pytest.raises(UserError, match=r"seed=-1: it must be"):
        run([*SMALL, "seed=-1"])
    with pytest.raises(UserError, match="give a list"):
        run("strategy=gem")
    with pytest.raises(UserError, match=r"^no strategy is called 'gm'; did you mean"):
        compose("strategy=gm")
    with pytest.raises(UserError, match=r"^no strategy is called 'gm'; did you mean 'gem'\? allowed are"):
        run(["strategy=gm"])
    with pytest.raises(UserError, match="the configuration has no benchmark; begin with what compose"):
        run({})
    with pytest.raises(UserError, match="logger=csv needs a folder"):
        run([*SMALL, "logger=csv"])


def test_a_finished_run_gives_its_result_again(tmp_path: Path) -> None:
    words = ["strategy=gem", *SMALL, "validation=0.2", "save_model=true"]
    result = run(words, tmp_path / "run")
    assert len(result.valid_matrix) == 3
    written = {path.name: path.read_bytes() for path in (tmp_path / "run").iterdir()}
    again = run(words, tmp_path / "run")
    assert again == result  # all that was measured
    assert again._repr_html_() == result._repr_html_()
    images = torch.rand(3, 1, 8, 8)
    assert torch.equal(again.model.eval()(images), result.model.eval()(images))
    assert {path.name: path.read_bytes() for path in (tmp_path / "run").iterdir()} == written
    # Where it was not kept there is no model; neither its keeping nor the device makes another run.
    (tmp_path / "run/model.pt").unlink()
    assert run([*words[:-1], "device=auto"], tmp_path / "run").model is None
    with pytest.raises(
        UserError,
        match=r"holds a run with another benchmark\.seed \(0 there, 1 here\), .*: give another folder$",
    ):
        run([*words, "seed=1"], tmp_path / "run")
    with pytest.raises(UserError, match="seed=-1: it must be"):
        run([*words, "seed=-1"], tmp_path / "run")
    (tmp_path / "run/model.pt").write_bytes(b"PK damaged")
    with pytest.raises(UserError, match=r"model\.pt: these are no weights of the run's model: "):
        run(words, tmp_path / "run")


def test_heads_of_a_finished_run_come_back(tmp_path: Path) -> None:
    words = ["strategy=naive", "benchmark=split_digits", *SMALL[1:], "save_model=true"]
    result = run(words, tmp_path / "run")
    again = run(words, tmp_path / "run")
    assert again.model.state_dict().keys() == result.model.state_dict().keys()
    assert again.constraints == result.constraints == []


def test_a_sweep_is_that_of_the_command(tmp_path: Path, mgem, capfd: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "a folder, with 'signs'"
    results = sweep({"strategy": ["naive", "gem"], "seed": range(1), **TINY}, folder)
    assert results.runs["method"].tolist() == ["naive", "gem"]
    assert results.protocol["train_mb_size"] == 10
    assert results.environments["launcher.name"].tolist() == ["basic"] * 2
    before = {path: path.stat().st_mtime_ns for path in folder.glob("*/summary.json")}
    assert len(before) == 2
    capfd.readouterr()
    # The command goes on with it, and so does the function.
    words = ["strategy=naive,gem", "seed=0", *SMALL]
    assert mgem("-m", *words, f"hydra.sweep.dir={quoted(str(folder))}").status == 0
    more = sweep(["strategy=naive,gem", "seed=range(1)", *SMALL], folder)
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert len(more.runs) == 2


def test_a_sweep_that_lacks_runs_is_an_error_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match=r"^the sweep \S+ lacks runs: \S+seed0: strategy.memory_strength=x: "
    ) as error:
        sweep({"strategy": "gem", "strategy.memory_strength": ["x", 0.5], **TINY}, tmp_path / "sweep")
    assert "\n" not in str(error.value)
    assert load_results(tmp_path / "sweep").runs["strategy"].tolist() == ["gem"]  # the complete one is kept
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/thesis.tex").touch()
    with pytest.raises(UserError, match="is not empty and holds no sweep"):
        sweep(["seed=0,1", *SMALL], tmp_path / "mine")
    with pytest.raises(UserError, match=r"^no strategy is called 'gm'; did you mean 'gem'"):
        sweep(["strategy=gm,gem"], tmp_path / "x")
    with pytest.raises(UserError, match="give a list"):
        sweep("strategy=gem")


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ([0, 0.5, True, None], "0,0.5,true,null"),
        (range(3), "0,1,2"),
        ([[1, "a"], [2]], "[1,a],[2]"),
        ("random:2", "random:2"),
        (["it's, \\ so", "b"], "'it\\'s, \\\\ so',b"),
    ],
)
def test_values_become_words_of_hydra(value: object, words: str) -> None:
    assert grid._values(value) == words
    OverridesParser.create().parse_overrides([f"key={words}"])


def test_own_configuration_files_join_in(tmp_path: Path) -> None:
    (tmp_path / "optimizer").mkdir()
    (tmp_path / "optimizer/mine.yaml").write_text("_target_: torch.optim.SGD\nlr: 0.7\n")
    assert compose("optimizer=mine", config_dir=tmp_path).optimizer.lr == 0.7
    (tmp_path / "a b, 'c'").symlink_to(tmp_path)
    assert compose("optimizer=mine", config_dir=tmp_path / "a b, 'c'").optimizer.lr == 0.7
    with pytest.raises(UserError, match="nowhere: there is no such folder"):
        compose("strategy=gem", config_dir=tmp_path / "nowhere")


@pytest.fixture(scope="module")
def kept_by_gem() -> int:
    """Samples of an experience."""
    return int(compose("strategy=gem").strategy.patterns_per_exp)


@pytest.mark.parametrize("strategy", ["replay", "er_ace", "der", "derpp", "mir", "gdumb", "er_gem"])
def test_baselines_keep_as_many_samples_as_gem(strategy: str, kept_by_gem: int) -> None:
    cfg = prepare(compose(f"strategy={strategy}", *SMALL))[0].strategy
    plugin = OmegaConf.select(cfg, "plugins.replay", default=cfg)
    constrained = 2 * cfg.patterns_per_exp if strategy == "er_gem" else 0
    assert plugin.mem_size + constrained == 2 * kept_by_gem


@pytest.mark.parametrize("every", [False, pytest.param(True, marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", EXPERIMENTS)
def test_named_experiments_compose_with_the_runs_of_their_grid(name: str, every: bool) -> None:
    """With the last run of its grid, or with every run."""
    text = (config_folder() / f"experiment/{name}.yaml").read_text()
    assert re.search(r"^ +params:$", text, flags=re.MULTILINE)
    grid = OmegaConf.to_container(OmegaConf.create(text))["hydra"]["sweeper"]["params"]
    assert OmegaConf.create(text).hydra.sweep.dir == f"runs/{name}"
    overrides = OverridesParser.create().parse_overrides([f"{key}={value}" for key, value in grid.items()])
    assert any(override.is_sweep_override() for override in overrides)
    values = {
        override.key_or_group: list(override.sweep_string_iterator())
        if override.is_sweep_override()
        else [override.get_value_element_as_str()]
        for override in overrides
    }
    values["seed"] = values["seed"][:1]
    assert {*values.get("strategy", ())} <= {*options_below("strategy")}
    last = max(map(len, values.values())) - 1
    for number in range(0 if every else last, last + 1):  # every value at least once
        words = [f"{key}={given[number % len(given)]}" for key, given in values.items()]
        cfg = compose(f"experiment={name}", *words)
    experiences = cfg.benchmark.get("n_experiences") or len(cfg.benchmark.domains)
    assert experiences in {5, 10, 20, 50, 100}
    assert cfg.optimizer.lr == 0.1


def test_gem_protocol_is_the_papers() -> None:
    for benchmark, samples in (("permuted_mnist", 1000), ("rotated_mnist", 1000), ("split_cifar100", 2500)):
        cfg = compose(f"experiment=gem_protocol/{benchmark}")
        assert cfg.names.benchmark == benchmark
        assert (cfg.benchmark.n_experiences, cfg.samples_per_experience) == (20, samples)
        assert (cfg.train_mb_size, cfg.train_epochs, cfg.optimizer.lr) == (10, 1, 0.1)
        assert (cfg.strategy.patterns_per_exp, cfg.strategy.memory_strength) == (256, 0.5)


@pytest.mark.parametrize("word", ["hydra.run.dir=there", "hydra/launcher=parallel", "hydra.verbose=true"])
def test_a_word_that_only_the_command_reads_is_refused(word: str) -> None:
    with pytest.raises(UserError, match=f"^{re.escape(word)}: this is for the command mgem"):
        run(["strategy=naive", word])
