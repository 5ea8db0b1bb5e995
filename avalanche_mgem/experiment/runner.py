"""One run: a model and a strategy for a benchmark; train on each experience, test on all after each."""

import random
import sysconfig
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from avalanche.core import BasePlugin
from avalanche.models import MultiTaskModule
from avalanche.models.dynamic_modules import avalanche_model_adaptation
from avalanche.training import DER, Cumulative, GDumb, JointTraining
from avalanche.training.templates.base_sgd import BaseSGDTemplate
from omegaconf import DictConfig, OmegaConf, open_dict, read_write
from torch import nn
from torch.nn.parameter import is_lazy

from avalanche_mgem.data import BatchedEvaluation
from avalanche_mgem.experiment._checkpoints import Checkpoints
from avalanche_mgem.experiment._environment import peak_memory_mb
from avalanche_mgem.experiment._prepare import loader_options
from avalanche_mgem.experiment.evaluator import accuracies, accuracy_only, make_evaluator
from avalanche_mgem.experiment.progress import ProgressBar
from avalanche_mgem.experiment.settings import blame, build
from avalanche_mgem.metrics import constraint_row
from avalanche_mgem.models import multi_head
from avalanche_mgem.runs import Result, UserError, one_line
from avalanche_mgem.timing import now

_STDLIB = Path(sysconfig.get_path("stdlib"))


def train_and_evaluate(
    cfg: DictConfig,
    benchmark: Any,
    *,
    seconds_data: float,
    loggers: Sequence[Any] = (),
    checkpoints: Checkpoints | None = None,
    progress: ProgressBar | None = None,
) -> Result:
    """Trains on each experience of a benchmark, and tests on all after each.

    With ``validation`` in the configuration it also tests on all validation experiences.

    Args:
        cfg: the configuration, from :func:`~avalanche_mgem.experiment._prepare.prepare`.
        benchmark: from there, too.
        seconds_data: how long that took, for the result.
        loggers: of Avalanche, for every metric.
        checkpoints: one is written after each experience but the last. Where one was found, the run goes on
            after its experience. None writes none.
        progress: shows how far the run is; None shows nothing.

    Raises:
        UserError: if a part of the configuration does not fit its class or another part.
        ValueError, FloatingPointError: from the strategy in training, such as when a gradient is not finite.
    """
    options = loader_options(cfg)
    cleared = nullcontext() if checkpoints is None else checkpoints.cleared_by_mistakes()
    progress = progress or ProgressBar()
    with cleared, explained(cfg):
        strategy = make_strategy(cfg, benchmark, progress, loggers)
        tests = list(benchmark.test_stream)  # once: it looks for the classes of each experience anew
        valid = [] if cfg.get("validation") is None else list(benchmark.valid_stream)
        parts = parts_to_train(strategy, benchmark)
        progress.begin(len(parts), len(benchmark.train_stream))
        if checkpoints is not None and checkpoints.found is not None:
            notes = checkpoints.restore(strategy)
            so_far = _SoFar(**{part.name: notes[part.name] for part in fields(_SoFar) if part.name in notes})
            progress.begin(len(parts), len(benchmark.train_stream), trained=len(so_far.matrix) - 1)
        else:
            so_far = _SoFar()
            so_far.test(strategy, tests, valid, options)
        for number, part in enumerate(parts):
            if number < len(so_far.matrix) - 1:
                continue
            progress.train(number)
            before = now(cfg.device)
            metrics = strategy.train(part, eval_streams=[], **options)
            so_far.seconds_train += now(cfg.device) - before
            if row := constraint_row(metrics, number):
                so_far.constraints.append({"experience": number, **row})
            so_far.test(strategy, tests, valid, options)
            progress.tested(so_far.matrix[-1])
            so_far.peak_memory_mb = _larger(so_far.peak_memory_mb, peak_memory_mb(cfg.device))
            if checkpoints is not None and number < len(parts) - 1:
                checkpoints.save(strategy, asdict(so_far))
        return Result(
            **asdict(so_far),
            seconds_data=seconds_data,
            names={group: str(name) for group, name in cfg.names.items()},
            seed=cfg.seed,
            model=strategy.model,
        )


@dataclass
class _SoFar:
    """What a run has measured so far; a checkpoint keeps it beside the strategy."""

    matrix: list[list[float]] = field(default_factory=list)
    seconds_train: float = 0.0
    seconds_eval: float = 0.0
    peak_memory_mb: float | None = None
    constraints: list[dict[str, float]] = field(default_factory=list)
    valid_matrix: list[list[float]] = field(default_factory=list)

    def test(
        self, strategy: Any, tests: Sequence[Any], valid: Sequence[Any], options: Mapping[str, bool]
    ) -> None:
        """Tests on all experiences, for a row of the matrix, and on those of validation, if there are any."""
        before = now(strategy.device)
        self.matrix.append(accuracies(strategy.eval(tests, **options)))
        if valid:
            with accuracy_only(strategy.evaluator):
                self.valid_matrix.append(accuracies(strategy.eval(valid, **options), "valid"))
        self.seconds_eval += now(strategy.device) - before


def _larger(a: float | None, b: float | None) -> float | None:
    known = [value for value in (a, b) if value is not None]
    return max(known, default=None)


@contextmanager
def explained(cfg: DictConfig) -> Iterator[None]:
    """Turns an error that a class of another package raises in training into one line with its values.

    Such a class may notice only then that it cannot work with what the user gave it. An error of the method
    or of the user's own code stays as it is.
    """
    try:
        yield
    except Exception as error:
        if isinstance(error, UserError | FloatingPointError | BrokenPipeError) or not _is_of_others(error):
            raise
        values: Any = OmegaConf.to_container(cfg.strategy, resolve=True)
        target = values.pop("_target_")
        raise UserError(blame("strategy", target, values, error)) from error


def _is_of_others(error: Exception) -> bool:
    """Whether it comes out of an installed package, and no code but that of the command was on the way."""
    command, package = Path(__file__).parent, Path(__file__).parents[1]
    frames = [Path(frame.filename) for frame in traceback.extract_tb(error.__traceback__)]
    others = [file for file in frames if not file.is_relative_to(command)]
    return bool(others) and all(
        not file.is_relative_to(package)
        and (
            bool({"site-packages", "dist-packages"}.intersection(file.parts))
            or file.is_relative_to(_STDLIB)
            or file.name.startswith("<")  # code that a library has made
        )
        for file in others
    )


def make_strategy(cfg: DictConfig, benchmark: Any, progress: ProgressBar, loggers: Sequence[Any] = ()) -> Any:
    """Builds the strategy, with its model and optimizer, for a benchmark.

    Sets the seeds first: not earlier, because building a benchmark of Avalanche sets torch's global seed.
    """
    random.seed(cfg.seed)
    np.random.seed(cfg.seed)
    torch.manual_seed(cfg.seed)
    model = make_model(cfg, benchmark)
    node, plugins = _without_plugins(cfg)
    strategy = build(
        "strategy",
        node,
        BaseSGDTemplate,
        model=model,
        optimizer=build("optimizer", cfg.optimizer, torch.optim.Optimizer, params=model.parameters()),
        criterion=nn.CrossEntropyLoss(),
        train_mb_size=cfg.train_mb_size,
        train_epochs=cfg.train_epochs,
        eval_mb_size=cfg.eval_mb_size,
        device=cfg.device,
        plugins=[*plugins, progress, BatchedEvaluation(cfg.eval_keep_mib * 2**20)],
        evaluator=make_evaluator(cfg, loggers),
    )
    _check_tasks(cfg, strategy, _task_labels(benchmark))
    strategy.eval_every = 0  # Avalanche's forward transfer refuses -1
    return strategy


def _task_labels(benchmark: Any) -> set[int]:
    return {label for exp in benchmark.train_stream for label in getattr(exp, "task_labels", ())}


def _check_tasks(cfg: DictConfig, strategy: Any, labels: set[int]) -> None:
    """Refuses what Avalanche's strategies cannot do with several task labels, of which some say nothing."""
    where = f"strategy ({cfg.strategy._target_})"
    if isinstance(strategy, DER) and isinstance(strategy.model, MultiTaskModule):
        raise UserError(
            f"{where}: Avalanche's DER works with one head for all experiences; set "
            "benchmark.return_task_id=false"
        )
    if isinstance(strategy, JointTraining | Cumulative | GDumb) and cfg.train_mb_size < len(labels):
        raise UserError(
            f"{where}: each of its minibatches has samples of every task label, of which the benchmark has "
            f"{len(labels)}; set train_mb_size={len(labels)} or more, or benchmark.return_task_id=false"
        )


def parts_to_train(strategy: Any, benchmark: Any) -> Sequence[Any]:
    """What ``train`` takes, one after the other: experiences, or for joint training the whole stream."""
    return [benchmark.train_stream] if isinstance(strategy, JointTraining) else benchmark.train_stream


def _without_plugins(cfg: DictConfig) -> tuple[DictConfig, list[Any]]:
    """The strategy's settings without its plugins, and the plugins, made by their own ``_target_``."""
    node = cfg.strategy.copy()
    with read_write(node), open_dict(node):
        given = node.pop("plugins", None)
    named: Any = {} if given is None else given
    if not isinstance(named, Mapping) or not all(_has_target(plugin) for plugin in named.values()):
        raise UserError(
            f"strategy.plugins={given}: it must have a name for each plugin and a _target_ under each "
            "name, such as {replay: {_target_: avalanche.training.plugins.ReplayPlugin, mem_size: 200}}"
        )
    return node, [build(f"strategy.plugins.{name}", plugin, BasePlugin) for name, plugin in named.items()]


def _has_target(node: Any) -> bool:
    return isinstance(node, DictConfig) and isinstance(node.get("_target_"), str)


def make_model(cfg: DictConfig, benchmark: Any) -> nn.Module:
    """Builds the model, with all its heads, on the device."""
    model: nn.Module = build("model", cfg.model, nn.Module)
    takes_images_alone = not isinstance(model, MultiTaskModule)
    if takes_images_alone:
        _output(cfg, model)  # it also makes the weights of lazy layers
    if cfg.channels_last:
        _lay_channels_last(model)
        if takes_images_alone:
            _output(cfg, model, " Or set channels_last=false.")
    if len(_task_labels(benchmark)) > 1:
        try:
            model = multi_head(model)
        except ValueError as error:
            raise UserError(f"model: {error}") from error
    # All heads at once: the test before training needs them, and joint training would not make them.
    model.eval()
    for experience in benchmark.train_stream:
        avalanche_model_adaptation(model, experience)
    if not isinstance(model, MultiTaskModule):
        _check_outputs(cfg, _output(cfg, model))
    return model.to(cfg.device)


def _output(cfg: DictConfig, model: nn.Module, advice: str = "") -> Any:
    """What the model gives for one black image.

    Args:
        cfg: the configuration.
        model: which takes images and nothing else.
        advice: at the end of the error.

    Raises:
        UserError: naming the model, if it fails.
    """
    shape = list(cfg.inferred.input_shape)
    try:
        return model.eval()(torch.zeros(1, *shape))
    except Exception as error:
        reason = one_line(error)
        if not isinstance(error, RuntimeError | ValueError) or isinstance(error, NotImplementedError):
            reason = f"{type(error).__name__}: {reason}"
        raise UserError(
            f"model ({cfg.model._target_}): it takes no images of shape {shape}: {reason}{advice}"
        ) from error


def _lay_channels_last(model: nn.Module) -> None:
    """Lays the weights of 2-D convolutions out with the channels last; all others stay as they are."""
    for tensor in (*model.parameters(), *model.buffers()):
        if not is_lazy(tensor) and tensor.dim() == 4:
            tensor.data = tensor.data.contiguous(memory_format=torch.channels_last)


def _check_outputs(cfg: DictConfig, output: Any) -> None:
    """Refuses a model with fewer outputs than classes: its loss would fail somewhere in training."""
    found, needed = output.shape[-1] if isinstance(output, torch.Tensor) else None, cfg.inferred.num_classes
    if found is None or found < needed:
        what = type(output).__name__ if found is None else f"{found} outputs"
        raise UserError(
            f"model ({cfg.model._target_}): it gives {what}; it must give at least {needed} outputs"
        )
