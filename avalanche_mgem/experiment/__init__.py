"""What the command ``mgem`` does, also from Python: compose configurations, run them, and tune strategies."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from avalanche_mgem.experiment.api import run
    from avalanche_mgem.experiment.configuration import compose
    from avalanche_mgem.experiment.grid import sweep
    from avalanche_mgem.experiment.tuning.api import tune
    from avalanche_mgem.runs import Result, UserError

__all__ = ["Result", "UserError", "compose", "run", "sweep", "tune"]

# A name is imported at its first use: torch and Avalanche take seconds, and --help needs neither.
_HOMES = {
    "Result": "avalanche_mgem.runs",
    "UserError": "avalanche_mgem.runs",
    "compose": "avalanche_mgem.experiment.configuration",
    "run": "avalanche_mgem.experiment.api",
    "sweep": "avalanche_mgem.experiment.grid",
    "tune": "avalanche_mgem.experiment.tuning.api",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
