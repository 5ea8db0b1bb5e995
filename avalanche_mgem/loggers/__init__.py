"""Loggers for Avalanche's ``EvaluationPlugin``: W&B, for which its own is too old, and CSV files."""

from avalanche_mgem.loggers.csv_logger import CSVLogger
from avalanche_mgem.loggers.wandb_logger import WandBLogger

__all__ = ["CSVLogger", "WandBLogger"]
