"""How the reference gradients, one for each memory group, are made."""

from avalanche_mgem.references._computer import BACKENDS, Backend, ReferenceComputer
from avalanche_mgem.references._layerwise import Layerwise
from avalanche_mgem.references._loop import flatten, loop
from avalanche_mgem.references._mode import BATCHNORM_POLICIES, BatchNormPolicy, reference_mode
from avalanche_mgem.references._vmap import vmap

__all__ = [
    "BACKENDS",
    "BATCHNORM_POLICIES",
    "Backend",
    "BatchNormPolicy",
    "Layerwise",
    "ReferenceComputer",
    "flatten",
    "loop",
    "reference_mode",
    "vmap",
]
