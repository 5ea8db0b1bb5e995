"""Names of metrics in the files of a run, and their labels in tables and figures."""

METRICS = ("acc", "bwd", "la", "fwt", "forgetting")
"""What the accuracy matrix comes to, as fractions."""

VALID_ACC = "valid_acc"
"""ACC on validation samples, of a run that has any."""

COSTS = ("seconds_train", "seconds_eval", "seconds_data", "peak_memory_mb")
"""Seconds in training, in evaluation and in building the benchmark; memory in MiB."""

STEP_METRICS = (
    "violated_steps",
    "active_constraints",
    "relative_change",
    "cosine_gradient",
    "cosine_worst",
    "seconds_references",
    "seconds_solver",
)
"""What the constraints did in the steps of an experience (docs/metrics.md)."""

GAP_METRICS = ("gap_violated", "gap_depth", "gap_violated_acting", "gap_depth_acting")
"""What the constraints are worth on held-out samples (docs/metrics.md)."""

CONSTRAINT_METRICS = (*STEP_METRICS, *GAP_METRICS)
"""The columns of ``constraints.csv`` beside ``experience``.

Avalanche's names are made of these: ``ViolatedSteps_Exp/train_phase/...``.
"""

LABELS = {
    "acc": "ACC",
    "bwd": "BWD",
    "la": "LA",
    "fwt": "FWT",
    "forgetting": "forgetting",
    VALID_ACC: "valid ACC",
    "seconds_train": "train s",
    "seconds_eval": "test s",
    "seconds_data": "data s",
    "peak_memory_mb": "memory MiB",
    "violated_steps": "share of steps with\na violated constraint",
    "active_constraints": "active constraints",
    "relative_change": "relative change\nof the gradient",
    "cosine_gradient": "cosine of update\nand gradient",
    "cosine_worst": "worst cosine of update\nand reference gradient",
    "seconds_references": "seconds a step\nfor the references",
    "seconds_solver": "seconds a step\nfor the solver",
    "gap_violated": "share of constraints violated\non held-out samples",
    "gap_depth": "depth of violations\non held-out samples",
    "gap_violated_acting": "share of constraints violated on held-out\nsamples, where a constraint acts",
    "gap_depth_acting": "depth of violations on held-out\nsamples, where a constraint acts",
}
"""What tables and the axes of figures call them."""
