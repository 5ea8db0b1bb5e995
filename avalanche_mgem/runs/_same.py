"""Whether a run folder holds the run that a configuration asks for."""

from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from avalanche_mgem.runs._errors import UserError
from avalanche_mgem.runs._files import CONFIG_FILE
from avalanche_mgem.runs._keys import ABSENT, flatten, makes_another_run, text


def check_same_run(folder: Path, cfg: DictConfig) -> None:
    """Checks that a complete run was made with this configuration, so that it need not be run again.

    Args:
        folder: of the complete run.
        cfg: what is asked for. What mgem reads off the benchmark (``inferred``) is taken from the folder.

    Raises:
        UserError: naming what differs.
    """
    saved = OmegaConf.load(folder / CONFIG_FILE)
    asked = cfg.copy()
    asked.inferred = OmegaConf.select(saved, "inferred")
    there, here = _texts(saved), _texts(asked)
    different = [
        f"{key} ({there.get(key, ABSENT)} there, {here.get(key, ABSENT)} here)"
        for key in sorted(there | here)
        if there.get(key, ABSENT) != here.get(key, ABSENT)
    ]
    if different:
        raise UserError(
            f"the folder {folder} holds a run with another {', '.join(different)}; nothing is overwritten: "
            "give another hydra.sweep.dir"
        )


def _texts(cfg: Any) -> dict[str, str]:
    values: Any = OmegaConf.to_container(cfg, resolve=True)
    return {key: text(value) for key, value in flatten(values).items() if makes_another_run(key)}
