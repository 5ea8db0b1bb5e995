"""A command composes its configuration once, and is a sweep wherever Hydra makes it one."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from omegaconf import OmegaConf

from avalanche_mgem.experiment.configuration import config_folder

Mgem = Callable[..., Any]


@pytest.mark.parametrize("word", ["strategy=gem", "hydra.run.dir=run", "hydra/launcher=parallel"])
def test_a_command_composes_once(mgem: Mgem, monkeypatch: pytest.MonkeyPatch, word: str) -> None:
    composed = []
    load = ConfigLoaderImpl.load_configuration

    def counting(*arguments: Any, **options: Any) -> Any:
        composed.append(options)
        return load(*arguments, **options)

    monkeypatch.setattr(ConfigLoaderImpl, "load_configuration", counting)
    assert mgem("seed=x", word).err == "mgem: seed=x: it must be an integer, at least 0\n"
    assert len(composed) == 1


def test_no_file_of_the_package_makes_a_sweep() -> None:
    """Nor brings it in files that do: without words and files of the user's, it is one run."""
    for path in config_folder().rglob("*.yaml"):
        file = OmegaConf.load(path)
        assert OmegaConf.select(file, "hydra.mode") is None, path
        assert OmegaConf.select(file, "hydra.searchpath") is None, path


@pytest.mark.parametrize(
    "words",
    [
        ["hydra.mode=MULTIRUN"],
        ["hydra={mode:MULTIRUN}"],
        ["--config-dir", "mine", "experiment=mine"],
        ["hydra.searchpath=[file://mine]", "experiment=mine"],
    ],
    ids=lambda words: words[0],
)
def test_words_and_files_of_the_users_can_make_a_sweep(mgem: Mgem, tmp_path: Path, words: list[str]) -> None:
    (tmp_path / "mine/experiment").mkdir(parents=True)
    (tmp_path / "mine/experiment/mine.yaml").write_text("# @package _global_\nhydra:\n  mode: MULTIRUN\n")
    assert mgem("profile", *words).err == "mgem: profile measures one run; leave out --multirun\n"
