"""What is no key of a configuration, and no word of a command line, is refused with what was meant."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from omegaconf import DictConfig, OmegaConf, open_dict

from avalanche_mgem.experiment import UserError, compose, run
from avalanche_mgem.experiment._files import config_folder, defaults, options_below
from avalanche_mgem.experiment._words import arranged
from avalanche_mgem.experiment.configuration import check_composed, check_keys

Mgem = Callable[..., Any]

# One word, and a part of what is said to it.
UNKNOWN = {
    "memory_strength=0.5": "there is no key 'memory_strength'; did you mean strategy.memory_strength?",
    "+memory_strength=0.5": "there is no key 'memory_strength'; did you mean strategy.memory_strength?",
    "++lr=0.01": "there is no key 'lr'; did you mean optimizer.lr?",
    "lr=0.01": "there is no key 'lr'; did you mean optimizer.lr?",
    "strategy.lr=1": "there is no key 'strategy.lr'; did you mean optimizer.lr?",
    "strategy.train_epochs=2": "did you mean train_epochs?",
    "n_experiences=3": "did you mean benchmark.n_experiences?",  # and not the inferred one
    "num_classes=3": "did you mean model.num_classes?",
    "+sed=1": "there is no key 'sed'; did you mean 'seed'? allowed are benchmark, ",
    "+token.mine=1": "there is no key 'token'; allowed are benchmark, ",
    "+experiment.x=1": "must begin with # @package _global_",
    "optimizer.nesterov=true": "(+optimizer.nesterov=... gives torch.optim.SGD one more argument)",
    "strategy.seed.x=1": "there is no key 'strategy.seed.x': strategy.seed is a value",
    "logger.csv.x=1": "no logger is chosen: give logger=NAME too; allowed are csv, ",
    "logger=[cvs]": "no logger is called 'cvs'; did you mean 'csv'?",
    "inferred.num_classes=3": "inferred: the command fills it in",
    "+inferred.mine=3": "there is no key 'inferred.mine'",
    "output_dir=here": "output_dir: the command fills it in",
    "~nothing": "there is no key 'nothing' to drop; allowed are benchmark, ",
    "~strategy.nothing": "there is no key 'strategy.nothing' to drop",
    "~seed=5": "seed is 0 and not 5, so it is not dropped; ~seed drops it",
    "+seed=5": "there is a key seed already; write seed=5",
    "+model=mlp": "there is a model already; write model=NAME without +",
    "seed=1,2": "seed=1,2 has several values; mgem -m makes a run for each, and 'seed=[1,2]' is a list",
    "strategy=gem,dmgem": "strategy=gem,dmgem has several values; mgem -m makes a run for each",
    "strategy=[gem,dmgem]": "a run has one strategy; mgem -m strategy=gem,dmgem makes a run for each",
    "strategy= [gem, [dmgem]]": "a run has one strategy; mgem -m strategy=gem,dmgem makes a run for each",
    "strategy=[]": "strategy=[]: a run has one strategy",
    "model=[mlp]": "model=[mlp]: a run has one model; mgem -m model=mlp makes",
    "seed==3": "cannot read 'seed==3'",
    "help": "cannot read 'help': a change is KEY=VALUE, such as seed=3",
    "-m": "cannot read '-m': a change is KEY=VALUE",
}


@pytest.mark.parametrize("word", UNKNOWN)
def test_a_word_is_refused_with_what_was_meant(word: str) -> None:
    with pytest.raises(UserError, match=re.escape(UNKNOWN[word])) as error:
        compose(word)
    assert "\n" not in str(error.value)
    assert "hydra.cc" not in str(error.value)


def test_the_known_keys_are_those_of_the_composition() -> None:
    cfg = compose("logger=csv")
    assert set(cfg) == set(defaults())
    check_composed(cfg)
    assert set(options_below("logger")) == {"csv", "tensorboard", "text", "wandb"}


def with_key(key: str, value: Any, *words: str) -> DictConfig:
    cfg = compose(*words)
    with open_dict(cfg):
        OmegaConf.update(cfg, key, value)
    return cfg


def test_a_configuration_in_python_has_no_unknown_key_either() -> None:
    said = "there is no key 'memory_strength'; did you mean strategy.memory_strength?"
    cfg = with_key("memory_strength", 0.5)
    for config in (cfg, OmegaConf.to_container(cfg), ["+memory_strength=0.5"]):
        with pytest.raises(UserError, match=re.escape(said)):
            run(config)
    # What a run has left in its folder is filled in already.
    check_keys(with_key("inferred.num_classes", 10))
    with pytest.raises(UserError, match="the configuration has no channels_last"):
        run(["~channels_last"])


@pytest.mark.parametrize(
    ("file", "text", "words"),
    [
        ("strategy/mine.yaml", "# @package _global_\nmemory_strength: 1\n", ["strategy=mine"]),
        ("experiment/mine.yaml", "# @package _global_\nmemory_strength: 1\n", ["experiment=mine"]),
        ("experiment/mine.yaml", "seed: 1\n", ["experiment=mine"]),
        ("mine/a.yaml", "x: 1\n", ["+mine=a"]),
    ],
)
def test_files_of_the_users_have_no_unknown_key_either(
    tmp_path: Path, file: str, text: str, words: list[str]
) -> None:
    (tmp_path / file).parent.mkdir()
    (tmp_path / file).write_text(text)
    said = r"there is no key '(memory_strength|mine)'|must begin with # @package _global_"
    with pytest.raises(UserError, match=said):
        compose(*words, config_dir=tmp_path)


def test_a_sweep_with_an_unknown_key_makes_no_run(mgem: Mgem, tmp_path: Path) -> None:
    result = mgem("-m", "+memory_strength=0,1", "strategy=naive", "hydra.sweep.dir=sweep")
    said = "mgem: there is no key 'memory_strength'; allowed are"
    assert (result.status, result.out) == (2, "")
    assert re.fullmatch(f"{said}[^\n]+\n", result.err)
    assert [path.name for path in (tmp_path / "sweep").iterdir()] == ["multirun.yaml"]


def test_options_may_stand_between_the_words() -> None:
    words = ["-m", "a=b", "--config-dir", "c=d", "c=d", "--cfg", "job", "e=f"]
    assert arranged(words, ()) == ["-m", "a=b", "c=d", "e=f", "--config-dir", "c=d", "--cfg", "job"]
    assert arranged(["a=1", "~b", "-m", "a=1"], ()) == ["a=1", "~b", "a=1", "-m"]
    assert arranged([], ()) == []


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["-x"], r"there is no option '-x'; allowed are --cfg, "),
        (["seed=1", "--mulirun"], r"there is no option '--mulirun'; did you mean '--multirun'\? "),
        (["--seed", "3"], r"there is no option '--seed'; "),
        (["--cfg", "jo"], r"argument --cfg/-c: invalid choice: 'jo'"),
        (["--config-dir"], r"argument --config-dir/-cd: expected one argument"),
        (
            ["help"],
            r"cannot read 'help': a change is KEY=VALUE.*; else did you mean '--help'\?",
        ),
        (["profil"], r"cannot read 'profil': .*did you mean 'profile'\?"),
        (["-m", "a=1", "--cfg", "job", "b"], r"cannot read 'b': a change is KEY=VALUE"),
        (["=3"], r"cannot read '=3'"),
    ],
)
def test_a_command_line_that_cannot_be_read(words: list[str], said: str) -> None:
    with pytest.raises(UserError, match=f"^{said}") as error:
        arranged(words, ["profile"])
    assert "\n" not in str(error.value)


def test_the_command_says_so_in_one_line(mgem: Mgem) -> None:
    for words in (["--mulirun"], ["help"], ["profile", "-x"]):
        result = mgem(*words)
        assert (result.status, result.out) == (2, "")
        assert re.fullmatch(r"mgem: [^\n]+\n", result.err)


def test_every_group_of_the_package_has_options() -> None:
    groups = {path.name for path in config_folder().iterdir() if path.is_dir()} - {"hydra"}
    assert all(options_below(group) for group in groups)
