"""Any error as one line that says what is allowed."""

import difflib
import os
import sys
from collections.abc import Iterable
from pathlib import Path

from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from omegaconf.errors import ConfigAttributeError, ConfigKeyError, OmegaConfBaseException
from yaml import YAMLError  # type: ignore[import-untyped]

from avalanche_mgem.experiment.configuration import config_folder
from avalanche_mgem.runs import one_line, printable

# The extra of this package that brings a launcher, by the launcher's configuration.
_EXTRAS = {"hydra/launcher/submitit_slurm": "slurm", "hydra/launcher/ray": "ray"}


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


def _options_below(group: Path) -> list[str]:
    return [path.relative_to(group).with_suffix("").as_posix() for path in group.rglob("*.yaml")]


def explain(error: Exception) -> str:
    """One line for any error; those of Hydra and OmegaConf get the allowed names."""
    if isinstance(error, MissingConfigException) and error.missing_cfg_file in _EXTRAS:
        extra = _EXTRAS[error.missing_cfg_file]
        return f"this launcher is an extra: in a clone of avalanche-mgem, pip install '.[{extra}]'"
    if isinstance(error, MissingConfigException) and error.missing_cfg_file and error.options is not None:
        group, _, name = error.missing_cfg_file.rpartition("/")
        options: Iterable[str] = error.options
        if not options:  # Hydra does not look into groups of groups, such as that of named experiments
            group, _, name = error.missing_cfg_file.partition("/")
            options = _options_below(config_folder() / group)
        return f"no {group or 'configuration'} is called {name!r}; {allowed(name, options)}"
    if isinstance(error, OverrideParseException):
        return f"cannot read {error.override!r}: {one_line(error)}"
    if isinstance(error, YAMLError):
        return f"a configuration file is not valid YAML: {one_line(error)}"
    cause = error.__cause__ if isinstance(error, HydraException) else error
    if isinstance(cause, ConfigAttributeError | ConfigKeyError) and cause.parent_node is not None:
        key, known = str(cause.key), [str(key) for key in cause.parent_node if key != "hydra"]
        return f"there is no key {cause.full_key!r}; {allowed(key, known)} (+{cause.full_key}=... adds a key)"
    details = (
        f": {one_line(cause)}" if isinstance(cause, OmegaConfBaseException) and cause is not error else ""
    )
    return one_line(error) + details
