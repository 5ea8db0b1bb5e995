"""Benchmarks that Avalanche lacks, and what the command does to every benchmark."""

from avalanche_mgem.benchmarks.digit_five import DigitFive
from avalanche_mgem.benchmarks.digits import PermutedDigits, SplitDigits
from avalanche_mgem.benchmarks.domain_net import DomainNet
from avalanche_mgem.benchmarks.evaluation import BatchedEvaluation
from avalanche_mgem.benchmarks.fashion_mnist import PermutedFashionMNIST
from avalanche_mgem.benchmarks.folders import ImageFolders, SplitImageFolder
from avalanche_mgem.benchmarks.missing import missing_file
from avalanche_mgem.benchmarks.mnist import PermutedMNIST, RotatedMNIST, rotation_angles
from avalanche_mgem.benchmarks.preload import preload
from avalanche_mgem.benchmarks.subsample import subsample

__all__ = [
    "BatchedEvaluation",
    "DigitFive",
    "DomainNet",
    "ImageFolders",
    "PermutedDigits",
    "PermutedFashionMNIST",
    "PermutedMNIST",
    "RotatedMNIST",
    "SplitDigits",
    "SplitImageFolder",
    "missing_file",
    "preload",
    "rotation_angles",
    "subsample",
]
