"""The mathematics of GEM, p-mGEM and d-mGEM on tensors alone.

One step is ``gram`` (gradients to products), ``dual`` (products to multipliers) and ``combine``
(multipliers to an update). ``project`` is the three in one call. Nothing here knows models or Avalanche.
"""

from avalanche_mgem.functional._blocks import Blocks
from avalanche_mgem.functional._combine import combine
from avalanche_mgem.functional._dual import RIDGES, Ridge, check_ridge, dual
from avalanche_mgem.functional._gram import gram
from avalanche_mgem.functional._project import NonFiniteGradientError, project
from avalanche_mgem.functional._report import ProjectionReport
from avalanche_mgem.functional._rows import DenseRows, GradientRows

__all__ = [
    "RIDGES",
    "Blocks",
    "DenseRows",
    "GradientRows",
    "NonFiniteGradientError",
    "ProjectionReport",
    "Ridge",
    "check_ridge",
    "combine",
    "dual",
    "gram",
    "project",
]
