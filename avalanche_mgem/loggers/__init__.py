"""Loggers for Avalanche's ``EvaluationPlugin``: Weights & Biases, TensorBoard and CSV files.

Avalanche's own W&B logger does not work with today's client.
"""

from avalanche_mgem.loggers.csv_logger import CSVLogger
from avalanche_mgem.loggers.tensorboard_logger import TensorboardLogger
from avalanche_mgem.loggers.wandb_logger import WandBLogger

__all__ = ["CSVLogger", "TensorboardLogger", "WandBLogger"]
