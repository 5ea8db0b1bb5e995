"""What only a gradient-constraint method can tell, as Avalanche metrics; docs/metrics.md has the formulas.

And Avalanche's metrics of minibatches, for some of them.
"""

from avalanche_mgem.metrics.constraints import constraint_metrics
from avalanche_mgem.metrics.gap import generalization_gap_metrics
from avalanche_mgem.metrics.minibatches import minibatch_metrics
from avalanche_mgem.metrics.names import constraint_row
from avalanche_mgem.runs import CONSTRAINT_METRICS

__all__ = [
    "CONSTRAINT_METRICS",
    "constraint_metrics",
    "constraint_row",
    "generalization_gap_metrics",
    "minibatch_metrics",
]
