"""One run: a benchmark, a model, a strategy; train on each experience, test on all after each."""

import random
import re
import sys
import time
from collections.abc import Sequence
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
from omegaconf import DictConfig, open_dict
from torch import nn

from avalanche_mgem.benchmarks import BatchedEvaluation, missing_file, subsample
from avalanche_mgem.benchmarks.preload import preload_with_note
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
    benchmark = make_benchmark(cfg)
    seconds_data = time.perf_counter() - start
    with ProgressBar(len(benchmark.train_stream)) as progress:
        strategy = make_strategy(cfg, benchmark, progress)
        return _train_and_evaluate(strategy, benchmark, seconds_data, loader_options(cfg))


def make_strategy(cfg: DictConfig, benchmark: Any, progress: ProgressBar) -> Any:
    """Builds the strategy, with its model and optimizer, for a benchmark.

    Sets the seeds first: not earlier, because building a benchmark of Avalanche sets torch's global seed.
    """
    random.seed(cfg.seed)
    np.random.seed(cfg.seed)
    torch.manual_seed(cfg.seed)
    model = _model(cfg, benchmark)
    return build(
        "strategy",
        cfg.strategy,
        model=model,
        optimizer=build("optimizer", cfg.optimizer, params=model.parameters()),
        criterion=nn.CrossEntropyLoss(),
        train_mb_size=cfg.train_mb_size,
        train_epochs=cfg.train_epochs,
        eval_mb_size=cfg.eval_mb_size,
        device=cfg.device,
        plugins=[progress, BatchedEvaluation()],
        # A logger that does nothing: the default one prints every metric.
        evaluator=EvaluationPlugin(accuracy_metrics(experience=True), loggers=[BaseLogger()]),
    )


def parts_to_train(strategy: Any, benchmark: Any) -> Sequence[Any]:
    """What is trained one after the other: experiences; joint training takes the whole stream at once."""
    return [benchmark.train_stream] if isinstance(strategy, JointTraining) else benchmark.train_stream


def _train_and_evaluate(
    strategy: Any, benchmark: Any, seconds_data: float, options: dict[str, bool]
) -> Result:
    seconds_train = 0.0
    start = time.perf_counter()
    tests = list(benchmark.test_stream)  # once: it looks for the classes of each experience anew
    matrix = [_accuracies(strategy, tests, options)]
    for part in parts_to_train(strategy, benchmark):
        before = time.perf_counter()
        strategy.train(part, eval_streams=[], **options)
        _wait_for_device()
        seconds_train += time.perf_counter() - before
        matrix.append(_accuracies(strategy, tests, options))
    seconds_eval = time.perf_counter() - start - seconds_train
    return Result(matrix, seconds_train, seconds_eval, seconds_data)


def _accuracies(strategy: Any, tests: Sequence[Any], options: dict[str, bool]) -> list[float]:
    """The accuracy on each test experience; not the stream's, which is weighted by samples."""
    by_experience = {}
    for name, value in strategy.eval(tests, **options).items():
        match = re.fullmatch(r"Top1_Acc_Exp/eval_phase/test_stream/Task\d+/Exp(\d+)", name)
        if match:
            by_experience[int(match[1])] = float(value)
    return [by_experience[number] for number in sorted(by_experience)]


def _wait_for_device() -> None:
    """A GPU works behind the program's back; the clock must not stop before it."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def make_benchmark(cfg: DictConfig) -> Any:
    """Builds the benchmark and fills in the ``inferred`` part of the configuration."""
    name = str(cfg.benchmark._target_).rpartition(".")[2]
    is_preloaded = _is_preloaded(cfg)
    node = cfg.benchmark.copy()
    with open_dict(node):
        node.pop("preload", None)
    try:
        benchmark = build("benchmark", node)
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
    benchmark = subsample(
        benchmark, cfg.samples_per_experience, cfg.test_samples_per_experience, seed=cfg.seed
    )
    if is_preloaded:
        benchmark, note = preload_with_note(benchmark, cfg.device if _is_cuda(cfg) else None)
        if note:
            sys.stderr.write(f"mgem: {note}\n")
    return benchmark


def loader_options(cfg: DictConfig) -> dict[str, bool]:
    """For ``train`` and ``eval`` of a strategy: images that are on the GPU already cannot be pinned."""
    return {"pin_memory": _is_cuda(cfg) and not _is_preloaded(cfg)}


def _is_cuda(cfg: DictConfig) -> bool:
    return str(cfg.device).startswith("cuda")


def _is_preloaded(cfg: DictConfig) -> bool:
    value = cfg.benchmark.get("preload", True)
    if not isinstance(value, bool):
        raise UserError(f"benchmark.preload={value}: it must be true or false")
    return value


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
    if cfg.channels_last:  # weights of convolutions only
        model = model.to(memory_format=torch.channels_last)
    shape = list(cfg.inferred.input_shape)
    if not isinstance(model, MultiTaskModule):
        try:
            model.eval()(torch.zeros(1, *shape))
        except RuntimeError as error:
            reason = f"it takes no images of shape {shape}: {one_line(error)}"
            if cfg.channels_last and "view size" in str(error):
                reason += " Or set channels_last=false."
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
