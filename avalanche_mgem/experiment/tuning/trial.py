"""One trial: runs with the same values, whose accuracy on validation samples is the objective."""

from collections.abc import Generator, Mapping
from statistics import fmean
from types import SimpleNamespace
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf

from avalanche_mgem.experiment._prepare import Built, build_benchmark, loader_options, prepare
from avalanche_mgem.experiment.evaluator import accuracies
from avalanche_mgem.experiment.progress import ProgressBar
from avalanche_mgem.experiment.runner import explained, make_strategy, parts_to_train
from avalanche_mgem.experiment.tuning.settings import Settings
from avalanche_mgem.runs import UserError

_OF_DATA = (
    "seed",
    "samples_per_experience",
    "test_samples_per_experience",
    "validation",
    "dataset_root",
    "device",
)


class Benchmarks:
    """Builds each benchmark once: the trials of a study differ in what does not change it."""

    def __init__(self) -> None:
        self._built: dict[str, Built] = {}

    def __call__(self, cfg: DictConfig) -> Built:
        """The benchmark of a configuration."""
        key = repr([OmegaConf.to_container(cfg.benchmark, resolve=True), *(cfg[name] for name in _OF_DATA)])
        if key not in self._built:
            self._built[key] = build_benchmark(cfg)
        return self._built[key]


def with_values(cfg: DictConfig, values: Mapping[str, Any], seed: int) -> DictConfig:
    """The configuration of a run in a trial.

    Args:
        cfg: the configuration without the trial's values; it stays as it is.
        values: by dotted keys, which the configuration has.
        seed: of the run.
    """
    cfg = cfg.copy()
    for key, value in values.items():
        OmegaConf.update(cfg, key, value)
    cfg.seed = seed
    return cfg


def objectives(
    cfg: DictConfig, settings: Settings, values: Mapping[str, Any], benchmarks: Benchmarks
) -> Generator[float]:
    """Trains with these values, run after run; gives the objective so far after each run.

    That is the mean over the runs so far of the mean accuracy on the validation samples of all experiences.
    The last one is the objective of the trial.

    Raises:
        UserError: if the values do not fit.
        ValueError, FloatingPointError: from the strategy in training, and if the weights are not finite.
    """
    done: list[float] = []
    for number in range(settings.seeds):
        run, benchmark = prepare(with_values(cfg, values, settings.first_seed + number), benchmarks)
        done.append(_validated(run, first(benchmark, settings.experiences)))
        yield fmean(done)


def _validated(cfg: DictConfig, benchmark: Any) -> float:
    """Trains on all experiences; the mean accuracy on their validation samples at the end."""
    options = loader_options(cfg)
    with explained(cfg):
        strategy = make_strategy(cfg, benchmark, ProgressBar())  # it is not shown
        for number, part in enumerate(parts_to_train(strategy, benchmark)):
            strategy.train(part, eval_streams=[], **options)
            if not all(parameter.isfinite().all() for parameter in strategy.model.parameters()):
                raise FloatingPointError(f"the weights are not finite after experience {number}")
        with torch.no_grad():
            return fmean(accuracies(strategy.eval(benchmark.valid_stream, **options), "valid"))


def first(benchmark: Any, experiences: int | None) -> Any:
    """The training and validation streams of the first experiences. There is no test stream in it.

    Raises:
        UserError: if the benchmark has fewer.
    """
    number = len(benchmark.train_stream)
    if experiences is not None and experiences > number:
        raise UserError(
            f"tune.experiences={experiences}: the benchmark has {number}; give at most {number}, or null "
            "for all"
        )
    streams = (benchmark.train_stream, benchmark.valid_stream)
    train, valid = (stream[: experiences or number] for stream in streams)
    return SimpleNamespace(train_stream=train, valid_stream=valid)
