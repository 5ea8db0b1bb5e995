"""Classes of the user's own: where they are looked for, and what a configuration says of a missing one."""

import re
import sys
from pathlib import Path

from avalanche_mgem.experiment.errors import allowed
from avalanche_mgem.runs import one_line

_folders: list[str] = []  # in which modules are looked for, beside where Python looks


def look_in(*folders: Path) -> None:
    """Lets this process find modules in these folders too: last, so that they hide no other module."""
    for folder in map(str, folders):
        if folder not in _folders:
            _folders.append(folder)
        if folder not in sys.path:
            sys.path.append(folder)


def not_found(group: str, target: str, error: Exception) -> str:
    """What is wrong with a ``_target_`` that cannot be imported.

    Args:
        group: the part of the configuration.
        target: its own ``_target_``.
        error: what Hydra's ``instantiate`` has raised, for this or for a ``_target_`` below it.
    """
    reason = error.__cause__ or error
    below = re.search(r"^full_key: (.+)$", str(error), flags=re.MULTILINE)
    named = re.match(r"Error loading '(.+?)'", str(reason))
    target = named[1] if named else target
    key = below[1] if below else group  # from the root, where the part is still in its configuration
    if key != group and not key.startswith(f"{group}."):
        key = f"{group}.{key}"
    where = f"{key}._target_={target}"
    cause = reason.__cause__
    if not isinstance(cause, ModuleNotFoundError) or cause.name is None:
        return f"{where}: {one_line(cause or reason)}"
    module, _, name = cause.name.rpartition(".")
    if cause.name != target and not target.startswith(f"{cause.name}."):
        return f"{where}: it imports {cause.name}, which is not installed"
    if module:
        names = [name for name in vars(sys.modules[module]) if not name.startswith("_")]
        close = allowed(name, names).partition(" allowed are")[0] if names else ""
        return f"{where}: {module} has no {name}" + (f"; {close}" if close.startswith("did") else "")
    looked = ", ".join([*_folders, "the installed packages"])
    return f"{where}: there is no module {cause.name}; looked in {looked}"
