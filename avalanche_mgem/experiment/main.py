"""The command ``mgem``: a Hydra application over the configuration that travels with the package."""

import os
import sys
from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from avalanche_mgem.experiment.errors import UserError, debugging, explain
from avalanche_mgem.experiment.sweep import ERROR_FILE

# What a user's input can cause: strategies raise ValueError and FloatingPointError, and a folder that cannot
# be written gives an OSError. Anything else is a bug and shows its traceback.
_EXPECTED = (UserError, HydraException, OmegaConfBaseException, ValueError, FloatingPointError, OSError)


def main() -> None:
    """Runs the command; a mistake of the user's ends it with one line on standard error and status 2."""
    if os.environ.get("HYDRA_FULL_ERROR") == "1":
        os.environ["MGEM_DEBUG"] = "1"
    # Hydra would print an error in several lines of its own and exit; now it raises it, and it comes here.
    os.environ["HYDRA_FULL_ERROR"] = "1"
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
    except KeyboardInterrupt:
        sys.stderr.write("mgem: interrupted, nothing is kept of this run\n")
        raise SystemExit(130) from None


def config_folder() -> Path:
    """The configuration: inside the installed package, or beside it in a source tree."""
    package = Path(__file__).resolve().parents[1]
    inside = package / "configs"
    return inside if inside.is_dir() else package.parent / "configs"


def job(cfg: DictConfig) -> None:
    """One run, alone or of a sweep. In a sweep, an error of one run does not end the others."""
    folder = Path(HydraConfig.get().runtime.output_dir)
    try:
        _run(cfg, folder)
    except _EXPECTED as error:
        if debugging():
            raise
        message = explain(error)
        if HydraConfig.get().mode == RunMode.RUN:
            fail(message)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / ERROR_FILE).write_text(message + "\n", encoding="utf-8")
        sys.stderr.write(f"mgem: {folder.name}: {message}\n")


def profile_job(cfg: DictConfig) -> None:
    """``mgem profile``: prints a table, and writes nothing."""
    try:
        _profile(cfg)
    except _EXPECTED as error:
        if debugging():
            raise
        fail(explain(error))


def fail(message: str) -> None:
    """Ends the program: one line on standard error, status 2."""
    sys.stderr.write(f"mgem: {message}\n")
    raise SystemExit(2)


def _run(cfg: DictConfig, folder: Path) -> None:
    # Imported here: torch and Avalanche take seconds, for which --help and a misspelt option need not wait.
    from avalanche_mgem.experiment.folder import claimed, write_run
    from avalanche_mgem.experiment.quiet import quiet
    from avalanche_mgem.experiment.runner import run
    from avalanche_mgem.experiment.settings import check_settings
    from avalanche_mgem.experiment.table import print_run, run_line

    hydra_cfg = HydraConfig.get()
    names = {group: hydra_cfg.runtime.choices[group] for group in ("strategy", "benchmark")}
    with claimed(folder), quiet():
        check_settings(cfg)
        result = run(cfg)
        summary = write_run(folder, cfg, result, names=names, overrides=list(hydra_cfg.overrides.task))
    if hydra_cfg.mode == RunMode.RUN:
        print_run(summary, result.matrix, os.path.relpath(folder))
    else:
        print(run_line(summary), flush=True)  # noqa: T201


def _profile(cfg: DictConfig) -> None:
    from avalanche_mgem.experiment.profile import print_profile, profile
    from avalanche_mgem.experiment.quiet import quiet
    from avalanche_mgem.experiment.settings import check_settings

    choices = HydraConfig.get().runtime.choices
    with quiet():
        check_settings(cfg)
        result = profile(cfg)
    print_profile(result, f"{choices['strategy']} on {choices['benchmark']}, seed {cfg.seed}")
