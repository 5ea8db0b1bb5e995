"""How the reference gradients, one for each memory group, are made."""

from avalanche_mgem.references.loop import flatten, loop
from avalanche_mgem.references.mode import BATCHNORM_POLICIES, BatchNormPolicy, reference_mode

__all__ = ["BATCHNORM_POLICIES", "BatchNormPolicy", "flatten", "loop", "reference_mode"]
