"""The samples of the past: what is kept of each experience, in which groups, and what a step draws of it."""

from avalanche_mgem.memory._draws import Draw, Draws
from avalanche_mgem.memory._fingerprint import fingerprint
from avalanche_mgem.memory._grouping import GROUPINGS, Grouping
from avalanche_mgem.memory._groups import MemoryGroup, MemoryGroups, MixedGroups, StepGroups, owners
from avalanche_mgem.memory._memory import (
    MEMORY_TRANSFORMS,
    EpisodicMemory,
    MemoryTransform,
    checked_integer,
)
from avalanche_mgem.memory._storage import Batch, Collate, Unpack, unpacked
from avalanche_mgem.memory._tree import Tree, leaves, tensors_of, tree_map, with_tensors

__all__ = [
    "GROUPINGS",
    "MEMORY_TRANSFORMS",
    "Batch",
    "Collate",
    "Draw",
    "Draws",
    "EpisodicMemory",
    "Grouping",
    "MemoryGroup",
    "MemoryGroups",
    "MemoryTransform",
    "MixedGroups",
    "StepGroups",
    "Tree",
    "Unpack",
    "checked_integer",
    "fingerprint",
    "leaves",
    "owners",
    "tensors_of",
    "tree_map",
    "unpacked",
    "with_tensors",
]
