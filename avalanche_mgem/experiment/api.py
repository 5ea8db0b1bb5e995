"""One run, from Python or from the command: checked, logged, and written to its folder."""

import errno
import io
import os
import re
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf, read_write

from avalanche_mgem.experiment._checkpoints import Checkpoints
from avalanche_mgem.experiment._environment import ALONE, environment, reset_peak_memory
from avalanche_mgem.experiment._prepare import prepare
from avalanche_mgem.experiment._quiet import quiet
from avalanche_mgem.experiment._sweep import Place
from avalanche_mgem.experiment.configuration import compose
from avalanche_mgem.experiment.errors import say
from avalanche_mgem.experiment.evaluator import make_loggers
from avalanche_mgem.experiment.progress import ProgressBar
from avalanche_mgem.experiment.runner import make_model, train_and_evaluate
from avalanche_mgem.experiment.settings import check_settings
from avalanche_mgem.runs import (
    MODEL_FILE,
    Result,
    UserError,
    check_same_run,
    claimed,
    clear_checkpoints,
    is_complete,
    keep_run,
    one_line,
    read_result,
    write_whole,
    written,
)
from avalanche_mgem.timing import now

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EIO)  # errors of writing, which do not name the file


def run(
    config: DictConfig | Mapping[str, Any] | Sequence[str], folder: str | os.PathLike[str] | None = None
) -> Result:
    """Runs one experiment, as the command ``mgem`` does.

    Args:
        config: what :func:`compose` returns, or the words that one would give to it.
        folder: a new folder for the results, with the files of the command's run folders, or that of a run
            that was cut, which then goes on; None (default) writes nothing. The folder of a complete run of
            the same configuration gives its result again.

    Returns:
        What was measured, and the trained model; from a complete run's folder the model that
        ``save_model=true`` has kept there, or None.

    Raises:
        avalanche_mgem.experiment.UserError: in one line, for what the configuration or the data have wrong.
        ValueError, FloatingPointError: from the strategy in training, such as when a gradient is not finite.

    Example:
        >>> result = run(["strategy=gem", "benchmark.n_experiences=2", "samples_per_experience=100"])
        >>> result.accuracies.shape  # untrained, and after each of two experiences
        (3, 2)
        >>> result.model(torch.zeros(1, 1, 8, 8)).shape
        torch.Size([1, 10])
    """
    if isinstance(config, str):
        raise UserError(f"run({config!r}): give a list of such words, or a configuration")
    target = None if folder is None else Path(folder)
    words: list[str] = []
    if isinstance(config, DictConfig):
        cfg = config
    elif isinstance(config, Mapping):
        cfg = OmegaConf.create(dict(config))
    else:
        words = list(config)
        cfg = compose(*words)
        if of_hydra := [word for word in words if re.match(r"[+~]*hydra[./](?!searchpath)", word)]:
            raise UserError(f"{of_hydra[0]}: this is for the command mgem, and nothing else reads it")
    if target is not None and is_complete(target):
        return _finished(target, cfg)
    return execute(cfg, target, overrides=words)


def _finished(folder: Path, cfg: DictConfig) -> Result:
    """The result of a complete run of this configuration, with its model if that was kept."""
    cfg = cfg.copy()
    OmegaConf.set_readonly(cfg, False)  # it may come from an earlier call
    check_settings(cfg)
    check_same_run(folder, cfg, way_out="give another folder")
    result, path = read_result(folder), folder / MODEL_FILE
    if not path.is_file():
        return result
    with quiet():
        model = make_model(*prepare(cfg))
    try:
        model.load_state_dict(torch.load(path, weights_only=True))
    except (RuntimeError, OSError, EOFError, ValueError, UnpicklingError) as error:
        raise UserError(f"{path}: these are no weights of the run's model: {one_line(error)}") from error
    return replace(result, model=model)


def execute(
    cfg: DictConfig,
    folder: Path | None,
    *,
    overrides: Sequence[str] = (),
    group: str | None = None,
    job: int | None = None,
    launcher: Mapping[str, Any] = ALONE,
    place: Place | None = None,
    is_new: bool = False,
) -> Result:
    """Runs one experiment from a configuration, and writes it to a folder.

    Args:
        cfg: the configuration; it stays as it is.
        folder: of the results; None writes nothing.
        overrides: what the user changed in the configuration.
        group: of runs that belong together: the sweep.
        job: number of the run in it, from 0.
        launcher: what makes the runs of the sweep, and how many at the same time.
        place: in the sweep, to be shown.
        is_new: whether the folder was made, empty, for this run.

    Returns:
        What was measured.
    """
    if folder is None and cfg.get("logger"):
        raise UserError(f"logger={','.join(cfg.logger)} needs a folder for the results")
    if folder is None and cfg.get("save_model") is True:
        raise UserError("save_model=true needs a folder for the results")
    cfg = cfg.copy()
    with read_write(cfg):
        cfg.output_dir = None if folder is None else str(folder)
    with (
        nullcontext() if folder is None else claimed(folder, is_new=is_new),
        quiet(),
        ProgressBar(is_on=cfg.get("progress") is True, place=place) as progress,
    ):
        reset_peak_memory()
        start = now("cpu")
        cfg, benchmark = prepare(cfg)
        seconds_data = now(cfg.device) - start
        checkpoints = Checkpoints(folder, cfg, benchmark)
        loggers = make_loggers(cfg)
        # W&B's logger knows when a run begins and ends; Avalanche's own know only metrics.
        run_loggers = [logger for logger in loggers if hasattr(logger, "begin_run")]
        try:
            for logger in run_loggers:
                logger.begin_run(
                    folder=folder,
                    config=written(cfg),
                    name=folder.name if folder else None,
                    group=group,
                    tags=list(cfg.names.values()),
                )
            result = train_and_evaluate(
                cfg,
                benchmark,
                seconds_data=seconds_data,
                loggers=loggers,
                checkpoints=checkpoints,
                progress=progress,
            )
            if folder is not None:
                lost = _written_model(folder / MODEL_FILE, result.model) if cfg.save_model else None
                made_by = {**environment(cfg.device), "launcher": dict(launcher)}
                made_by |= {"overrides": list(overrides), "job": job}
                if note := keep_run(folder, cfg, result, made_by):
                    say(note)
                clear_checkpoints(folder)
                if lost is not None:
                    raise lost
        except BaseException as error:
            for logger in run_loggers:
                logger.fail()
            if (
                folder is not None
                and isinstance(error, OSError)
                and error.errno in _FULL
                and not error.filename
            ):
                reason = f"{error.strerror}, perhaps in the run folder {folder}; nothing is kept of this run"
                raise UserError(reason) from error
            raise
        for logger in run_loggers:
            logger.end_run(result.summary, result.matrix)
    return result


def _written_model(path: Path, model: torch.nn.Module) -> UserError | None:
    """Writes the weights, or returns why they are lost: the results come first."""
    try:
        write_model(path, model)
    except OSError as error:
        return UserError(f"{error.filename}: {error.strerror}; the model is lost, the results are kept")
    return None


def write_model(path: Path, model: torch.nn.Module) -> None:
    """Writes a model's weights, on the CPU: a state dict for ``torch.load(path, weights_only=True)``."""
    weights = {name: value.cpu() for name, value in model.state_dict().items()}
    buffer = io.BytesIO()
    torch.save(weights, buffer)
    write_whole(path, [buffer.getbuffer()])
