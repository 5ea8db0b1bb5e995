"""What is tried: for each key of the configuration some values, or a range."""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError  # type: ignore[import-untyped]

from avalanche_mgem.experiment.errors import allowed
from avalanche_mgem.runs import UserError, flatten, text

_FORMS = "[a,b,...], log(a,b), uniform(a,b) or int(a,b)"
TUNED_GROUPS = ("strategy", "model", "optimizer")
TUNED_KEYS = ("train_mb_size", "train_epochs")


@dataclass(frozen=True)
class Choices:
    """Some values, of which each may be chosen: ``[0,0.1,0.5]``.

    >>> str(parse("strategy.num_groups", "[1, 2, 4]"))
    '[1,2,4]'
    """

    values: tuple[Any, ...]

    def __str__(self) -> str:
        return text(list(self.values))

    def suggest(self, trial: Any, key: str) -> Any:
        """The value for a trial of Optuna."""
        return trial.suggest_categorical(key, list(self.values))

    def grid(self) -> list[Any]:
        """All values."""
        return list(self.values)

    @property
    def some(self) -> Any:
        """One of the values."""
        return self.values[0]


@dataclass(frozen=True)
class Range:
    """Numbers from low to high: ``log(0.003,0.3)``, ``uniform(0,1)`` or ``int(1,8)``.

    >>> str(parse("optimizer.lr", "log(0.003, 0.3)"))
    'log(0.003,0.3)'
    """

    kind: str
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.kind}({text(self.low)},{text(self.high)})"

    def suggest(self, trial: Any, key: str) -> Any:
        """The value for a trial of Optuna."""
        if self.kind == "int":
            return trial.suggest_int(key, int(self.low), int(self.high))
        return trial.suggest_float(key, self.low, self.high, log=self.kind == "log")

    def grid(self) -> list[Any] | None:
        """All values; None where there is no end of them."""
        return list(range(int(self.low), int(self.high) + 1)) if self.kind == "int" else None

    @property
    def some(self) -> Any:
        """One of the values."""
        return int(self.low) if self.kind == "int" else self.low


Space = Mapping[str, Choices | Range]
"""By the key of the configuration."""


def parse(key: str, value: Any) -> Choices | Range:
    """Reads what the user gives for a key.

    Args:
        key: of the configuration, for the error.
        value: a text as on the command line, or a list as in a file.

    Raises:
        UserError: naming the key and what is allowed.
    """
    where = f"tune.space.{key}={value if isinstance(value, str) else text(value)}"
    if isinstance(value, str) and value.strip().startswith("["):
        value = _list(where, value)
    if isinstance(value, list):
        return _choices(where, value)
    match = re.fullmatch(r"\s*(log|uniform|int)\s*\(([^(),]*),([^(),]*)\)\s*", str(value))
    if match is None:
        raise UserError(f"{where}: it must be {_FORMS}")
    return _range(where, match[1], match[2], match[3])


def _list(where: str, value: str) -> Any:
    try:  # as OmegaConf reads numbers: PyYAML takes 1e-05 for a text
        return OmegaConf.to_container(OmegaConf.create(f"values: {value}"))["values"]  # type: ignore[index,call-overload]
    except (YAMLError, OmegaConfBaseException) as error:
        raise UserError(f"{where}: it must be {_FORMS}") from error


def _choices(where: str, values: list[Any]) -> Choices:
    if not values:
        raise UserError(f"{where}: it must have at least one value")
    for value in values:
        if not (value is None or isinstance(value, bool | int | float | str)):
            raise UserError(f"{where}: each value must be a number, a word, true, false or null")
        if isinstance(value, float) and not math.isfinite(value):
            raise UserError(f"{where}: {value} is no finite number")
    if len({text(value) for value in values}) < len(values):
        raise UserError(f"{where}: a value is there twice")
    return Choices(tuple(values))


def _range(where: str, kind: str, low: str, high: str) -> Range:
    number = int if kind == "int" else float
    try:
        ends = number(low), number(high)
    except ValueError as error:
        what = "two integers" if kind == "int" else "two numbers"
        raise UserError(f"{where}: {kind}(a,b) takes {what}") from error
    if not (all(map(math.isfinite, ends)) and ends[0] < ends[1]):
        raise UserError(f"{where}: the first number must be below the second")
    if kind == "log" and ends[0] <= 0:
        raise UserError(f"{where}: log(a,b) takes numbers above 0")
    return Range(kind, *ends)


def tunable(cfg: DictConfig) -> dict[str, Any]:
    """The keys that can be tuned, with their values: those of a method, not those of the benchmark."""
    values: Any = OmegaConf.to_container(cfg, resolve=False)
    parts = {group: values[group] for group in TUNED_GROUPS} | {key: values[key] for key in TUNED_KEYS}
    return {key: value for key, value in flatten(parts).items() if not key.endswith("_target_")}


def check_keys(keys: Mapping[str, Any], known: Mapping[str, Any]) -> None:
    """Checks that each key can be tuned.

    Args:
        keys: of the space.
        known: the keys of all strategies that are tuned.

    Raises:
        UserError: naming the first that is not there, and the one that was probably meant.
    """
    for key in keys:
        if key in known:
            continue
        inner = [other for other in known if other.startswith(f"{key}.")]
        if inner:
            raise UserError(f"tune.space.{key}: it is a part; give a key in it: {', '.join(sorted(inner))}")
        raise UserError(f"tune.space.{key}: there is no such key to tune; {allowed(key, known)}")


def grid_size(space: Space, source: str = "") -> int:
    """The number of combinations.

    Args:
        space: what is tried.
        source: where a space comes from that the user has not given, for the error.

    Raises:
        UserError: naming a key that has no end of values.
    """
    size = 1
    for key, part in space.items():
        values = part.grid()
        if values is None:
            raise UserError(
                f"{source}tune.space.{key}={part}: tune.sampler=grid takes [a,b,...] and int(a,b) only"
            )
        size *= len(values)
    return size
