"""The configuration files of the package: where they are, and what they make of a user's words."""

import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from hashlib import sha1
from pathlib import Path
from typing import Any

from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.version import VersionBase
from omegaconf import DictConfig, ListConfig, OmegaConf, open_dict

from avalanche_mgem.runs import makes_another_run

_LONGEST_NAME = 120  # of a folder: most file systems allow 255 bytes


def config_folder() -> Path:
    """The configuration: inside the installed package, or beside it in a source tree."""
    package = Path(__file__).resolve().parents[1]
    inside = package / "configs"
    return inside if inside.is_dir() else package.parent / "configs"


def compose(*overrides: str, config_dir: str | os.PathLike[str] | None = None) -> DictConfig:
    """The configuration that the command ``mgem`` makes of the same words.

    Args:
        overrides: such as ``"strategy=gem"``, ``"seed=3"``.
        config_dir: a folder of your own configuration files, as the command's ``--config-dir``.

    Returns:
        The configuration of one run.

    Raises:
        hydra.errors.HydraException: for groups and keys that do not exist.
        NotADirectoryError: if ``config_dir`` is no folder.

    Example:
        >>> cfg = compose("strategy=gem", "strategy.memory_strength=0.25")
        >>> cfg.strategy.memory_strength, cfg.names.strategy
        (0.25, 'gem')
    """
    search_path = [] if config_dir is None else [search_path_word(config_dir)]
    register_resolvers()
    with (
        hydra_of_the_caller_kept(),
        initialize_config_dir(version_base="1.3", config_dir=str(config_folder())),
    ):
        cfg = hydra_compose("config", overrides=[*search_path, *overrides], return_hydra_config=True)
    names = {group: cfg.hydra.runtime.choices.get(group) for group in cfg.names}
    with open_dict(cfg):
        del cfg["hydra"]
    cfg.names = names
    return cfg


@contextmanager
def hydra_of_the_caller_kept() -> Iterator[None]:
    """Takes the Hydra of this process away, and puts it back: the caller's program may be made with it."""
    mine, version = GlobalHydra.instance(), VersionBase.instance()
    hydra, base = mine.hydra, version.getbase()
    mine.clear()
    try:
        yield
    finally:
        mine.hydra, version.version_base = hydra, base
        GlobalHydra.set_instance(mine)  # a composition leaves a copy


def search_path_word(folder: str | os.PathLike[str]) -> str:
    """The word with which Hydra looks into a folder of the user's own files, too."""
    if not Path(folder).is_dir():
        raise NotADirectoryError(f"config_dir={folder}: there is no such folder")
    # Not as_uri(): Hydra takes the path as it is, without decoding blanks.
    return f"hydra.searchpath=[{quoted(f'file://{Path(folder).resolve()}')}]"


def quoted(value: str) -> str:
    """A text as a value in Hydra's grammar, whatever is in it."""
    escaped = value.replace("\\", "\\\\").replace("'", "\\'")
    return f"'{escaped}'"


def register_resolvers() -> None:
    """Makes the functions of our configuration files known, in every process that reads one."""
    OmegaConf.register_new_resolver("run_options", _run_options, replace=True)
    OmegaConf.register_new_resolver("in_name", _in_name, replace=True)
    OmegaConf.register_new_resolver("times", _times, replace=True)


def _times(factor: int, number: int | None) -> int | None:
    """A product; null while the number is not known, as that of experiences before the benchmark is built."""
    return None if number is None else factor * number


def _run_options(overrides: Sequence[str]) -> str:
    """The part of a run folder's name that says what the user asked for.

    It follows from the options alone, not from their place in the sweep: a sweep with more seeds finds the
    runs of the one before. Options that make no other run are not in it.

    Args:
        overrides: such as ``["strategy=gem", "strategy.memory_strength=0.5"]``.
    """
    # As they were typed: the words of Hydra's list resolve what they read from the environment.
    words: Any = OmegaConf.to_container(overrides) if isinstance(overrides, ListConfig) else overrides
    options = sorted(word for word in words if _is_in_name(word.partition("=")[0].lstrip("+~")))
    name = _in_name(",".join(options))
    return f"{name}-" if name else ""


def _in_name(value: object) -> str:
    """A value as a part of a folder's name: no separators, and not long."""
    wanted = str(value)
    name = re.sub(r"[^\w.,=+-]", "_", wanted)
    if name != wanted or len(name) > _LONGEST_NAME:
        name = f"{name[:_LONGEST_NAME]}-{sha1(wanted.encode()).hexdigest()[:8]}"
    return name


def _is_in_name(key: str) -> bool:
    """Whether a run folder's name needs the key: the name begins with benchmark, strategy and seed anyway."""
    return makes_another_run(key) and key not in ("benchmark", "strategy", "seed", "experiment")
