"""One run: a benchmark, a model, a strategy; train on each experience, test on all after each."""

import random
import re
import time
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
import torch
from avalanche.evaluation.metrics import accuracy_metrics
from avalanche.logging import BaseLogger
from avalanche.models import MultiTaskModule
from avalanche.models.dynamic_modules import avalanche_model_adaptation
from avalanche.training import JointTraining
from avalanche.training.plugins import EvaluationPlugin
from omegaconf import DictConfig
from torch import nn

from avalanche_mgem.benchmarks import missing_file, subsample
from avalanche_mgem.experiment.errors import UserError, one_line
from avalanche_mgem.experiment.progress import ProgressBar
from avalanche_mgem.experiment.settings import build
from avalanche_mgem.models import multi_head


@dataclass(frozen=True)
class Result:
    """What a run measured.

    Attributes:
        matrix: accuracies as fractions, the untrained model's first, then a row after each training.
        seconds_train: in training, loading of minibatches included.
        seconds_eval: in evaluation, likewise.
        seconds_data: in building the benchmark.
    """

    matrix: list[list[float]]
    seconds_train: float
    seconds_eval: float
    seconds_data: float


def run(cfg: DictConfig) -> Result:
    """Runs one experiment from a checked configuration, whose ``inferred`` part it fills in.

    Raises:
        UserError: if a part of the configuration does not fit its class or another part, or data is missing.
        ValueError, FloatingPointError: from the strategy in training, such as when a gradient is not finite.
    """
    start = time.perf_counter()
    benchmark = _benchmark(cfg)
    seconds_data = time.perf_counter() - start
    # Now, because building a benchmark of Avalanche sets torch's global seed.
    random.seed(cfg.seed)
    np.random.seed(cfg.seed)
    torch.manual_seed(cfg.seed)
    model = _model(cfg, benchmark)
    with ProgressBar(len(benchmark.train_stream)) as progress:
        strategy = build(
            "strategy",
            cfg.strategy,
            model=model,
            optimizer=build("optimizer", cfg.optimizer, params=model.parameters()),
            criterion=nn.CrossEntropyLoss(),
            train_mb_size=cfg.train_mb_size,
            train_epochs=cfg.train_epochs,
            eval_mb_size=cfg.eval_mb_size,
            device=cfg.device,
            plugins=[progress],
            # A logger that does nothing: the default one prints every metric.
            evaluator=EvaluationPlugin(accuracy_metrics(experience=True), loggers=[BaseLogger()]),
        )
        return _train_and_evaluate(strategy, benchmark, seconds_data)


def _train_and_evaluate(strategy: Any, benchmark: Any, seconds_data: float) -> Result:
    # Joint training takes the whole stream at once, and so gives one row.
    parts = [benchmark.train_stream] if isinstance(strategy, JointTraining) else benchmark.train_stream
    seconds_train = 0.0
    start = time.perf_counter()
    matrix = [_accuracies(strategy, benchmark)]
    for part in parts:
        before = time.perf_counter()
        strategy.train(part, eval_streams=[])
        _wait_for_device()
        seconds_train += time.perf_counter() - before
        matrix.append(_accuracies(strategy, benchmark))
    seconds_eval = time.perf_counter() - start - seconds_train
    return Result(matrix, seconds_train, seconds_eval, seconds_data)


def _accuracies(strategy: Any, benchmark: Any) -> list[float]:
    """The accuracy on each test experience; not the stream's, which is weighted by samples."""
    by_experience = {}
    for name, value in strategy.eval(benchmark.test_stream).items():
        match = re.fullmatch(r"Top1_Acc_Exp/eval_phase/test_stream/Task\d+/Exp(\d+)", name)
        if match:
            by_experience[int(match[1])] = float(value)
    return [by_experience[number] for number in sorted(by_experience)]


def _wait_for_device() -> None:
    """A GPU works behind the program's back; the clock must not stop before it."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def _benchmark(cfg: DictConfig) -> Any:
    name = str(cfg.benchmark._target_).rpartition(".")[2]
    try:
        benchmark = build("benchmark", cfg.benchmark)
    except UserError as error:
        path = missing_file(name, cfg.dataset_root)
        if path is None:
            raise
        file, reason = path.relative_to(cfg.dataset_root), one_line(error.__cause__ or error)
        raise UserError(
            f"{name} needs the file {file} in the folder {cfg.dataset_root}; put it there or set "
            f"dataset_root (it is missing, and the download failed: {reason})"
        ) from error
    train, test = len(benchmark.train_stream), len(benchmark.test_stream)
    if train != test:
        raise UserError(f"{name} has {train} training and {test} test experiences; mgem needs one for one")
    _infer(cfg, benchmark)
    return subsample(benchmark, cfg.samples_per_experience, cfg.test_samples_per_experience, seed=cfg.seed)


def _infer(cfg: DictConfig, benchmark: Any) -> None:
    """Reads off the benchmark what a model must know.

    Not ``benchmark.n_classes``: permuted MNIST counts its ten classes anew in each experience.
    """
    classes = (max(experience.classes_in_this_experience) for experience in benchmark.train_stream)
    shape = list(benchmark.train_stream[0].dataset[0][0].shape)
    cfg.inferred.num_classes = 1 + max(classes)
    cfg.inferred.input_shape = shape
    cfg.inferred.input_size = prod(shape)
    cfg.inferred.n_experiences = len(benchmark.train_stream)


def _model(cfg: DictConfig, benchmark: Any) -> nn.Module:
    model: nn.Module = build("model", cfg.model)
    shape = list(cfg.inferred.input_shape)
    if not isinstance(model, MultiTaskModule):
        try:
            model.eval()(torch.zeros(1, *shape))
        except RuntimeError as error:
            reason = f"it takes no images of shape {shape}: {one_line(error)}"
            raise UserError(f"model ({cfg.model._target_}): {reason}") from error
    if len({label for experience in benchmark.train_stream for label in experience.task_labels}) > 1:
        try:
            model = multi_head(model)
        except ValueError as error:
            raise UserError(f"model: {error}") from error
    # All heads at once: the test before training needs them, and joint training would not make them.
    model.eval()
    for experience in benchmark.train_stream:
        avalanche_model_adaptation(model, experience)
    return model.to(cfg.device)
