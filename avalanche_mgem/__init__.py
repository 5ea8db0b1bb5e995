"""Fine-grained gradient restriction for continual learning: GEM, p-mGEM and d-mGEM in Avalanche."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from avalanche_mgem.plugins import DMGEMPlugin, MGEMPlugin, PMGEMPlugin
    from avalanche_mgem.strategies import DMGEM, MGEM, PMGEM

__all__ = ["DMGEM", "MGEM", "PMGEM", "DMGEMPlugin", "MGEMPlugin", "PMGEMPlugin"]


def __getattr__(name: str) -> Any:
    """Imports a public name when it is first used: Avalanche takes seconds, and `mgem --help` needs none."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    room = "plugins" if name.endswith("Plugin") else "strategies"
    return getattr(import_module(f"{__name__}.{room}"), name)


def __dir__() -> list[str]:
    return __all__
