"""The words of a command line, checked before Hydra reads them."""

import os
import re
from collections.abc import Collection, Sequence
from typing import NoReturn

from hydra._internal.utils import get_args_parser

from avalanche_mgem.experiment.errors import allowed
from avalanche_mgem.runs import GROUPS, UserError, one_line

# Hydra knows more of them, none of which a user of this command needs.
_OPTIONS = (
    "--help", "--version", "-m", "--multirun", "--config-dir", "--config-name", "--cfg", "--resolve",
    "--package", "--info",
)  # fmt: skip
# Hydra would merge the options of a list into one run, whose strategy has no name.
_LIST_OF_ONE = re.compile(rf"\+{{0,2}}({'|'.join(GROUPS)})=\s*\[(.*)")
_CHANGE = re.compile(r"~[^=~+]|\+{0,2}[^=~+][^=]*=")


def at_home(word: str) -> str:
    """A word with the home folder in place of a ``~`` that its value begins with.

    A shell leaves it there, as in ``hydra.run.dir=~/runs``, and a folder called ``~`` would be made.
    """
    key, sign, value = word.partition("=")
    return f"{key}={os.path.expanduser(value)}" if sign and re.match(r"~(/|$)", value) else word


def arranged(arguments: Sequence[str], commands: Collection[str]) -> list[str]:
    """A command line with all its words in one place: Hydra takes no others.

    Args:
        arguments: what comes after the name of the program.
        commands: what the first word may be instead of a change.

    Raises:
        UserError: for an option that does not exist, for a word that is no change, and for a list where a
            run has one.
    """
    parser = get_args_parser()
    parser.error = _refuse  # type: ignore[method-assign]
    known, rest = parser.parse_known_args(arguments)
    for word in rest:
        if word.startswith("-"):
            raise UserError(f"there is no option {word!r}; {allowed(word, _OPTIONS)}")
    for word in (*known.overrides, *rest):
        if not _CHANGE.match(word):
            names = [*commands, "--help", "--version"]
            raise UserError(
                f"cannot read {word!r}: a change is KEY=VALUE, such as seed=3; else {allowed(word, names)}"
            )
        _refuse_list(word)
    before = list(arguments)
    for word in reversed(rest):
        del before[len(before) - 1 - before[::-1].index(word)]
    place = before.index(known.overrides[0]) + len(known.overrides) if known.overrides else len(before)
    return [*before[:place], *rest, *before[place:]]


def check_no_run_folder(words: Sequence[str], where: str) -> None:
    """Refuses a folder of a run for a command that makes none; Hydra would make it and leave it empty.

    Args:
        words: of the command.
        where: what the command has in its place.

    Raises:
        UserError: naming the word.
    """
    for word in words:
        if word.lstrip("+").startswith(("hydra.run.dir=", "hydra.sweep.dir=")):
            raise UserError(f"{word}: {where}; leave it out")


def check_changes(words: Sequence[str]) -> None:
    """Checks that each word is a change.

    Raises:
        UserError: for a word that is none, and for a list where a run has one.
    """
    for word in words:
        if not isinstance(word, str) or not _CHANGE.match(word):
            raise UserError(f"cannot read {word!r}: a change is KEY=VALUE, such as seed=3")
        _refuse_list(word)


def _refuse_list(word: str) -> None:
    if found := _LIST_OF_ONE.fullmatch(word):
        group, rest = found.groups()
        options = ",".join(re.findall(r"[^\s,\[\]]+", rest))
        advice = f"; mgem -m {group}={options} makes a run for each" if options else ""
        raise UserError(f"{word}: a run has one {group}{advice}")


def _refuse(message: str) -> NoReturn:
    raise UserError(one_line(message))
