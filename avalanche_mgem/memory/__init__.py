"""The samples of the past: what is kept of each experience, in which groups, and what a step draws of it."""

from avalanche_mgem.memory._draws import Draw, Draws
from avalanche_mgem.memory._fingerprint import fingerprint
from avalanche_mgem.memory._grouping import GROUPINGS, Grouping
from avalanche_mgem.memory._groups import MemoryGroup, MemoryGroups, owners
from avalanche_mgem.memory._memory import (
    MEMORY_TRANSFORMS,
    EpisodicMemory,
    MemoryTransform,
    checked_integer,
)

__all__ = [
    "GROUPINGS",
    "MEMORY_TRANSFORMS",
    "Draw",
    "Draws",
    "EpisodicMemory",
    "Grouping",
    "MemoryGroup",
    "MemoryGroups",
    "MemoryTransform",
    "checked_integer",
    "fingerprint",
    "owners",
]
