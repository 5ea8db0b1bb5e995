"""What can be in a run folder: names of files, and which of them a run has written."""

from fnmatch import fnmatchcase
from pathlib import Path

SUMMARY_FILE = "summary.json"
"""Metrics, costs, names and seed. It is written last: a folder that has it holds a complete run."""

CONFIG_FILE = "config.yaml"
"""The resolved configuration."""

ENVIRONMENT_FILE = "environment.json"
"""Versions, machine, source revision, and what the user changed in the configuration."""

MATRIX_FILE = "accuracy_matrix.csv"
"""Accuracies: row 0 of the untrained model, then a row after each training."""

VALID_MATRIX_FILE = "valid_accuracy_matrix.csv"
"""The same on validation samples, of a run that has any."""

CONSTRAINTS_FILE = "constraints.csv"
"""What the constraints did, a row for each experience but the first; absent if none had any."""

ERROR_FILE = "error.txt"
"""Why the run failed; the first line is the message."""

UNFINISHED_FILE = ".unfinished"
"""There from the beginning of a run to its end. Its contents say that it is this package's."""

LOCK_FILE = ".mgem.lock"
"""Held while a process runs in the folder. The operating system releases it when the process dies."""

WANDB_RUN_ID_FILE = "wandb_run_id.txt"
"""The run of W&B with which another attempt goes on."""

CHECKPOINT_FILE = "checkpoint.pt"
"""With which a run that is cut goes on; gone once the run is complete."""

PREVIOUS = ".previous"
"""What the name of the checkpoint before the newest ends in."""

CHECKPOINT_FILES = (CHECKPOINT_FILE, CHECKPOINT_FILE + PREVIOUS)
"""All that is kept of a run that was cut, with what its loggers wrote; the newest first."""

MODEL_FILE = "model.pt"
"""The trained weights, a state dict, where ``save_model`` asks for them."""

_WRITTEN = (
    SUMMARY_FILE,
    CONFIG_FILE,
    ENVIRONMENT_FILE,
    MATRIX_FILE,
    VALID_MATRIX_FILE,
    CONSTRAINTS_FILE,
    ERROR_FILE,
    UNFINISHED_FILE,
    WANDB_RUN_ID_FILE,
    *CHECKPOINT_FILES,
    MODEL_FILE,
)
_LOG_FILE = "mgem.log"  # of Hydra, if its job_logging is switched on

# Every name that a run can leave. Nothing else is ever removed. An entry of a folder is a pattern.
_FILES = frozenset({*_WRITTEN, *(f"{name}.tmp" for name in _WRITTEN), LOCK_FILE, _LOG_FILE})
_FOLDERS = {
    ".hydra": ("config.yaml", "hydra.yaml", "overrides.yaml"),
    "csv": ("training_results.csv", "eval_results.csv"),
    "tensorboard": ("events.out.tfevents.*",),
    "wandb": ("run-*", "offline-run-*", "latest-run", "debug.log", "debug-internal.log"),
}

OF_HYDRA = frozenset({".hydra", _LOG_FILE})
"""What Hydra writes before the run begins, if the user asks for it."""

KEPT = OF_HYDRA | {LOCK_FILE, WANDB_RUN_ID_FILE}
"""What stays when the next attempt clears a folder. The run of W&B goes on, and Hydra has begun to write."""


def is_written_by_runs(path: Path) -> bool:
    """Whether a run can have written this part of a run folder. A run writes no links."""
    if path.is_symlink():
        return False
    if path.is_dir():
        patterns = _FOLDERS.get(path.name, ())
        names = (inner.name for inner in path.iterdir())
        return bool(patterns) and all(any(fnmatchcase(name, p) for p in patterns) for name in names)
    if path.name == LOCK_FILE:
        return path.is_file() and path.stat().st_size == 0
    return path.is_file() and path.name in _FILES
