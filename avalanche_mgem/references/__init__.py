"""How the reference gradients, one for each memory group, are made."""

from avalanche_mgem.references.choose import BACKENDS, Backend, References
from avalanche_mgem.references.layerwise import Layerwise
from avalanche_mgem.references.loop import flatten, loop
from avalanche_mgem.references.mode import BATCHNORM_POLICIES, BatchNormPolicy, reference_mode
from avalanche_mgem.references.vmap import vmap

__all__ = [
    "BACKENDS",
    "BATCHNORM_POLICIES",
    "Backend",
    "BatchNormPolicy",
    "Layerwise",
    "References",
    "flatten",
    "loop",
    "reference_mode",
    "vmap",
]
