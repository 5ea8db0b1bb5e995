"""Whether a run folder holds the run that a configuration asks for."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from avalanche_mgem.runs._errors import UserError
from avalanche_mgem.runs._files import CONFIG_FILE
from avalanche_mgem.runs._keys import ABSENT, flatten, makes_another_run, text, without_added
from avalanche_mgem.runs._read import read_config
from avalanche_mgem.runs._written import written


def check_same_run(folder: Path, cfg: DictConfig, *, way_out: str = "give another hydra.sweep.dir") -> None:
    """Checks that a complete run was made with this configuration, so that it need not be run again.

    Args:
        folder: of the complete run.
        cfg: what is asked for. What mgem reads off the benchmark (``inferred``) is taken from the folder.
        way_out: what the error advises.

    Raises:
        UserError: naming what differs, or the file that cannot be read.
    """
    saved = read_config(folder / CONFIG_FILE)
    asked = cfg.copy()
    asked.inferred = saved.get("inferred")
    if different := differences(saved, asked):
        raise UserError(
            f"the folder {folder} holds a run with another {', '.join(different)}; nothing is overwritten: "
            f"{way_out}"
        )


def differences(saved: Mapping[str, Any], asked: DictConfig) -> list[str]:
    """The keys, with both values, by which a configuration is not that of a run.

    Args:
        saved: the configuration of the run, as it was written.
        asked: the other one.
    """
    there, here = _texts(saved), _texts(written(asked))
    # A folder of an older version has what a variable of the environment held.
    resolved = _texts(OmegaConf.to_container(asked, resolve=True))
    same = {key: value for key, value in there.items() if value == resolved.get(key)}
    return differing_keys(there, here | same)


def differing_keys(there: Mapping[str, str], here: Mapping[str, str]) -> list[str]:
    """The keys of two mappings that are not the same in both, each with its two values.

    >>> differing_keys({"seed": "0", "lr": "0.1"}, {"seed": "1", "lr": "0.1", "momentum": "0.9"})
    ['momentum (absent there, 0.9 here)', 'seed (0 there, 1 here)']
    """
    pairs = [
        (key, there.get(key, ABSENT), here.get(key, ABSENT)) for key in sorted(there.keys() | here.keys())
    ]
    return [f"{key} ({a} there, {b} here)" for key, a, b in pairs if a != b]


def _texts(config: Any) -> dict[str, str]:
    values = without_added(flatten(config))
    return {key: text(value) for key, value in values.items() if makes_another_run(key)}
