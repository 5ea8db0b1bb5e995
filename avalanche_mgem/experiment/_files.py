"""The configuration files of the package: where they are, and the keys that they have."""

from functools import cache
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf


def config_folder() -> Path:
    """The configuration: inside the installed package, or beside it in a source tree."""
    package = Path(__file__).resolve().parents[1]
    inside = package / "configs"
    return inside if inside.is_dir() else package.parent / "configs"


def options_below(group: str) -> list[str]:
    """The options of a group, with those of the groups in it; none if there is no such group."""
    folder = config_folder() / group
    return [path.relative_to(folder).with_suffix("").as_posix() for path in folder.rglob("*.yaml")]


@cache
def defaults() -> dict[str, Any]:
    """The keys of ``config.yaml`` with their values as typed; a group's value is the name of its option."""
    file: Any = OmegaConf.to_container(OmegaConf.load(config_folder() / "config.yaml"))
    groups = {
        key: value for entry in file.pop("defaults") if entry != "_self_" for key, value in entry.items()
    }
    # A named experiment has no key: it changes the others. Hydra's own part is not of the run.
    return {
        key: value
        for key, value in {**groups, **file}.items()
        if not key.startswith("override ") and key not in ("experiment", "hydra")
    }
