"""A configuration as it may be written down: without what it read from environment variables."""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.basecontainer import BaseContainer
from omegaconf.errors import OmegaConfBaseException

_SHORTEST = 4  # characters of a value that is hidden: a shorter one is no secret, and is part of many words


def written(cfg: DictConfig) -> dict[str, Any]:
    """The configuration as run folders and W&B get it.

    It is resolved, but a text that was made with ``${oc.env:NAME}`` stays as it was typed, because it may be
    a secret. A number, true, false and null are resolved: they are settings, by which runs are told apart.

    Args:
        cfg: the configuration; it stays as it is.

    Example:
        >>> cfg = OmegaConf.create({"a": "${oc.env:HOME}", "b": "${a}/x", "c": "${d}", "d": 1})
        >>> written(cfg)
        {'a': '${oc.env:HOME}', 'b': '${a}/x', 'c': 1, 'd': 1}
    """
    raw: Any = OmegaConf.to_container(cfg, resolve=False)
    with _watched() as values:
        result: dict[str, Any] = _part(cfg, raw, values)
    return result


def without_secrets(text: str, cfg: Any) -> str:
    """A message in which each value that the configuration reads from the environment is as it was typed.

    Args:
        text: the message.
        cfg: the configuration; parts of it that cannot be resolved are passed over.
    """
    if not isinstance(cfg, DictConfig):
        return text
    with _watched() as values:
        _resolve_all(cfg)
    # Not a default, which is in the configuration.
    known = [(name, value) for name, value in values if os.environ.get(name) == value]
    names = {value: name for name, value in known if len(value) >= _SHORTEST}
    if not names:
        return text
    pattern = "|".join(map(re.escape, sorted(names, key=len, reverse=True)))
    return re.sub(pattern, lambda match: f"${{oc.env:{names[match[0]]}}}", text)


@contextmanager
def _watched() -> Iterator[list[tuple[str, str]]]:
    """Names and values of the environment variables that are read through ``${oc.env:NAME}``, as they are."""
    read = BaseContainer._resolvers["oc.env"]
    values: list[tuple[str, str]] = []

    def env(config: Any, parent: Any, node: Any, args: tuple[Any, ...], args_str: tuple[str, ...]) -> Any:
        value = read(config, parent, node, args, args_str)
        values.append((str(args[0]), str(value)))
        return value

    BaseContainer._resolvers["oc.env"] = env
    try:
        yield values
    finally:
        BaseContainer._resolvers["oc.env"] = read


def _part(node: Any, raw: Any, values: list[tuple[str, str]]) -> Any:
    if isinstance(raw, dict):
        return {key: _value(node, key, inner, values) for key, inner in raw.items()}
    return [_value(node, place, inner, values) for place, inner in enumerate(raw)]


def _value(node: Any, key: Any, raw: Any, values: list[tuple[str, str]]) -> Any:
    if isinstance(raw, dict | list):
        return _part(node[key], raw, values)
    if not OmegaConf.is_interpolation(node, key):
        return raw
    before = len(values)
    value = node[key]
    if OmegaConf.is_config(value):
        value = OmegaConf.to_container(value, resolve=True)
    is_setting = value is None or isinstance(value, bool | int | float)
    return value if is_setting or len(values) == before else raw


def _resolve_all(node: Any) -> None:
    keys: Any = list(node) if isinstance(node, DictConfig) else range(len(node))
    for key in keys:
        try:
            value = node[key]
        except OmegaConfBaseException:
            continue
        if isinstance(value, DictConfig | ListConfig) and not OmegaConf.is_interpolation(node, key):
            _resolve_all(value)
