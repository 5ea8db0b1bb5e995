"""Fast data for any Avalanche benchmark: images kept as bytes, transforms on whole minibatches."""

from avalanche_mgem.data._damaged import damaged_file
from avalanche_mgem.data._datasets import DecodedImages, LabelledTensors, RGBImages
from avalanche_mgem.data._evaluation import BatchedEvaluation
from avalanche_mgem.data._missing import MNIST_FILES, missing_file
from avalanche_mgem.data._preload import preload, preload_with_note
from avalanche_mgem.data._subsample import subsample
from avalanche_mgem.data._validation import split_validation

__all__ = [
    "MNIST_FILES",
    "BatchedEvaluation",
    "DecodedImages",
    "LabelledTensors",
    "RGBImages",
    "damaged_file",
    "missing_file",
    "preload",
    "preload_with_note",
    "split_validation",
    "subsample",
]
