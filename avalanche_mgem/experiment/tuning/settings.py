"""The words of ``mgem tune``, and the settings that they give."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import OmegaConf

from avalanche_mgem.experiment._files import config_folder
from avalanche_mgem.experiment._words import check_no_run_folder
from avalanche_mgem.experiment.errors import allowed
from avalanche_mgem.experiment.tuning.space import TUNED_GROUPS, TUNED_KEYS
from avalanche_mgem.runs import UserError, flatten

SAMPLERS = ("tpe", "random", "grid")
_SPACE = "tune.space."


class Words(NamedTuple):
    """The user's words: those that only ``mgem tune`` knows, and those of each run.

    Attributes:
        own: ``tune.*``, and the strategies where there are several. Hydra could not read ``log(0.003,0.3)``.
        strategies: their names; empty if none is given.
        runs: all others.
    """

    own: list[str]
    strategies: list[str]
    runs: list[str]


def split_words(words: Sequence[str]) -> Words:
    """Sorts the words of a command.

    >>> split_words(["strategy=gem,replay", "seed=1", "tune.trials=3"])
    Words(own=['strategy=gem,replay', 'tune.trials=3'], strategies=['gem', 'replay'], runs=['seed=1'])
    """
    check_no_run_folder(words, "the results of a study are in tune.dir=DIR")
    own = [word for word in words if re.match(r"\+{0,2}tune[.=]|strategy=", word)]
    chosen = [word.partition("=")[2] for word in own if word.startswith("strategy=")]
    strategies = [name.strip() for name in chosen[-1].split(",")] if chosen else []
    if chosen and chosen[-1].lstrip().startswith("["):
        listed = ",".join(re.findall(r"[^\s,\[\]]+", chosen[-1]))
        raise UserError(f"strategy={chosen[-1]}: several strategies have no brackets: strategy={listed}")
    if chosen and (not all(strategies) or len(set(strategies)) < len(strategies)):
        raise UserError(f"strategy={chosen[-1]}: it must be names of strategies, each once")
    runs = [word for word in words if word not in own]
    for word in runs:
        _refuse_several(word)
    return Words(own, strategies, runs)


def _refuse_several(word: str) -> None:
    """Refuses several values where a study has one. Hydra would advise ``mgem -m``, which makes no study."""
    try:
        override = OverridesParser.create().parse_override(word)
    except HydraException:
        return  # said later, with all that the command knows of words
    if not override.is_sweep_override():
        return
    key = override.key_or_group
    advice = f"a study has one {key}"
    if key == "seed":
        advice = "it is that of the sampler, one number; tune.seeds=3 makes each trial the mean of three runs"
    elif key in TUNED_KEYS or key.startswith(tuple(f"{group}." for group in TUNED_GROUPS)):
        advice = f"tune.space.{key}='[a,b,...]' tries several values"
    raise UserError(f"{word}: {advice}")


@dataclass(frozen=True)
class Settings:
    """What ``tune.*`` says, checked.

    Attributes:
        trials: of the whole study, for each strategy.
        experiences: trained and validated in a trial, the first ones; None takes all.
        seeds: runs of a trial, over which the objective is the mean.
        first_seed: the seed of the first.
        sampler: one of ``SAMPLERS``.
        prune: whether trials that fall behind are ended.
        folder: of the study; None for the default.
        space: by key, as given; empty for that of the strategy.
    """

    trials: int
    experiences: int | None
    seeds: int
    first_seed: int
    sampler: str
    prune: bool
    folder: str | None
    space: Mapping[str, Any]


def read_settings(words: Sequence[str]) -> Settings:
    """The settings of the words ``tune.*``, on top of the defaults in ``configs/tune.yaml``.

    Raises:
        UserError: naming the word and what is allowed.
    """
    values = dict(_defaults())
    space: dict[str, Any] = flatten(values.pop("space") or {})
    for word in words:
        plain = word.lstrip("+")
        if plain.startswith(_SPACE) and "=" in plain:
            key, _, value = plain.removeprefix(_SPACE).partition("=")
            space[key] = _unquoted(value)
        elif plain.startswith("tune"):
            key, value = _read(plain)
            if key not in values:
                raise UserError(f"there is no key 'tune.{key}'; {allowed(key, [*values, 'space.KEY'])}")
            values[key] = value
    _check(values)
    folder = values.pop("dir")
    return Settings(**values, folder=folder, space=space)


def _defaults() -> dict[str, Any]:
    values: Any = OmegaConf.to_container(OmegaConf.load(config_folder() / "tune.yaml").tune)
    return dict(values)


def _read(word: str) -> tuple[str, Any]:
    override = OverridesParser.create().parse_override(word)
    key = override.key_or_group.removeprefix("tune").lstrip(".")
    if not key or override.is_sweep_override():
        raise UserError(f"{word}: it must be one value for a key below tune; {allowed(key, _defaults())}")
    return key, override.value()


def _unquoted(value: str) -> str:
    quote = value[:1]
    return value[1:-1] if quote in "'\"" and len(value) > 1 and value.endswith(quote) else value


def _check(values: Mapping[str, Any]) -> None:
    for key, minimum, also in (
        ("trials", 1, ""), ("experiences", 1, " or null"), ("seeds", 1, ""), ("first_seed", 0, "")
    ):  # fmt: skip
        value = values[key]
        if value is None and also:
            continue
        if not isinstance(value, int) or isinstance(value, bool) or value < minimum:
            raise UserError(f"tune.{key}={value}: it must be an integer, at least {minimum}{also}")
    if values["first_seed"] + values["seeds"] > 2**32:
        raise UserError(f"tune.first_seed={values['first_seed']}: all seeds must be less than 2**32")
    if values["sampler"] not in SAMPLERS:
        raise UserError(f"tune.sampler={values['sampler']}: {allowed(str(values['sampler']), SAMPLERS)}")
    if not isinstance(values["prune"], bool):
        raise UserError(f"tune.prune={values['prune']}: it must be true or false")
    if values["dir"] is not None and not (isinstance(values["dir"], str) and values["dir"]):
        raise UserError(f"tune.dir={values['dir']}: it must be a folder")
