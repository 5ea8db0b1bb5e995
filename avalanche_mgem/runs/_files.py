"""Names of the files in a run folder."""

SUMMARY_FILE = "summary.json"
"""Metrics, costs, names and seed. It is written last: a folder that has it holds a complete run."""

CONFIG_FILE = "config.yaml"
"""The resolved configuration."""

ENVIRONMENT_FILE = "environment.json"
"""Versions, machine, source revision, and what the user changed in the configuration."""

MATRIX_FILE = "accuracy_matrix.csv"
"""Accuracies: row 0 of the untrained model, then a row after each training."""

CONSTRAINTS_FILE = "constraints.csv"
"""What the constraints did, a row for each experience that had any; absent if none had."""

ERROR_FILE = "error.txt"
"""Why the run failed; the first line is the message."""

UNFINISHED_FILE = ".unfinished"
"""There from the beginning of a run to its end."""

LOCK_FILE = ".lock"
"""Held while a process runs in the folder. The operating system releases it when the process dies."""

WANDB_RUN_ID_FILE = "wandb_run_id.txt"
"""The run of W&B with which another attempt goes on."""
