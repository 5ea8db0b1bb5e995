"""Checks of the configuration's values, before any work is done."""

import inspect
from pathlib import Path
from types import UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

import torch
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from avalanche_mgem.experiment.errors import one_line
from avalanche_mgem.runs import UserError

GROUPS = ("benchmark", "strategy", "model", "optimizer")

# The smallest allowed value, and whether null is allowed.
_INTEGERS = {
    "seed": (0, False),
    "samples_per_experience": (1, True),
    "test_samples_per_experience": (1, True),
    "train_mb_size": (1, False),
    "train_epochs": (1, False),
    "eval_mb_size": (1, False),
    "gap_patterns_per_exp": (1, True),
    "gap_every": (1, False),
}
_SCALARS: set[Any] = {int, float, bool, str}
# What build() gets as an object, and the user sets at the top level or as a group.
_OUTSIDE = {*_INTEGERS, *GROUPS, "device"}


def check_settings(cfg: DictConfig) -> None:
    """Checks the top-level values. Fills in the device for ``auto``, the data's full path, and missing names.

    Raises:
        UserError: naming the key, its value and what is allowed.
    """
    if missing := [key for key in (*_INTEGERS, *GROUPS, "names") if key not in cfg]:
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
    if not isinstance(cfg.channels_last, bool):
        raise UserError(f"channels_last={cfg.channels_last}: it must be true or false")
    for group in GROUPS:
        if not isinstance(OmegaConf.select(cfg, f"{group}._target_"), str):
            raise UserError(f"{group} needs a _target_, the import path of a class or function")
    for group, name in cfg.names.items():
        cfg.names[group] = name or cfg[group]._target_.rpartition(".")[2]  # by _target_ alone
    if not isinstance(cfg.dataset_root, str):
        raise UserError(f"dataset_root={cfg.dataset_root}: it must be a folder")
    cfg.device = _device(str(cfg.device))
    cfg.dataset_root = str(Path(cfg.dataset_root).expanduser())


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
        reason = error.__cause__ or error
        raise UserError(f"{group}: {one_line(reason)}") from error
    _check_types(group, factory.func, factory.keywords)
    if twice := sorted(objects.keys() & factory.keywords):
        key = twice[0]
        advice = f", and set the {key} outside of {group}" if key in _OUTSIDE else ""
        raise UserError(f"{group}.{key}: mgem gives {key} itself; drop it{advice}")
    try:
        made = factory(**objects)
    except (TypeError, ValueError, RuntimeError, AssertionError, OSError) as error:
        raise UserError(f"{group} ({node._target_}): {one_line(error)}") from error
    if not isinstance(made, kind):
        gives = f"it gives a {type(made).__name__}; allowed is {kind.__name__}"
        raise UserError(f"{group} ({node._target_}): {gives}")
    return made


def _check_types(group: str, target: Any, values: dict[str, Any]) -> None:
    """Refuses values such as ``strategy.mem_size=abc``: most classes notice them late and not clearly."""
    function = target.__init__ if inspect.isclass(target) else target
    try:
        hints = get_type_hints(inspect.unwrap(function))
    except (NameError, TypeError):  # annotations that only a type checker can read
        return
    for key, value in values.items():
        hint = hints.get(key)
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
