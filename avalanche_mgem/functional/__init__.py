"""The mathematics of GEM, p-mGEM and d-mGEM on tensors alone.

One step is ``gram`` (gradients to products), ``dual`` (products to multipliers) and ``combine``
(multipliers to an update); ``project`` is the three in one call. Nothing here knows models or Avalanche.
"""

from avalanche_mgem.functional.combine import combine
from avalanche_mgem.functional.dual import dual
from avalanche_mgem.functional.gram import Blocks, gram
from avalanche_mgem.functional.project import NonFiniteGradientError, References, project
from avalanche_mgem.functional.projection import Projection

__all__ = [
    "Blocks",
    "NonFiniteGradientError",
    "Projection",
    "References",
    "combine",
    "dual",
    "gram",
    "project",
]
