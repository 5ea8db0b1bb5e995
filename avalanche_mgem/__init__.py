"""Fine-grained gradient restriction for continual learning: GEM, p-mGEM and d-mGEM in Avalanche."""

from avalanche_mgem.plugins import DMGEMPlugin, MGEMPlugin, PMGEMPlugin
from avalanche_mgem.strategies import DMGEM, MGEM, PMGEM

__all__ = ["DMGEM", "MGEM", "PMGEM", "DMGEMPlugin", "MGEMPlugin", "PMGEMPlugin"]
