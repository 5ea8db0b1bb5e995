"""Fine-grained gradient restriction for continual learning: GEM, p-mGEM and d-mGEM in Avalanche."""

from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from avalanche_mgem.checkpoint import load_checkpoint, save_checkpoint
    from avalanche_mgem.plugins import DMGEMPlugin, MGEMPlugin, PMGEMPlugin
    from avalanche_mgem.projector import Projector
    from avalanche_mgem.strategies import DMGEM, MGEM, PMGEM

    __version__: str

__all__ = [
    "DMGEM",
    "MGEM",
    "PMGEM",
    "DMGEMPlugin",
    "MGEMPlugin",
    "PMGEMPlugin",
    "Projector",
    "__version__",
    "load_checkpoint",
    "save_checkpoint",
]

_HOMES = {
    "DMGEM": "strategies",
    "MGEM": "strategies",
    "PMGEM": "strategies",
    "DMGEMPlugin": "plugins",
    "MGEMPlugin": "plugins",
    "PMGEMPlugin": "plugins",
    "Projector": "projector",
    "load_checkpoint": "checkpoint",
    "save_checkpoint": "checkpoint",
}


def __getattr__(name: str) -> Any:
    """Imports a public name when it is first used: Avalanche takes seconds, and `mgem --help` needs none."""
    if name == "__version__":
        return version("avalanche-mgem")  # of the installed package: pyproject.toml has the number
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return __all__
