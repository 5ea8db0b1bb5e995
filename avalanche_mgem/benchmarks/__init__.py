"""Benchmarks that Avalanche lacks, and what the command does to every benchmark."""

from avalanche_mgem.benchmarks.digits import PermutedDigits, SplitDigits
from avalanche_mgem.benchmarks.missing import missing_file
from avalanche_mgem.benchmarks.rotations import RotatedMNIST, rotation_angles
from avalanche_mgem.benchmarks.subsample import subsample

__all__ = ["PermutedDigits", "RotatedMNIST", "SplitDigits", "missing_file", "rotation_angles", "subsample"]
