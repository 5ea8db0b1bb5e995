"""What the configuration files of the package make of a user's words."""

import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from hashlib import sha1
from pathlib import Path
from typing import Any

from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.version import VersionBase
from omegaconf import DictConfig, ListConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError  # type: ignore[import-untyped]

from avalanche_mgem.experiment._files import config_folder, defaults
from avalanche_mgem.experiment._own_classes import look_in
from avalanche_mgem.experiment._words import check_changes
from avalanche_mgem.experiment.errors import explain, no_key
from avalanche_mgem.runs import GROUPS, UserError, makes_another_run

_LONGEST_NAME = 120  # of a folder: most file systems allow 255 bytes
_OWN = "custom"  # the option of a group for a class of the user's own
_FILLED_IN = ("inferred", "output_dir")  # by the command alone


def compose(*overrides: str, config_dir: str | os.PathLike[str] | None = None) -> DictConfig:
    """The configuration that the command ``mgem`` makes of the same words.

    Args:
        overrides: such as ``"strategy=gem"``, ``"seed=3"``.
        config_dir: a folder of your own configuration files, as the command's ``--config-dir``. Classes in
            Python files there are found too: it becomes the last folder in which this process looks for
            modules.

    Returns:
        The configuration of one run.

    Raises:
        avalanche_mgem.experiment.UserError: in one line, for what does not exist or cannot be read.

    Example:
        >>> cfg = compose("strategy=gem", "strategy.memory_strength=0.25")
        >>> cfg.strategy.memory_strength, cfg.names.strategy
        (0.25, 'gem')
    """
    check_changes(overrides)
    search_path = [] if config_dir is None else [search_path_word(config_dir)]
    register()
    try:
        with (
            hydra_of_the_caller_kept(),
            initialize_config_dir(version_base="1.3", config_dir=str(config_folder())),
        ):
            cfg = hydra_compose("config", overrides=[*search_path, *overrides], return_hydra_config=True)
    except UnicodeDecodeError as error:
        raise UserError(f"a configuration file: {explain(error)}") from error
    except (HydraException, OmegaConfBaseException, YAMLError, ValueError) as error:
        raise UserError(explain(error)) from error
    check_composed(cfg)
    _name(cfg)
    with open_dict(cfg):
        del cfg["hydra"]
    if config_dir is not None:
        look_in(Path(config_dir).absolute())
    return cfg


def _name(cfg: DictConfig) -> None:
    """Fills in the names that the options give; one that the user gave stays as it was typed."""
    typed: Any = OmegaConf.to_container(cfg)
    for group, name in defaults()["names"].items():
        if isinstance(typed["names"], dict) and typed["names"].get(group) == name:
            with resolving_hydra(cfg):
                resolved = cfg.names[group]
            cfg.names[group] = resolved


def check_composed(cfg: DictConfig) -> None:
    """Checks the keys of a configuration that was just composed.

    Raises:
        UserError: for a key that does not exist, and for one that the command fills in.
    """
    check_keys(cfg)
    typed: Any = OmegaConf.to_container(cfg)
    for key in _FILLED_IN:
        if typed.get(key) != defaults()[key]:
            raise UserError(f"{key}: the command fills it in; nothing is to be set here")


def check_keys(cfg: DictConfig) -> None:
    """Refuses keys that nothing reads. Those of a group are its class's arguments, which are checked later.

    Raises:
        UserError: for a key that does not exist, with the one that was probably meant.
    """
    if "experiment" in cfg:
        raise UserError("experiment: the file of a named experiment must begin with # @package _global_")
    for key in map(str, cfg):
        if key not in (*defaults(), "hydra"):
            raise UserError(_no_top_key(cfg, key))
    inferred = cfg.get("inferred")
    for key in map(str, inferred) if isinstance(inferred, DictConfig) else ():
        if key not in defaults()["inferred"]:
            raise UserError(no_key(cfg, f"inferred.{key}"))


def _no_top_key(cfg: DictConfig, key: str) -> str:
    known = cfg.copy()
    with open_dict(known):
        for other in map(str, cfg):
            if other not in defaults():
                del known[other]
    return no_key(known, key)


@contextmanager
def resolving_hydra(cfg: DictConfig) -> Iterator[None]:
    """Lets a whole configuration refer to Hydra's own part, as in the names of folders."""
    hydra_config = HydraConfig.instance()
    before = hydra_config.cfg
    hydra_config.set_config(cfg)
    try:
        yield
    finally:
        hydra_config.cfg = before


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


def search_path_word(*folders: str | os.PathLike[str]) -> str:
    """The word with which Hydra looks into folders of the user's own files, too."""
    for folder in folders:
        if not Path(folder).is_dir():
            raise UserError(f"config_dir={folder}: there is no such folder")
    # Not as_uri(): Hydra takes the path as it is, without decoding blanks.
    places = ",".join(quoted(f"file://{Path(folder).resolve()}") for folder in folders)
    return f"hydra.searchpath=[{places}]"


def quoted(value: str) -> str:
    """A text as a value in Hydra's grammar, whatever is in it."""
    escaped = value.replace("\\", "\\\\").replace("'", "\\'")
    return f"'{escaped}'"


def register() -> None:
    """Makes known what our configuration files need, in every process that reads one."""
    # An option without arguments of ours, to which any can be added: a file cannot say that.
    for group in GROUPS:
        node = OmegaConf.create({"_target_": "???"}, flags={"struct": False})
        ConfigStore.instance().store(group=group, name=_OWN, node=node)
    OmegaConf.register_new_resolver("own_name", _own_name, replace=True)
    OmegaConf.register_new_resolver("run_options", _run_options, replace=True)
    OmegaConf.register_new_resolver("in_name", _in_name, replace=True)
    OmegaConf.register_new_resolver("times", _times, replace=True)


def _own_name(group: str, *, _root_: Any) -> str | None:
    """The name of an option in tables and folders; that of the class where the user has chosen one."""
    choice = HydraConfig.get().runtime.choices.get(group)
    words: Any = OmegaConf.to_container(HydraConfig.get().overrides.task)  # as they were typed
    has_chosen = any(word.lstrip("+").startswith(f"{group}._target_=") for word in words)
    if not (choice == _OWN or has_chosen):
        return choice
    node = OmegaConf.select(_root_, group)
    # As it was typed: the name is in names of folders, which show nothing of the environment.
    typed: Any = OmegaConf.to_container(node) if isinstance(node, DictConfig) else {}
    target = typed.get("_target_")
    is_path = isinstance(target, str) and target not in ("", "???") and "${" not in target
    return target.rpartition(".")[2] if is_path else choice


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
