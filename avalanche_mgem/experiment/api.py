"""One run, from Python or from the command: checked, logged, and written to its folder."""

import os
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from avalanche_mgem.experiment.configuration import compose
from avalanche_mgem.experiment.errors import UserError, explain
from avalanche_mgem.experiment.evaluation import make_loggers
from avalanche_mgem.experiment.folder import claimed, write_run
from avalanche_mgem.experiment.quiet import quiet
from avalanche_mgem.experiment.runner import Result, train_and_evaluate
from avalanche_mgem.experiment.settings import check_settings


def run(
    config: DictConfig | Mapping[str, Any] | Sequence[str], folder: str | os.PathLike[str] | None = None
) -> Result:
    """Runs one experiment, as the command ``mgem`` does.

    Args:
        config: what :func:`compose` returns, or the words that one would give to it.
        folder: a new folder for the results, with the files of the command's run folders; None (default)
            writes nothing.

    Returns:
        What was measured.

    Raises:
        avalanche_mgem.experiment.UserError: in one line, for what the configuration or the data have wrong.
        ValueError, FloatingPointError: from the strategy in training, such as when a gradient is not finite.

    Example:
        >>> result = run(["strategy=gem", "benchmark.n_experiences=2", "samples_per_experience=100"])
        >>> result.accuracies.shape  # untrained, and after each of two experiences
        (3, 2)
    """
    if isinstance(config, str):
        raise UserError(f"run({config!r}): give a list of such words, or a configuration")
    to = None if folder is None else Path(folder)
    if isinstance(config, DictConfig):
        return execute(config.copy(), to)  # it is filled in while it runs
    if isinstance(config, Mapping):
        return execute(OmegaConf.create(dict(config)), to)
    words = list(config)
    try:
        cfg = compose(*words)
    except (HydraException, OmegaConfBaseException) as error:
        raise UserError(explain(error)) from error
    return execute(cfg, to, overrides=words)


def execute(
    cfg: DictConfig,
    folder: Path | None,
    *,
    overrides: Sequence[str] = (),
    group: str | None = None,
    job: int | None = None,
) -> Result:
    """Runs one experiment from a configuration, which it fills in, and writes it to a folder.

    Args:
        cfg: the configuration.
        folder: of the results; None writes nothing.
        overrides: what the user changed in the configuration.
        group: of runs that belong together: the sweep.
        job: number of the run in it.
    """
    if folder is None and cfg.get("logger"):
        raise UserError(f"logger={','.join(cfg.logger)} needs a folder for the results")
    cfg.output_dir = None if folder is None else str(folder)
    with nullcontext() if folder is None else claimed(folder), quiet():
        check_settings(cfg)
        loggers = make_loggers(cfg)

        def begin_logging(filled: DictConfig) -> list[Any]:
            _begin(loggers, filled, folder, group)
            return loggers

        try:
            result = train_and_evaluate(cfg, begin_logging)
            if folder is not None:
                write_run(folder, cfg, result, overrides=overrides, job=job)
        except BaseException:
            for logger in _of_runs(loggers):
                logger.fail()
            raise
        for logger in _of_runs(loggers):
            logger.end_run(result.summary, result.matrix)
    return result


def _begin(loggers: Sequence[Any], cfg: DictConfig, folder: Path | None, group: str | None) -> None:
    """Tells the loggers that know runs of this one; its configuration is complete now."""
    for logger in _of_runs(loggers):
        logger.begin_run(
            folder=folder,
            config=OmegaConf.to_container(cfg, resolve=True),
            name=folder.name if folder else None,
            group=group,
            tags=list(cfg.names.values()),
        )


def _of_runs(loggers: Sequence[Any]) -> list[Any]:
    """Those that know when a run begins and ends, as W&B's; Avalanche's own know only metrics."""
    return [logger for logger in loggers if hasattr(logger, "begin_run")]
