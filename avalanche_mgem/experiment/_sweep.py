"""What happens before and after the runs of a command: what their folders hold, and what became of them."""

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn, JobStatus
from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError  # type: ignore[import-untyped]

from avalanche_mgem.experiment.configuration import check_composed, resolving_hydra
from avalanche_mgem.experiment.errors import debugging, say
from avalanche_mgem.runs import (
    Run,
    UserError,
    check_claimable,
    error_line,
    find_runs,
    is_complete,
    is_marked,
    is_running,
    printable,
    read_run,
)

_SWEEPER = "hydra._internal.core_plugins.basic_sweeper.BasicSweeper"
_SWEEP_FILE = "multirun.yaml"  # of Hydra


# How many runs a sweep has, for the processes of its launcher.
_NUMBER_OF_RUNS = "MGEM_NUMBER_OF_RUNS"
# Launchers whose jobs write to one terminal at the same time. Submitit gives each job a file of its own.
_SIDE_BY_SIDE = ("hydra_joblib_launcher", "hydra_ray_launcher")


@dataclass
class _Command:
    """What this process's command is at: Hydra makes callbacks and sweeper, which share only this."""

    has_new_folder: bool = False
    sweep: Path | None = None
    folders: list[Path | None] = field(default_factory=list)
    made: int = 0
    began: float | None = None


@dataclass(frozen=True)
class Place:
    """The place of a run in its sweep.

    Attributes:
        number: of the run, from 1.
        total: how many there are; None where that is not known.
        is_side_by_side: whether runs are made at the same time and show their output together.
        complete: runs that are complete.
        made: those of them that this command has made.
        seconds: since the first of these began.
    """

    number: int
    total: int | None = None
    is_side_by_side: bool = False
    complete: int = 0
    made: int = 0
    seconds: float = 0.0

    def __str__(self) -> str:
        return f"run {self.number}" + ("" if self.total is None else f"/{self.total}")


_command = _Command()


def has_new_folder() -> bool:
    """Whether the folder of the command's run was made for it."""
    return _command.has_new_folder


def current_sweep() -> Path | None:
    """The folder of the sweep that this command makes; None without one."""
    return _command.sweep


class Ended(SystemExit):
    """The end of a command that could not do all it was asked for.

    Attributes:
        message: what was wrong, in one line; it has been said.
    """

    def __init__(self, message: str) -> None:
        super().__init__(2)
        self.message = message


def place_in_sweep() -> Place:
    """That of the run that Hydra has begun."""
    config = HydraConfig.get()
    total = os.environ.get(_NUMBER_OF_RUNS)
    target = str(config.launcher._target_)
    return Place(
        number=config.job.num + 1,
        total=None if total is None else int(total),
        is_side_by_side=any(launcher in target for launcher in _SIDE_BY_SIDE),
        complete=sum(folder is not None and is_complete(folder) for folder in _command.folders),
        made=_command.made,
        seconds=0.0 if _command.began is None else _now() - _command.began,
    )


@contextmanager
def counted(folder: Path) -> Iterator[None]:
    """Counts a run that this process makes, unless it is complete already."""
    if _command.began is None:
        _command.began = _now()
    was_complete = is_complete(folder)
    yield
    _command.made += not was_complete


def _now() -> float:
    from avalanche_mgem.timing import now  # not before: it imports torch

    return now("cpu")


@contextmanager
def watched_sweeper() -> Iterator[None]:
    """Lets Hydra's sweeper look at the folder of each run first, and wait for all though a job is lost.

    Hydra takes plugins only from its own packages, so the sweeper's class is changed while a command runs.
    """
    sweeper: Any = Plugins.instance().class_name_to_class[_SWEEPER]  # not by import: Hydra loads it anew
    sweep, validate = sweeper.sweep, sweeper.validate_batch_is_legal

    def watched_sweep(self: Any, arguments: list[str]) -> Any:
        is_submitit = "submitit" in self.config.hydra.launcher._target_
        try:
            with _every_job_of_submitit() if is_submitit else nullcontext():
                return sweep(self, arguments)
        except Exception as error:
            if debugging() or type(error).__module__.partition(".")[0] not in ("joblib", "ray"):
                raise
            _say_lost(error)
            return []

    sweeper.sweep, sweeper.validate_batch_is_legal = watched_sweep, _validate
    try:
        yield
    finally:
        sweeper.sweep, sweeper.validate_batch_is_legal = sweep, validate
        os.environ.pop(_NUMBER_OF_RUNS, None)


class SweepTable(Callback):
    """Looks at folders before anything is written to them, and prints the table of a sweep at its end.

    It leaves by ``SystemExit``, because Hydra turns a callback's exceptions into warnings.
    """

    def on_run_start(self, config: DictConfig, **_: Any) -> None:
        """Ends the program if the folder of a single run is not free."""
        with resolving_hydra(config):
            folder = Path(config.hydra.run.dir).absolute()
        _command.sweep, _command.folders = None, []
        _command.has_new_folder = not os.path.lexists(folder)
        if folder.is_dir():
            try:
                check_claimable(folder, hydra_has_begun=False)
            except UserError as error:
                _end(str(error))

    def on_multirun_start(self, config: DictConfig, **_: Any) -> None:
        """Ends the program if the sweep's folder holds anything but a sweep."""
        folder = Path(config.hydra.sweep.dir)
        _command.sweep, _command.folders, _command.made, _command.began = folder, [], 0, None
        if not folder.is_dir() or not any(folder.iterdir()):
            return
        if not _is_sweep(folder):
            _end(
                f"the sweep folder {folder} is not empty and holds no sweep; nothing is overwritten: "
                "give another hydra.sweep.dir"
            )
        complete, _rest = find_runs([folder])
        print(f"going on in {printable(str(folder))}: complete runs are kept, {len(complete)} so far")  # noqa: T201

    def on_multirun_end(self, config: DictConfig, **_: Any) -> None:
        """Prints the table, then the runs that failed with their errors; then the status is 2."""
        folder = Path(config.hydra.sweep.dir)
        complete, incomplete = find_runs([folder])
        runs, damaged = _read(complete)
        if runs:
            from avalanche_mgem.report.closing import print_sweep

            print_sweep(runs)
        print(f"results: {printable(str(folder))}", flush=True)  # noqa: T201
        running = [run for run in incomplete if is_running(run)]
        if running:
            say(
                f"the table lacks {len(running)} runs that another process is at; once they end, "
                f"the same command with hydra.sweep.dir={folder} shows them"
            )
        for reason in damaged:
            say(f"{reason}; delete its folder, and the same command makes it anew")
        failures = _failures([*complete, *incomplete], running)
        if failures:
            number = len(failures.keys() | {run.path for run in runs})
            say(
                f"{len(failures)} of {number} runs have failed; the same command with "
                f"hydra.sweep.dir={folder} tries these again:"
            )
            for run, error in failures.items():
                say(f"  {os.path.relpath(run, folder)}: {error}")
        if running or damaged or failures:
            reasons = [f"another process is at {run}" for run in running] + damaged
            reasons += [f"{run}: {error}" for run, error in failures.items()]
            more = f"; and {len(reasons) - 1} more" if len(reasons) > 1 else ""
            raise Ended(f"the sweep {folder} lacks runs: {reasons[0]}{more}; the same again tries them again")


class OneRunOnly(Callback):
    """Refuses a sweep of ``mgem profile`` and ``mgem tune``.

    It leaves by ``SystemExit``, because Hydra turns a callback's exceptions into warnings.
    """

    def __init__(self, reason: str) -> None:
        self._reason = reason

    def on_multirun_start(self, config: DictConfig, **_: Any) -> None:
        """Ends the program."""
        _end(f"{self._reason}; leave out --multirun")


def _validate(sweeper: Any, batch: Sequence[Sequence[str]]) -> None:
    """Composes each run, as Hydra does, and checks its keys, and that its folder is in the sweep.

    Raises:
        UserError: for a key that does not exist, a folder that is elsewhere, or inside that of another run.
    """
    for overrides in batch:
        config = sweeper.hydra_context.config_loader.load_sweep_config(sweeper.config, list(overrides))
        check_composed(config)
        with open_dict(config):
            config.hydra.job.num = len(_command.folders)
        with resolving_hydra(config):
            _command.folders.append(_folder(config))
    os.environ[_NUMBER_OF_RUNS] = str(len(_command.folders))
    folders = {folder for folder in _command.folders if folder is not None}
    for folder in folders:
        for outer in folders.intersection(folder.parents):
            raise UserError(f"hydra.sweep.subdir puts a run into the folder of another: {folder}, {outer}")


def _end(message: str) -> None:
    say(message)
    raise Ended(message)


def _folder(config: DictConfig) -> Path | None:
    """The folder of a run; None where only the launcher knows it."""
    try:
        subdir = str(config.hydra.sweep.subdir)
    except OmegaConfBaseException:  # such as a number that Slurm gives
        return None
    sweep = Path(os.path.abspath(config.hydra.sweep.dir))
    folder = Path(os.path.abspath(sweep / subdir))
    if sweep not in folder.parents:
        raise UserError(f"hydra.sweep.subdir={subdir}: it must be a folder below that of the sweep, {sweep}")
    return folder


def _is_sweep(folder: Path) -> bool:
    """Whether a sweep of this package has begun in the folder: by what Hydra's file says.

    A sweep may have been killed while Hydra wrote it: then there is nothing else, and it is empty, or begins
    with our own name for folders of runs.
    """
    if os.listdir(folder) == [_SWEEP_FILE]:
        with (folder / _SWEEP_FILE).open("rb") as file:
            text = file.read()
        if not text or b"${run_options:" in text:
            return True
    try:
        config = OmegaConf.load(folder / _SWEEP_FILE)
        target = OmegaConf.select(config, "hydra.callbacks.sweep_table._target_")
    except (OSError, ValueError, YAMLError, OmegaConfBaseException):
        return False
    return bool(target == f"{SweepTable.__module__}.{SweepTable.__name__}")


@contextmanager
def _every_job_of_submitit() -> Iterator[None]:
    """Waits for all jobs: Hydra's launcher stops at the first that is lost, as one whose time was up."""
    submitit: Any = import_module("submitit")
    job_class, lost = submitit.Job, submitit.core.utils.UncompletedJobError
    results = job_class.results

    def patient(job: Any) -> Any:
        try:
            return results(job)
        except lost as error:
            if debugging():
                raise
            _say_lost(error)
            return [JobReturn(status=JobStatus.COMPLETED)]

    job_class.results = patient
    try:
        yield
    finally:
        job_class.results = results


def end_submitit() -> None:
    """Ends the processes of submitit's local launcher, which else go on without the sweep.

    Jobs of Slurm go on: they are the cluster's.
    """
    if "submitit" not in sys.modules:
        return
    import psutil  # type: ignore[import-untyped]

    processes = [
        process
        for child in psutil.Process().children()
        if "submitit.local._local" in child.cmdline()
        for process in (child, *child.children(recursive=True))
    ]
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            process.terminate()
    for process in psutil.wait_procs(processes, timeout=5)[1]:
        with suppress(psutil.NoSuchProcess):
            process.kill()


def _say_lost(error: Exception) -> None:
    reason = str(error).strip().partition("\n")[0]
    say(f"the launcher has lost a job: {type(error).__name__}: {reason}")


def _read(folders: Sequence[Path]) -> tuple[list[Run], list[str]]:
    """The complete runs of a sweep, and what is wrong with those whose files are damaged."""
    runs, damaged = [], []
    for run in folders:
        try:
            runs.append(read_run(run))
        except UserError as error:
            damaged.append(str(error))
    return runs, damaged


def _failures(found: Sequence[Path], running: Sequence[Path]) -> dict[Path, str]:
    """A line for each run that has left an error, whose process was ended, or that never began."""
    failures = {run: reason for run in sorted(found) if run not in running and (reason := _failure(run))}
    known = {run.absolute() for run in [*found, *running]}
    for folder in sorted({folder for folder in _command.folders if folder is not None} - known):
        failures[folder] = _obstacle(folder) or "it was not run"
    return failures


def _failure(run: Path) -> str | None:
    if not (is_complete(run) or is_marked(run)):
        return _obstacle(run)
    return error_line(run) or (None if is_complete(run) else "its process ended in the middle")


def _obstacle(folder: Path) -> str | None:
    """Why no run could begin in the folder."""
    try:
        if folder.is_dir():
            check_claimable(folder)
    except UserError as error:
        return str(error)
    return None
