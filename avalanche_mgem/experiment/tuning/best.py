"""The best values of a study, as a file with which ``mgem`` runs them."""

import os
import re
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from omegaconf import DictConfig, OmegaConf

from avalanche_mgem.experiment.configuration import compose, search_path_word
from avalanche_mgem.experiment.tuning.settings import Words
from avalanche_mgem.experiment.tuning.trial import with_values
from avalanche_mgem.runs import UserError, write_whole

_UNTRIED = "untried"


def best_name(strategy: str, strategies: Sequence[str]) -> str:
    """What the best of a strategy is called: ``best``, or ``best_gem`` where there are several."""
    return "best" if len(strategies) == 1 else "best_" + re.sub(r"[^\w-]", "_", strategy)


def write_best(folder: Path, name: str, cfg: DictConfig, values: Mapping[str, Any], comment: str) -> None:
    """Writes ``strategy/NAME.yaml``: the whole strategy with its best values, and the others' keys.

    Args:
        folder: of the study.
        name: of the file.
        cfg: the configuration of the strategy, without these values.
        values: the best ones, by dotted keys.
        comment: a line for its head.
    """
    (folder / "strategy").mkdir(exist_ok=True)
    tuned = OmegaConf.to_container(with_values(cfg, values, cfg.seed).strategy, resolve=False)
    contents = OmegaConf.create({"strategy": tuned})
    for key, value in values.items():
        if not key.startswith("strategy."):
            OmegaConf.update(contents, key, value)
    text = f"# @package _global_\n# {comment}\n{OmegaConf.to_yaml(contents)}"
    write_whole(folder / "strategy" / f"{name}.yaml", text)


def check_carried(cfg: DictConfig, keys: Sequence[str], words: Words, config_dir: Path | None) -> None:
    """Checks that a file of best values would decide: a named experiment, or a word, may set the same key.

    Raises:
        UserError: naming the key.
    """
    with TemporaryDirectory() as folder:
        write_best(Path(folder), "best", cfg, dict.fromkeys(keys, _UNTRIED), "nothing yet")
        places = [folder] if config_dir is None else [folder, config_dir]
        composed = compose(search_path_word(*places), *_beside_the_file(words), "strategy=best")
    typed = {_key(word) for word in words.runs}
    for key in keys:
        if key in typed or OmegaConf.select(composed, key) != _UNTRIED:
            raise UserError(
                f"tune.space.{key}: the words of the command, or a named experiment in them, set {key} too; "
                "leave it out in one of the two"
            )


def next_command(folder: Path, names: Sequence[str], words: Words, config_dir: Path | None) -> str:
    """The command that runs the best values over five seeds, all in one sweep."""
    runs = [word for word in _beside_the_file(words) if _key(word) not in ("seed", "validation")]
    if config_dir is not None:
        runs.append(search_path_word(config_dir))
    quoted = " ".join(map(shlex.quote, runs))
    where = shlex.quote(os.path.relpath(folder))
    line = f"mgem -m --config-dir {where} strategy={','.join(names)} seed=0,1,2,3,4 {quoted}"
    return line.rstrip()


def _beside_the_file(words: Words) -> list[str]:
    """The words without those below ``strategy``, which the file of best values has in it.

    It is a strategy of its own: a key that a word adds is there already, and one that a word drops is not.
    """
    return [word for word in words.runs if not _key(word).startswith("strategy.")]


def _key(word: str) -> str:
    return word.lstrip("+~").partition("=")[0]
