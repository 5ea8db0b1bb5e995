"""What the command ``mgem`` does, also from Python: run one experiment, and read what many have left."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from avalanche_mgem.experiment.api import run
    from avalanche_mgem.experiment.configuration import compose
    from avalanche_mgem.experiment.errors import UserError
    from avalanche_mgem.experiment.runner import Result
    from avalanche_mgem.report.load import load_results

__all__ = ["Result", "UserError", "compose", "load_results", "run"]

# Imported when they are asked for: torch and Avalanche take seconds, for which --help need not wait.
_HOMES = {
    "Result": "avalanche_mgem.experiment.runner",
    "UserError": "avalanche_mgem.experiment.errors",
    "compose": "avalanche_mgem.experiment.configuration",
    "load_results": "avalanche_mgem.report.load",
    "run": "avalanche_mgem.experiment.api",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
