"""Benchmarks that Avalanche lacks, each a function that returns an Avalanche benchmark."""

from avalanche_mgem.benchmarks.digit_domains import DigitDomains
from avalanche_mgem.benchmarks.digit_five import DigitFive
from avalanche_mgem.benchmarks.digits import PermutedDigits, SplitDigits
from avalanche_mgem.benchmarks.domain_net import DomainNet
from avalanche_mgem.benchmarks.fashion_mnist import PermutedFashionMNIST
from avalanche_mgem.benchmarks.folders import ImageFolders, SplitImageFolder
from avalanche_mgem.benchmarks.mnist import PermutedMNIST, RotatedMNIST, rotation_angles

__all__ = [
    "DigitDomains",
    "DigitFive",
    "DomainNet",
    "ImageFolders",
    "PermutedDigits",
    "PermutedFashionMNIST",
    "PermutedMNIST",
    "RotatedMNIST",
    "SplitDigits",
    "SplitImageFolder",
    "rotation_angles",
]
