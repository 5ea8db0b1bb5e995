"""Run folders: their files, the names in them, what makes two runs the same; reading, claiming and writing.

The command ``mgem`` writes them and ``mgem-report`` reads them. This room knows neither, and no torch.
"""

from avalanche_mgem.runs._archive import pack_runs, unpacked
from avalanche_mgem.runs._claim import (
    check_claimable,
    claimed,
    clear_attempt,
    clear_checkpoints,
    has_checkpoint,
    is_complete,
    is_marked,
    is_running,
)
from avalanche_mgem.runs._errors import FolderTakenError, UserError
from avalanche_mgem.runs._files import (
    CHECKPOINT_FILE,
    CHECKPOINT_FILES,
    CONFIG_FILE,
    CONSTRAINTS_FILE,
    ENVIRONMENT_FILE,
    ERROR_FILE,
    LOCK_FILE,
    MATRIX_FILE,
    MODEL_FILE,
    PREVIOUS,
    SUMMARY_FILE,
    UNFINISHED_FILE,
    WANDB_RUN_ID_FILE,
)
from avalanche_mgem.runs._formulas import Matrix, acc, all_metrics, bwd, forgetting, fwt, la
from avalanche_mgem.runs._interval import CONFIDENCE, Mean, mean_interval
from avalanche_mgem.runs._keys import ABSENT, GROUPS, flatten, makes_another_run, number_text, sort_key, text
from avalanche_mgem.runs._names import (
    CONSTRAINT_METRICS,
    COSTS,
    GAP_METRICS,
    LABELS,
    METRICS,
    STEP_METRICS,
    VALID_ACC,
)
from avalanche_mgem.runs._one_line import one_line, printable
from avalanche_mgem.runs._read import Run, error_line, find_runs, read_result, read_run
from avalanche_mgem.runs._reader import READER_GONE, ending_with_its_reader, let_go
from avalanche_mgem.runs._result import Result
from avalanche_mgem.runs._same import check_same_run, differences, differing_keys
from avalanche_mgem.runs._whole import write_whole
from avalanche_mgem.runs._write import clear_failure, keep_run, write_failure, write_run
from avalanche_mgem.runs._written import without_secrets, written

__all__ = [
    "ABSENT",
    "CHECKPOINT_FILE",
    "CHECKPOINT_FILES",
    "CONFIDENCE",
    "CONFIG_FILE",
    "CONSTRAINTS_FILE",
    "CONSTRAINT_METRICS",
    "COSTS",
    "ENVIRONMENT_FILE",
    "ERROR_FILE",
    "GAP_METRICS",
    "GROUPS",
    "LABELS",
    "LOCK_FILE",
    "MATRIX_FILE",
    "METRICS",
    "MODEL_FILE",
    "PREVIOUS",
    "READER_GONE",
    "STEP_METRICS",
    "SUMMARY_FILE",
    "UNFINISHED_FILE",
    "VALID_ACC",
    "WANDB_RUN_ID_FILE",
    "FolderTakenError",
    "Matrix",
    "Mean",
    "Result",
    "Run",
    "UserError",
    "acc",
    "all_metrics",
    "bwd",
    "check_claimable",
    "check_same_run",
    "claimed",
    "clear_attempt",
    "clear_checkpoints",
    "clear_failure",
    "differences",
    "differing_keys",
    "ending_with_its_reader",
    "error_line",
    "find_runs",
    "flatten",
    "forgetting",
    "fwt",
    "has_checkpoint",
    "is_complete",
    "is_marked",
    "is_running",
    "keep_run",
    "la",
    "let_go",
    "makes_another_run",
    "mean_interval",
    "number_text",
    "one_line",
    "pack_runs",
    "printable",
    "read_result",
    "read_run",
    "sort_key",
    "text",
    "unpacked",
    "without_secrets",
    "write_failure",
    "write_run",
    "write_whole",
    "written",
]
