import os
import re
from pathlib import Path

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf

import avalanche_mgem.experiment
from avalanche_mgem.experiment import UserError, compose, run
from avalanche_mgem.experiment._prepare import prepare
from avalanche_mgem.experiment.configuration import config_folder

SMALL = ["benchmark.n_experiences=2", "samples_per_experience=40", "test_samples_per_experience=40"]
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


def test_own_configuration_files_join_in(tmp_path: Path) -> None:
    (tmp_path / "optimizer").mkdir()
    (tmp_path / "optimizer/mine.yaml").write_text("_target_: torch.optim.SGD\nlr: 0.7\n")
    assert compose("optimizer=mine", config_dir=tmp_path).optimizer.lr == 0.7
    (tmp_path / "a b, 'c'").symlink_to(tmp_path)
    assert compose("optimizer=mine", config_dir=tmp_path / "a b, 'c'").optimizer.lr == 0.7
    with pytest.raises(UserError, match="nowhere: there is no such folder"):
        compose("strategy=gem", config_dir=tmp_path / "nowhere")


@pytest.mark.parametrize("strategy", ["replay", "er_ace", "der", "derpp", "mir", "gdumb", "er_gem"])
def test_baselines_keep_as_many_samples_as_gem(strategy: str) -> None:
    cfg = prepare(compose(f"strategy={strategy}", *SMALL))[0].strategy
    plugin = OmegaConf.select(cfg, "plugins.replay", default=cfg)
    constrained = 2 * cfg.patterns_per_exp if strategy == "er_gem" else 0
    assert plugin.mem_size + constrained == 2 * compose("strategy=gem").strategy.patterns_per_exp


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_named_experiments_compose_with_every_run_of_their_grid(name: str) -> None:
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
    for number in range(max(map(len, values.values()))):  # every value at least once
        words = [f"{key}={given[number % len(given)]}" for key, given in values.items()]
        cfg = compose(f"experiment={name}", *words)
    assert cfg.benchmark.n_experiences in {5, 20, 50, 100}
    assert cfg.optimizer.lr == 0.1


def test_gem_protocol_is_the_papers() -> None:
    for benchmark, samples in (("permuted_mnist", 1000), ("rotated_mnist", 1000), ("split_cifar100", 2500)):
        cfg = compose(f"experiment=gem_protocol/{benchmark}")
        assert cfg.names.benchmark == benchmark
        assert (cfg.benchmark.n_experiences, cfg.samples_per_experience) == (20, samples)
        assert (cfg.train_mb_size, cfg.train_epochs, cfg.optimizer.lr) == (10, 1, 0.1)
        assert (cfg.strategy.patterns_per_exp, cfg.strategy.memory_strength) == (256, 0.5)
