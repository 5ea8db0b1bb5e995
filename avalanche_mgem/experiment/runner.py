"""One run: a benchmark, a model, a strategy; train on each experience, test on all after each."""

import random
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from avalanche.benchmarks import CLScenario, with_classes_timeline
from avalanche.models import MultiTaskModule
from avalanche.models.dynamic_modules import avalanche_model_adaptation
from avalanche.training import JointTraining
from avalanche.training.templates.base_sgd import BaseSGDTemplate
from omegaconf import DictConfig, open_dict
from torch import nn

from avalanche_mgem.data import BatchedEvaluation, missing_file, preload_with_note, subsample
from avalanche_mgem.experiment.environment import peak_memory_mb, reset_peak_memory
from avalanche_mgem.experiment.errors import UserError, one_line
from avalanche_mgem.experiment.evaluation import accuracies, make_evaluator
from avalanche_mgem.experiment.metrics import all_metrics
from avalanche_mgem.experiment.progress import ProgressBar
from avalanche_mgem.experiment.settings import build
from avalanche_mgem.metrics import constraint_row
from avalanche_mgem.models import multi_head

if TYPE_CHECKING:
    import pandas


@dataclass(frozen=True)
class Result:
    """What a run measured.

    Attributes:
        matrix: accuracies as fractions, the untrained model's first, then a row after each training.
        seconds_train: in training, loading of minibatches included.
        seconds_eval: in evaluation, likewise.
        seconds_data: in building the benchmark.
        peak_memory_mb: the largest amount of memory used, see
            :func:`~avalanche_mgem.experiment.environment.peak_memory_mb`.
        names: the chosen ``strategy`` and ``benchmark``.
        seed: of the run.
        constraints: what the constraints did in each experience that had any: its number under
            ``"experience"``, and means over its steps, see :mod:`avalanche_mgem.metrics`.
    """

    matrix: list[list[float]]
    seconds_train: float
    seconds_eval: float
    seconds_data: float
    peak_memory_mb: float | None
    names: dict[str, str]
    seed: int
    constraints: list[dict[str, float]] = field(default_factory=list)

    @property
    def summary(self) -> dict[str, Any]:
        """The contents of ``summary.json``."""
        return {
            **all_metrics(self.matrix),
            "seconds_train": self.seconds_train,
            "seconds_eval": self.seconds_eval,
            "seconds_data": self.seconds_data,
            "peak_memory_mb": self.peak_memory_mb,
            **self.names,
            "seed": self.seed,
        }

    @property
    def accuracies(self) -> "pandas.DataFrame":
        """The matrix; its index ``after`` is 0 for the untrained model, i after training experience i - 1."""
        import pandas

        columns = pandas.RangeIndex(len(self.matrix[0]), name="experience")
        return pandas.DataFrame(self.matrix, columns=columns).rename_axis(index="after")


def train_and_evaluate(
    cfg: DictConfig, begin_logging: Callable[[DictConfig], Sequence[Any]] = lambda _: ()
) -> Result:
    """Runs one experiment from a checked configuration, whose ``inferred`` part it fills in.

    Args:
        cfg: the configuration.
        begin_logging: gives the loggers; called with the configuration once it is filled in.

    Raises:
        UserError: if a part of the configuration does not fit its class or another part, or data is missing.
        ValueError, FloatingPointError: from the strategy in training, such as when a gradient is not finite.
    """
    reset_peak_memory(cfg.device)
    start = time.perf_counter()
    benchmark = make_benchmark(cfg)
    seconds_data = time.perf_counter() - start
    with ProgressBar(len(benchmark.train_stream)) as progress:
        strategy = make_strategy(cfg, benchmark, progress, begin_logging(cfg))
        return _train_and_evaluate(cfg, strategy, benchmark, seconds_data)


def make_strategy(cfg: DictConfig, benchmark: Any, progress: ProgressBar, loggers: Sequence[Any] = ()) -> Any:
    """Builds the strategy, with its model and optimizer, for a benchmark.

    Sets the seeds first: not earlier, because building a benchmark of Avalanche sets torch's global seed.
    """
    random.seed(cfg.seed)
    np.random.seed(cfg.seed)
    torch.manual_seed(cfg.seed)
    model = _model(cfg, benchmark)
    strategy = build(
        "strategy",
        cfg.strategy,
        BaseSGDTemplate,
        model=model,
        optimizer=build("optimizer", cfg.optimizer, torch.optim.Optimizer, params=model.parameters()),
        criterion=nn.CrossEntropyLoss(),
        train_mb_size=cfg.train_mb_size,
        train_epochs=cfg.train_epochs,
        eval_mb_size=cfg.eval_mb_size,
        device=cfg.device,
        plugins=[progress, BatchedEvaluation()],
        evaluator=make_evaluator(cfg, loggers),
    )
    strategy.eval_every = 0  # Avalanche's forward transfer asks for it; evaluation stays what run() calls
    return strategy


def parts_to_train(strategy: Any, benchmark: Any) -> Sequence[Any]:
    """What is trained one after the other: experiences; joint training takes the whole stream at once."""
    return [benchmark.train_stream] if isinstance(strategy, JointTraining) else benchmark.train_stream


def _train_and_evaluate(cfg: DictConfig, strategy: Any, benchmark: Any, seconds_data: float) -> Result:
    options = loader_options(cfg)
    seconds_train = 0.0
    start = time.perf_counter()
    tests = list(benchmark.test_stream)  # once: it looks for the classes of each experience anew
    matrix = [accuracies(strategy.eval(tests, **options))]
    constraints = []
    for number, part in enumerate(parts_to_train(strategy, benchmark)):
        before = time.perf_counter()
        metrics = strategy.train(part, eval_streams=[], **options)
        _wait_for_device()
        seconds_train += time.perf_counter() - before
        if row := constraint_row(metrics, number):
            constraints.append({"experience": number, **row})
        matrix.append(accuracies(strategy.eval(tests, **options)))
    return Result(
        matrix,
        seconds_train,
        time.perf_counter() - start - seconds_train,
        seconds_data,
        peak_memory_mb(cfg.device),
        names={group: str(name) for group, name in cfg.names.items()},
        seed=cfg.seed,
        constraints=constraints,
    )


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
        benchmark = build("benchmark", node, CLScenario)
    except UserError as error:
        path = missing_file(name, cfg.dataset_root)
        if path is None:
            raise
        file, reason = path.relative_to(cfg.dataset_root), one_line(error.__cause__ or error)
        raise UserError(
            f"{name} needs the file {file} in the folder {cfg.dataset_root}; put it there or set "
            f"dataset_root (it is missing, and the download failed: {reason})"
        ) from error
    if missing := {"train", "test"} - benchmark.streams.keys():
        raise UserError(f"benchmark ({node._target_}): it has no {sorted(missing)[0]} stream")
    train, test = len(benchmark.train_stream), len(benchmark.test_stream)
    if train != test:
        raise UserError(f"{name} has {train} training and {test} test experiences; mgem needs one for one")
    if not hasattr(benchmark.train_stream[0], "classes_in_this_experience"):
        benchmark = with_classes_timeline(benchmark)
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
    image = benchmark.train_stream[0].dataset[0][0]
    if not (isinstance(image, torch.Tensor) and image.is_floating_point()):
        raise UserError(
            "benchmark: train_transform must return a float tensor; let it end in torchvision's ToTensor and "
            "Normalize"
        )
    shape = list(image.shape)
    cfg.inferred.num_classes = 1 + max(classes)
    cfg.inferred.input_shape = shape
    cfg.inferred.input_size = prod(shape)
    cfg.inferred.n_experiences = len(benchmark.train_stream)
    streams = benchmark.train_stream, benchmark.test_stream
    cfg.inferred.n_samples = [sum(len(experience.dataset) for experience in stream) for stream in streams]


def _model(cfg: DictConfig, benchmark: Any) -> nn.Module:
    model: nn.Module = build("model", cfg.model, nn.Module)
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
    labels = {label for exp in benchmark.train_stream for label in getattr(exp, "task_labels", ())}
    if len(labels) > 1:
        try:
            model = multi_head(model)
        except ValueError as error:
            raise UserError(f"model: {error}") from error
    # All heads at once: the test before training needs them, and joint training would not make them.
    model.eval()
    for experience in benchmark.train_stream:
        avalanche_model_adaptation(model, experience)
    if not isinstance(model, MultiTaskModule):
        _check_outputs(cfg, model(torch.zeros(1, *shape)))
    return model.to(cfg.device)


def _check_outputs(cfg: DictConfig, output: Any) -> None:
    """Refuses a model with fewer outputs than classes, with which the loss fails somewhere in training."""
    found, needed = output.shape[-1] if isinstance(output, torch.Tensor) else None, cfg.inferred.num_classes
    if found is None or found < needed:
        what = type(output).__name__ if found is None else f"{found} outputs"
        raise UserError(
            f"model ({cfg.model._target_}): it gives {what}; it must give at least {needed} outputs"
        )
