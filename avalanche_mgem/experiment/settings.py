"""Checks of the configuration's values, before any work is done."""

import inspect
import math
import re
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from types import UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

import torch
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from avalanche_mgem.experiment._files import defaults
from avalanche_mgem.experiment._limits import check_limits
from avalanche_mgem.experiment._own_classes import not_found
from avalanche_mgem.experiment.configuration import check_keys
from avalanche_mgem.experiment.errors import allowed
from avalanche_mgem.runs import GROUPS, UserError, flatten, one_line, text

# The smallest allowed value, and whether null is allowed.
_INTEGERS = {
    "seed": (0, False),
    "samples_per_experience": (1, True),
    "test_samples_per_experience": (1, True),
    "train_mb_size": (1, False),
    "train_epochs": (1, False),
    "eval_mb_size": (1, False),
    "eval_keep_mib": (0, False),
    "gap_patterns_per_exp": (1, True),
    "gap_every": (1, False),
    "log_every": (1, True),
}
_SCALARS: set[Any] = {int, float, bool, str}
# What build() gets as an object, and the user sets at the top level or as a group.
_OUTSIDE = {*_INTEGERS, *GROUPS, "device"}


def check_settings(cfg: DictConfig) -> None:
    """Checks the top-level values. Fills in the device for ``auto``, the data's full path, and missing names.

    Raises:
        UserError: naming the key, its value and what is allowed.
    """
    check_keys(cfg)
    if missing := [key for key in defaults() if key not in cfg and key != "logger"]:
        raise UserError(f"the configuration has no {missing[0]}; begin with what compose() gives")
    for key, (minimum, nullable) in _INTEGERS.items():
        value = cfg[key]
        if nullable and value is None:
            continue
        if not isinstance(value, int) or isinstance(value, bool) or value < minimum:
            also = " or null" if nullable else ""
            raise UserError(f"{key}={value}: it must be an integer, at least {minimum}{also}")
    if cfg.seed >= 2**32:
        raise UserError(f"seed={cfg.seed}: it must be less than 2**32, for NumPy's generator")
    _check_numbers(cfg)
    value = cfg.get("validation")
    if value is not None and not (isinstance(value, float) and 0 < value < 1):
        raise UserError(f"validation={value}: it must be a fraction above 0 and below 1, or null")
    for key in ("channels_last", "checkpoint", "progress", "save_model"):
        if not isinstance(cfg[key], bool):
            raise UserError(f"{key}={cfg[key]}: it must be true or false")
    for group in GROUPS:
        if not isinstance(OmegaConf.select(cfg, f"{group}._target_"), str):
            raise UserError(
                f"{group} needs a _target_, the import path of a class or function: "
                f"{group}._target_=my_package.MyClass"
            )
    _check_names(cfg)
    if not isinstance(cfg.dataset_root, str) or not cfg.dataset_root:
        raise UserError(f"dataset_root={cfg.dataset_root}: it must be a folder")
    # Values that stay the same are left as they were typed: they may come from the environment.
    if (device := _device(str(cfg.device))) != cfg.device:
        cfg.device = device
    if cfg.dataset_root.startswith("~"):
        cfg.dataset_root = str(Path(cfg.dataset_root).expanduser())


def _check_numbers(cfg: DictConfig) -> None:
    """Refuses NaN for every key: it passes comparisons, and then nothing is learnt."""
    values: Any = OmegaConf.to_container(cfg, resolve=False)
    for key, value in flatten(values).items():
        if isinstance(value, float) and math.isnan(value):
            raise UserError(f"{key}={value}: it must be a number")


def _check_names(cfg: DictConfig) -> None:
    """Checks the names of strategy and benchmark; one that is absent is that of the class."""
    if not isinstance(cfg.names, DictConfig):
        raise UserError(f"names={cfg.names}: it must have a name for each of strategy and benchmark")
    for group, name in cfg.names.items():
        if group not in GROUPS or not (name is None or isinstance(name, str | int | float)):
            raise UserError(f"names.{group!s}={name}: it must be the name of a {group!s}")
        if not name:
            cfg.names[group] = cfg[group]._target_.rpartition(".")[2]  # by _target_ alone


def _device(name: str) -> str:
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError) as error:  # unknown name, or a device that this machine lacks
        # The rest of torch's message advises on internals.
        reason = one_line(str(error).partition("\n")[0].partition(". ")[0])
        raise UserError(
            f"device={name}: {reason}; allowed are auto, cpu, and cuda or mps where present"
        ) from error
    return name


def build(group: str, node: DictConfig, kind: type, **objects: Any) -> Any:
    """Calls the ``_target_`` of a group with its values and with the objects that the command provides.

    Raises:
        UserError: if the target cannot be imported, does not take the values, or gives no ``kind``.
    """
    try:
        factory = instantiate(node, _partial_=True, _convert_="all")
    except InstantiationException as error:
        raise UserError(not_found(group, node._target_, error)) from error
    _check_arguments(group, node._target_, factory, objects)
    _check_types(group, factory.func, factory.keywords)
    check_limits(group, node._target_, factory.keywords)
    if twice := sorted(objects.keys() & factory.keywords):
        key = twice[0]
        advice = f", and set the {key} outside of {group}" if key in _OUTSIDE else ""
        raise UserError(f"{group}.{key}: mgem gives {key} itself; drop it{advice}")
    try:
        made = factory(**objects)
    except Exception as error:  # of any class, and caused by the values that the user gave it
        raise UserError(blame(group, node._target_, factory.keywords, error)) from error
    if not isinstance(made, kind):
        gives = f"it gives a {type(made).__name__}; allowed is {kind.__name__}"
        raise UserError(f"{group} ({node._target_}): {gives}")
    return made


def blame(group: str, target: str, values: Mapping[str, Any], error: Exception) -> str:
    """The error of a class in one line that names the key to put right, or all that it may be.

    Args:
        group: the part of the configuration.
        target: the class or function.
        values: what the user gave it.
        error: what it raised.
    """
    message = one_line(error)
    if not isinstance(error, ValueError | TypeError | RuntimeError | AssertionError | OSError):
        message = f"{type(error).__name__}: {message}"  # such as KeyError: 'x'
    line = f"{group} ({target}): {message}"
    if any(re.search(rf"\b{re.escape(key)}", message) for key in values):
        return line
    given = ", ".join(f"{group}.{key}={text(value)}" for key, value in values.items())
    return f"{line} ({given})" if given else line


def _check_arguments(group: str, target: str, factory: "partial[Any]", objects: Mapping[str, Any]) -> None:
    """Refuses keys that the class does not take, and a class that does not take what mgem gives it."""
    try:
        parameters = inspect.signature(factory.func).parameters
    except (ValueError, TypeError):  # of a class that is written in C
        return
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()):
        return
    if unknown := [key for key in factory.keywords if key not in parameters]:
        key, *others = unknown
        line = f"{group}.{key}={text(factory.keywords[key])}: {target} takes no {key!r}"
        if others:
            line += f", and none of {', '.join(others)}; {group}=custom begins without arguments"
        raise UserError(f"{line}; {allowed(key, parameters.keys() - objects.keys())}")
    if lacking := sorted(objects.keys() - parameters.keys()):
        raise UserError(f"{group} ({target}): it must take {', '.join(lacking)} too, which mgem gives it")


def _check_types(group: str, target: Any, values: dict[str, Any]) -> None:
    """Refuses values such as ``strategy.mem_size=abc``: most classes notice them late and not clearly."""
    function = inspect.unwrap(target.__init__ if inspect.isclass(target) else target)
    try:
        hints = get_type_hints(function)
    except (NameError, TypeError):  # annotations that only a type checker can read
        hints = {}
    for key, value in values.items():
        hint = hints.get(key)
        if hint is None and _is_no_number(function, key, value):
            raise UserError(f"{group}.{key}={value}: it must be a number")
        members = set(get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,))
        scalars = members & _SCALARS | ({int} if float in members else set())
        if not scalars or type(value) in scalars | {type(None)} & members:
            continue
        # Where other types are allowed too, such as a list in place of a number, only a text is surely wrong.
        if isinstance(value, str) or members <= _SCALARS | {type(None)}:
            others = [get_origin(kind) or kind for kind in members - scalars - {type(None)}]
            names = sorted(kind.__name__ for kind in scalars) + sorted(kind.__name__ for kind in others)
            expected = " or ".join(names)
            raise UserError(f"{group}.{key}={value}: it must be of type {expected}")


def _is_no_number(function: Any, key: str, value: Any) -> bool:
    """Whether an argument without a type, whose default is a number, is given what cannot be one."""
    try:
        parameter = inspect.signature(function).parameters.get(key)
    except (ValueError, TypeError):
        return False
    default = None if parameter is None else parameter.default
    return type(default) in (int, float) and isinstance(value, str | list | dict)
