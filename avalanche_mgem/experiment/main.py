"""The command ``mgem``: a Hydra application over the configuration that travels with the package."""

import os
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

import avalanche_mgem
from avalanche_mgem.experiment.configuration import config_folder, register_resolvers
from avalanche_mgem.experiment.errors import debugging, explain, one_line
from avalanche_mgem.runs import FolderTakenError, check_same_run, clear_failure, is_complete, write_failure

# What a user's input can cause: a UserError is a ValueError, strategies raise ValueError and
# FloatingPointError, and a folder that cannot be written gives an OSError. Anything else is a bug and shows
# its traceback.
_EXPECTED = (HydraException, OmegaConfBaseException, ValueError, FloatingPointError, OSError)

register_resolvers()  # on import: the processes of a launcher import this module and do not call main()


def main() -> None:
    """Runs the command; a mistake of the user's ends it with one line on standard error and status 2."""
    if os.environ.get("HYDRA_FULL_ERROR") == "1":
        os.environ["MGEM_DEBUG"] = "1"
    # Without it, Hydra prints an error in several lines and exits. With it, Hydra raises the error.
    os.environ["HYDRA_FULL_ERROR"] = "1"
    if "--version" in sys.argv[1:]:  # Hydra's own would print Hydra's
        print(f"mgem {avalanche_mgem.__version__}")  # noqa: T201
        return
    is_profile = sys.argv[1:2] == ["profile"]
    if is_profile:
        del sys.argv[1]
    name, task = ("profile", profile_job) if is_profile else ("config", job)
    application = hydra.main(version_base="1.3", config_path=str(config_folder()), config_name=name)(task)
    try:
        application()
    except _EXPECTED as error:
        if debugging():
            raise
        fail(explain(error))
    except RuntimeError as error:
        if debugging() or not _is_from("submitit", error):
            raise
        fail(f"hydra/launcher: {one_line(error)}")
    except KeyboardInterrupt:
        sys.stderr.write("mgem: interrupted, nothing is kept of this run\n")
        raise SystemExit(130) from None


def job(cfg: DictConfig) -> None:
    """One run, alone or of a sweep. In a sweep, no error of one run ends the others."""
    if HydraConfig.get().mode == RunMode.RUN:
        with _one_line_errors():
            _run(cfg)
        return
    try:
        _run_of_sweep(cfg)
    except KeyboardInterrupt:
        sweep = HydraConfig.get().sweep.dir
        sys.stderr.write(f"mgem: the same command with hydra.sweep.dir={sweep} goes on with the sweep\n")
        raise
    except FolderTakenError:  # the same sweep was started twice
        folder = Path(HydraConfig.get().runtime.output_dir)
        sys.stderr.write(f"mgem: {folder.name}: left to another process\n")
    except Exception as error:
        if debugging():
            raise
        folder = Path(HydraConfig.get().runtime.output_dir)
        is_expected = isinstance(error, _EXPECTED)
        message = explain(error) if is_expected else f"{type(error).__name__}: {one_line(error)}"
        # A bug shows its traceback, here as elsewhere; the other runs go on.
        write_failure(folder, message if is_expected else f"{message}\n{traceback.format_exc()}")
        sys.stderr.write(f"mgem: {folder.name}: {message}\n")


def profile_job(cfg: DictConfig) -> None:
    """``mgem profile``: prints a table, and writes nothing."""
    with _one_line_errors():
        _profile(cfg)


@contextmanager
def _one_line_errors() -> Iterator[None]:
    """Ends the program at a mistake of the user's."""
    try:
        yield
    except _EXPECTED as error:
        if debugging():
            raise
        fail(explain(error))


def _is_from(package: str, error: BaseException) -> bool:
    frames = traceback.extract_tb(error.__traceback__)
    return package in Path(frames[-1].filename).parts


def fail(message: str) -> None:
    """Ends the program: one line on standard error, status 2."""
    sys.stderr.write(f"mgem: {message}\n")
    raise SystemExit(2)


def _run(cfg: DictConfig) -> None:
    # Imported here: torch and Avalanche take seconds, and --help or a misspelt option needs neither.
    from avalanche_mgem.experiment.api import execute
    from avalanche_mgem.experiment.table import print_run

    hydra_cfg = HydraConfig.get()
    folder = Path(hydra_cfg.runtime.output_dir)
    result = execute(cfg, folder, overrides=list(hydra_cfg.overrides.task))
    print_run(result.summary, result.matrix, os.path.relpath(folder))


def _run_of_sweep(cfg: DictConfig) -> None:
    from avalanche_mgem.experiment.api import execute
    from avalanche_mgem.experiment.settings import check_settings
    from avalanche_mgem.experiment.table import run_line

    hydra_cfg = HydraConfig.get()
    folder = Path(hydra_cfg.runtime.output_dir)
    if is_complete(folder):
        check_settings(cfg)
        check_same_run(folder, cfg)
        clear_failure(folder)
        return
    result = execute(
        cfg,
        folder,
        overrides=list(hydra_cfg.overrides.task),
        group=Path(hydra_cfg.sweep.dir).name,
        job=hydra_cfg.job.num,
    )
    print(run_line(result.summary), flush=True)  # noqa: T201


def _profile(cfg: DictConfig) -> None:
    from avalanche_mgem.experiment._profile import print_profile, profile
    from avalanche_mgem.experiment._quiet import quiet

    choices = HydraConfig.get().runtime.choices
    with quiet():
        result = profile(cfg)
    print_profile(result, f"{choices['strategy']} on {choices['benchmark']}, seed {cfg.seed}")
