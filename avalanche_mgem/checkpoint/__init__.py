"""Going on after a cut: the whole state of an Avalanche strategy in one file, and back.

Avalanche's own ``save_checkpoint`` fails for every strategy under today's torch.
"""

from avalanche_mgem.checkpoint._file import CheckpointError
from avalanche_mgem.checkpoint._strategy import Checkpoint, find_checkpoint, load_checkpoint, save_checkpoint

__all__ = [
    "Checkpoint",
    "CheckpointError",
    "find_checkpoint",
    "load_checkpoint",
    "save_checkpoint",
]
