"""Any error as one line that says what is allowed."""

import difflib
import os
import re
import sys
from collections.abc import Iterable
from typing import Any

from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import ConfigAttributeError, ConfigKeyError, OmegaConfBaseException
from yaml import YAMLError  # type: ignore[import-untyped]

from avalanche_mgem.experiment._files import defaults, options_below
from avalanche_mgem.runs import GROUPS, flatten, one_line, printable

# The extra of this package that brings a launcher, by the launcher's configuration.
_EXTRAS = {"hydra/launcher/submitit_slurm": "slurm", "hydra/launcher/ray": "ray"}
# What Hydra says of a word, and how this command says it.
_OF_HYDRA = (
    (
        r"Could not delete from config\. The value of '(.+)' is (.+) and not (.+)\.",
        r"\1 is \2 and not \3, so it is not dropped; ~\1 drops it",
    ),
    (
        r"Could not append to config\. An item is already at '(.+?)'\..*'(.+?)'.*Or add a second.*",
        r"there is a key \1 already; write \2",
    ),
    (
        rf"Ambiguous value for argument '((?:{'|'.join(GROUPS)})=.+)' 1\..*",
        r"\1 has several values; mgem -m makes a run for each",
    ),
    (
        r"Ambiguous value for argument '((.+?)=(.+))' 1\. To use it as a list.*",
        r"\1 has several values; mgem -m makes a run for each, and '\2=[\3]' is a list",
    ),
    (
        r"(\S+) appears more than once in the final defaults list.*",
        r"there is a \1 already; write \1=NAME without +",
    ),
)


def debugging() -> bool:
    """Whether the user asked for tracebacks, by MGEM_DEBUG=1."""
    return os.environ.get("MGEM_DEBUG", "") not in ("", "0")


def say(message: str) -> None:
    """A line on standard error, without codes that a terminal would obey."""
    sys.stderr.write(f"mgem: {printable(message)}\n")


def allowed(name: str, names: Iterable[str]) -> str:
    """A list of the allowed names, after the one that was probably meant."""
    names = sorted(names)
    close = difflib.get_close_matches(name, names, n=1)
    return (f"did you mean {close[0]!r}? " if close else "") + f"allowed are {', '.join(names)}"


def no_key(root: DictConfig, full_key: str) -> str:
    """That a configuration has no such key, and which was probably meant.

    Args:
        root: the whole configuration.
        full_key: with its dots; the part before the last dot is there.
    """
    above, _, key = full_key.rpartition(".")
    said = f"there is no key {full_key!r}"
    parent = OmegaConf.select(root, above) if above else root
    if not isinstance(parent, DictConfig) or not parent:
        return f"{said}: {above} is a value"
    if not above and (options := options_below(key)):
        return f"no {key} is chosen: give {key}=NAME too; {allowed('', options)}"
    if places := _places(root, key):
        return f"{said}; did you mean {' or '.join(places)}?"
    line = f"{said}; {allowed(key, (str(name) for name in parent if name != 'hydra'))}"
    target = OmegaConf.select(parent, "_target_", throw_on_missing=False) if above else None
    return f"{line} (+{full_key}=... gives {target} one more argument)" if target else line


def _places(root: DictConfig, key: str) -> list[str]:
    """Where in a configuration there is a key of this name that a user may set."""
    values: Any = OmegaConf.to_container(root)
    flat = flatten({name: value for name, value in values.items() if name in defaults()})
    found = (place for place in flat if place.rpartition(".")[2] == key)
    return sorted(place for place in found if not place.startswith(("inferred.", "names.")))


def explain(error: Exception) -> str:
    """One line for any error; those of Hydra and OmegaConf get the allowed names."""
    if (
        isinstance(error, MissingConfigException)
        and error.missing_cfg_file
        and (line := _no_option(error.missing_cfg_file, error.options))
    ):
        return line
    if isinstance(error, OverrideParseException):
        reason = re.split(" See https://| expecting ", one_line(error))[0]
        reason = reason.removeprefix("Error parsing override ")
        return f"cannot read {error.override!r}: {reason}; a text with special characters needs quotes"
    if isinstance(error, YAMLError):
        return f"a configuration file is not valid YAML: {one_line(error)}"
    cause = error.__cause__ if isinstance(error, HydraException) else error
    if isinstance(cause, ConfigAttributeError | ConfigKeyError) and cause.parent_node is not None:
        root = cause.parent_node._get_root()
        if isinstance(root, DictConfig) and cause.full_key:
            return no_key(root, str(cause.full_key))
    line = one_line(error)
    if isinstance(error, HydraException):
        if dropped := re.fullmatch(r"Could not delete from config\. '(.+)' does not exist\.", line):
            key = dropped[1]
            known = "" if "." in key else f"; {allowed(key, defaults())}"
            return f"there is no key {key!r} to drop{known}"
        for pattern, words in _OF_HYDRA:
            if found := re.fullmatch(pattern, line):
                return found.expand(words)
    details = (
        f": {one_line(cause)}" if isinstance(cause, OmegaConfBaseException) and cause is not error else ""
    )
    return line + details


def _no_option(file: str, options: Iterable[str] | None) -> str | None:
    """That a group has no such option; None if it is not of a group."""
    if file in _EXTRAS:
        return f"this launcher is an extra: in a clone of avalanche-mgem, pip install '.[{_EXTRAS[file]}]'"
    group, _, name = file.rpartition("/")
    if not options:  # Hydra does not look into groups of groups, such as that of named experiments
        group, _, name = file.partition("/")
        options = options_below(group)
    return f"no {group or 'configuration'} is called {name!r}; {allowed(name, options)}" if options else None
