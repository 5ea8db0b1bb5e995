"""How reference gradients are made, one for each memory group. Only this room looks inside a model."""

from avalanche_mgem.references._capture import LayerwiseError
from avalanche_mgem.references._computer import BACKENDS, Backend, ReferenceComputer
from avalanche_mgem.references._distributed import averaged, unwrapped
from avalanche_mgem.references._factors import Factors
from avalanche_mgem.references._layerwise import Layerwise
from avalanche_mgem.references._loop import Criterion, Forward, check_reduction, loop
from avalanche_mgem.references._mode import BATCHNORM_POLICIES, BatchNormPolicy, reference_mode

__all__ = [
    "BACKENDS",
    "BATCHNORM_POLICIES",
    "Backend",
    "BatchNormPolicy",
    "Criterion",
    "Factors",
    "Forward",
    "Layerwise",
    "LayerwiseError",
    "ReferenceComputer",
    "averaged",
    "check_reduction",
    "loop",
    "reference_mode",
    "unwrapped",
]
