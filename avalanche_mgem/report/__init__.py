"""The command ``mgem-report``: statistics, tables and figures of run folders. It needs no torch."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from avalanche_mgem.report.load import load_results
    from avalanche_mgem.report.results import Results
    from avalanche_mgem.report.write import Report, report

__all__ = ["Report", "Results", "load_results", "report"]

# A name is imported at its first use: pandas and matplotlib take a second, and --help needs neither.
_HOMES = {"Report": "write", "Results": "results", "load_results": "load", "report": "write"}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
