"""The command ``mgem``: a Hydra application over the configuration that travels with the package."""

import os
import signal
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError  # type: ignore[import-untyped]

import avalanche_mgem
from avalanche_mgem.experiment._apart import run_apart
from avalanche_mgem.experiment._files import config_folder
from avalanche_mgem.experiment._loading import loading
from avalanche_mgem.experiment._own_classes import look_in
from avalanche_mgem.experiment._signals import ENDING, KeptStudy, Stopped, stopping
from avalanche_mgem.experiment._sweep import (
    counted,
    current_sweep,
    end_submitit,
    has_new_folder,
    place_in_sweep,
    watched_sweeper,
)
from avalanche_mgem.experiment._words import arranged, at_home, check_no_run_folder
from avalanche_mgem.experiment.configuration import check_composed, register
from avalanche_mgem.experiment.errors import debugging, explain, say
from avalanche_mgem.runs import (
    FolderTakenError,
    UserError,
    check_same_run,
    clear_checkpoints,
    clear_failure,
    ending_with_its_reader,
    has_checkpoint,
    is_complete,
    one_line,
    without_secrets,
    write_failure,
)

# What a user's input can cause: a UserError is a ValueError, strategies raise ValueError and
# FloatingPointError, and a folder that cannot be written gives an OSError. Anything else is a bug and shows
# its traceback.
_EXPECTED = (HydraException, OmegaConfBaseException, YAMLError, ValueError, FloatingPointError, OSError)


def _is_expected(error: Exception) -> bool:
    """Whether it is said in one line. That nobody reads the output is an OSError too, but no mistake."""
    return isinstance(error, _EXPECTED) and not isinstance(error, BrokenPipeError)


register()  # on import: the processes of a launcher import this module and do not call main()


@ending_with_its_reader()
def main() -> None:
    """Runs the command; a mistake of the user's ends it with one line on standard error and status 2."""
    if os.environ.get("HYDRA_FULL_ERROR") == "1":
        os.environ["MGEM_DEBUG"] = "1"
    # Without it, Hydra prints an error in several lines and exits. With it, Hydra raises the error.
    os.environ["HYDRA_FULL_ERROR"] = "1"
    if "--version" in sys.argv[1:]:  # Hydra's own would print Hydra's
        print(f"mgem {avalanche_mgem.__version__}")  # noqa: T201
        return
    sys.argv[1:] = map(at_home, sys.argv[1:])
    command = next((name for name in _TASKS if sys.argv[1:2] == [name]), "config")
    if command != "config":
        del sys.argv[1]
    task = _TASKS.get(command, job)
    application = hydra.main(version_base="1.3", config_path=str(config_folder()), config_name=command)(task)
    try:
        if command == "tune":
            _take_words_of_tune()
        elif command == "profile":
            check_no_run_folder(sys.argv[1:], "mgem profile writes nothing")
        sys.argv[1:] = arranged(sys.argv[1:], _TASKS)
        with stopping(*ENDING), watched_sweeper():
            application()
    except KeyboardInterrupt as interrupt:
        raise SystemExit(_interrupted(interrupt)) from None
    except Exception as error:
        if debugging():
            raise
        if _is_expected(error):
            where = "a configuration file: " if isinstance(error, UnicodeDecodeError) else ""
            fail(where + explain(error))
        if isinstance(error, RuntimeError) and _is_from("submitit", error):
            fail(f"hydra/launcher: {one_line(error)}")
        raise


def _interrupted(interrupt: KeyboardInterrupt) -> int:
    """Says what is left of an interrupted command; its status is that of the signal."""
    if sweep := current_sweep():
        end_submitit()
        say("interrupted; complete runs are kept")
        say(f"the same command with hydra.sweep.dir={sweep} goes on with the sweep")
    elif isinstance(interrupt.__cause__, _Written):
        say(f"interrupted after the run; its results are complete: {interrupt.__cause__}")
    elif isinstance(interrupt.__cause__, _Kept):
        say(f"interrupted; the same command with hydra.run.dir={interrupt.__cause__} goes on")
    elif isinstance(interrupt.__cause__, KeptStudy):
        say(f"interrupted; the same command goes on with the study in {interrupt.__cause__}")
    else:
        say("interrupted, nothing is kept of this run")
    return interrupt.status if isinstance(interrupt, Stopped) else 128 + signal.SIGINT


class _Written(Exception):  # noqa: N818
    """The folder of a run whose results were written before it was interrupted."""


class _Kept(Exception):  # noqa: N818
    """The folder of a run that was interrupted and has left a checkpoint."""


def job(cfg: DictConfig) -> None:
    """One run, alone or of a sweep. In a sweep, no error of one run ends the others."""
    _look_for_own_classes()
    if HydraConfig.get().mode == RunMode.RUN:
        with _one_line_errors(cfg):
            check_composed(cfg)
            _run(cfg)
        return
    folder = Path(HydraConfig.get().runtime.output_dir)
    with loading(is_on=not place_in_sweep().is_side_by_side):
        import_module("avalanche_mgem.experiment.api")  # once, and not anew in each process
    with counted(folder):
        if debugging():
            _run_of_sweep(cfg)
        elif death := run_apart(_job_of_sweep, cfg):
            if is_complete(folder):
                say(f"{folder.name}: {death}, after its results were written")
            else:
                _write_failure(folder, death)


def _look_for_own_classes() -> None:
    """In the working folder and that of ``--config-dir``, also in the processes of a launcher."""
    runtime = HydraConfig.get().runtime
    given = ("command-line", "hydra.searchpath in command-line")  # the second is that of sweep() in Python
    sources = (source for source in runtime.config_sources if source.provider in given)
    look_in(Path(runtime.cwd), *(Path(source.path).absolute() for source in sources))


def _job_of_sweep(cfg: DictConfig) -> None:
    folder = Path(HydraConfig.get().runtime.output_dir)
    try:
        _run_of_sweep(cfg)
    except FolderTakenError:  # the same sweep was started twice
        say(f"{folder.name}: left to another process")
    except Exception as error:
        if isinstance(error, BrokenPipeError):
            raise
        is_expected = _is_expected(error)
        message = explain(error) if is_expected else f"{type(error).__name__}: {one_line(error)}"
        message = without_secrets(message, cfg)
        # A bug shows its traceback, here as elsewhere; the other runs go on.
        _write_failure(folder, message, "" if is_expected else without_secrets(traceback.format_exc(), cfg))


def _write_failure(folder: Path, message: str, details: str = "") -> None:
    say(f"{folder.name}: {message}")
    try:
        write_failure(folder, f"{message}\n{details}".rstrip("\n"))
    except OSError as error:
        say(f"{folder.name}: this error could not be written: {one_line(error)}")


def profile_job(cfg: DictConfig) -> None:
    """``mgem profile``: prints a table, and writes nothing."""
    _look_for_own_classes()
    with _one_line_errors(cfg):
        _profile(cfg)


def tune_job(cfg: DictConfig) -> None:
    """``mgem tune``: makes the trials of a study, and prints the best."""
    _look_for_own_classes()
    with _one_line_errors(cfg):
        _tune()


# What the first word of a command may be, beside that of a run.
_TASKS = {"profile": profile_job, "tune": tune_job}


@contextmanager
def _one_line_errors(cfg: DictConfig) -> Iterator[None]:
    """Ends the program at a mistake of the user's."""
    try:
        yield
    except Exception as error:
        if debugging() or not _is_expected(error):
            raise
        fail(without_secrets(explain(error), cfg))


def _is_from(package: str, error: BaseException) -> bool:
    frames = traceback.extract_tb(error.__traceback__)
    return package in Path(frames[-1].filename).parts


def fail(message: str) -> None:
    """Ends the program: one line on standard error, status 2."""
    say(f"{message}")
    raise SystemExit(2)


def _run(cfg: DictConfig) -> None:
    # Imported here: torch and Avalanche take seconds, and --help or a misspelt option needs neither.
    with loading():
        import torch

        from avalanche_mgem.experiment.api import execute
    from avalanche_mgem.experiment.table import print_run

    hydra_cfg = HydraConfig.get()
    folder = Path(hydra_cfg.runtime.output_dir)
    was_complete = is_complete(folder)
    try:
        result = execute(cfg, folder, overrides=_words(hydra_cfg), is_new=has_new_folder())
    except KeyboardInterrupt as interrupt:
        if is_complete(folder) and not was_complete:
            raise interrupt from _Written(os.path.relpath(folder))
        if has_checkpoint(folder):
            raise interrupt from _Kept(os.path.relpath(folder))
        raise
    print_run(result.summary, result.matrix, os.path.relpath(folder), torch.get_num_threads())


def _run_of_sweep(cfg: DictConfig) -> None:
    from avalanche_mgem.experiment._environment import launcher
    from avalanche_mgem.experiment.api import execute
    from avalanche_mgem.experiment.settings import check_settings
    from avalanche_mgem.experiment.table import run_line

    hydra_cfg, place = HydraConfig.get(), place_in_sweep()
    folder = Path(hydra_cfg.runtime.output_dir)
    if is_complete(folder):
        check_settings(cfg)
        check_same_run(folder, cfg)
        clear_failure(folder)
        clear_checkpoints(folder)  # its process was cut just behind the end
        return
    result = execute(
        cfg,
        folder,
        overrides=_words(hydra_cfg),
        group=Path(hydra_cfg.sweep.dir).name,
        job=hydra_cfg.job.num,
        launcher=launcher(hydra_cfg.launcher),
        place=place,
        is_new=True,
    )
    print(f"{place}: {run_line(result.summary)}", flush=True)  # noqa: T201


def _words(hydra_cfg: Any) -> list[str]:
    """What the user changed, as it was typed: in Hydra's list it is resolved."""
    words: Any = OmegaConf.to_container(hydra_cfg.overrides.task)
    return list(words)


def _profile(cfg: DictConfig) -> None:
    with loading():
        from avalanche_mgem.experiment._profile import print_profile, profile
        from avalanche_mgem.experiment._quiet import quiet

    choices = HydraConfig.get().runtime.choices
    with quiet():
        result = profile(cfg)
    print_profile(result, f"{choices['strategy']} on {choices['benchmark']}, seed {cfg.seed}")


_words_of_tune: list[str] = []  # of this process's command


def _take_words_of_tune() -> None:
    """Takes the words out of the command line that Hydra cannot read, such as ``log(0.003,0.3)``."""
    from avalanche_mgem.experiment.tuning.settings import split_words

    words = split_words(sys.argv[1:])
    _words_of_tune[:] = words.own
    sys.argv[1:] = [*words.runs, *(f"strategy={name}" for name in words.strategies[:1])]


def _tune() -> None:
    try:
        with loading():
            from avalanche_mgem.experiment.tuning.api import tune
            from avalanche_mgem.experiment.tuning.outcome import print_tuned
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "optuna":
            raise
        raise UserError(
            "mgem tune needs Optuna: in a clone of avalanche-mgem, pip install '.[tune]'"
        ) from error
    hydra_cfg = HydraConfig.get()
    given = [source.path for source in hydra_cfg.runtime.config_sources if source.provider == "command-line"]
    runs = [word for word in _words(hydra_cfg) if not word.startswith("strategy=")]
    print_tuned(tune([*_words_of_tune, *runs], config_dir=next(iter(given), None)))
