"""A study of Optuna in a file: processes on several machines may share it, and a cut does not harm it."""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
import optuna
from filelock import FileLock, Timeout
from optuna.pruners import MedianPruner, NopPruner
from optuna.samplers import BaseSampler, GridSampler, RandomSampler, TPESampler
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock
from optuna.trial import FrozenTrial, Trial, TrialState

from avalanche_mgem.experiment.tuning.folder import lock_file
from avalanche_mgem.experiment.tuning.settings import Settings
from avalanche_mgem.experiment.tuning.space import Space, grid_size

JOURNAL = "journal.log"
REASON = "reason"  # the attribute of a trial that failed
_WORKER = "worker"  # the attribute with the process that is at a trial


class Storage:
    """The journal of a study's folder, and the locks of the processes that write to it.

    The operating system releases a lock when its process dies. So a trial is known to be dead if nobody holds
    the lock of its process.

    Args:
        folder: of the study; it is there.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.lock = FileLock(lock_file(folder, "study"))
        self.worker = uuid4().hex
        lock = FileLock(lock_file(folder, "journal"))
        with lock:
            _drop_torn_line(folder / JOURNAL)
        self.journal = JournalStorage(JournalFileBackend(str(folder / JOURNAL), lock_obj=_JournalLock(lock)))

    @contextmanager
    def working(self) -> Iterator[None]:
        """Holds the lock of this process."""
        path = lock_file(self._folder, self.worker)
        with FileLock(path):
            try:
                yield
            finally:
                with suppress(OSError):  # on Windows it goes with the lock
                    path.unlink(missing_ok=True)

    def is_working(self, worker: str) -> bool:
        """Whether a process is alive."""
        if worker in ("", self.worker):
            return False  # in this process one trial ends before the next begins
        path = lock_file(self._folder, worker)
        if not path.exists():
            return False
        try:
            with FileLock(path, timeout=0):
                return False
        except Timeout:
            return True


class Study:
    """The trials of one strategy.

    The values of a trial follow from the study's seed, its number and the trials before it: a sampler has a
    state, which the journal lacks, so it is made anew each time. One process that is killed, and started
    again, makes the trials of one that was not.

    Args:
        storage: of the study's folder.
        name: of the strategy.
        space: what is tried.
        settings: of the study.
        seed: of the sampler.
    """

    def __init__(self, storage: Storage, name: str, space: Space, settings: Settings, seed: int) -> None:
        self.name = name
        self.space = space
        self._storage = storage
        self._settings = settings
        self._seed = seed
        self.budget = settings.trials
        if settings.sampler == "grid":
            self.budget = min(self.budget, grid_size(space))
        with storage.lock:
            self._study = optuna.create_study(
                study_name=name,
                storage=storage.journal,
                direction="maximize",
                pruner=MedianPruner() if settings.prune else NopPruner(),
                load_if_exists=True,
            )

    @property
    def trials(self) -> list[FrozenTrial]:
        """All trials, in their order."""
        return self._study.get_trials(deepcopy=False)

    @property
    def best(self) -> FrozenTrial | None:
        """The trial with the largest objective, the first of equals; None without a complete one."""
        complete = [trial for trial in self.trials if trial.state == TrialState.COMPLETE]
        return max(complete, key=lambda trial: trial.value or 0.0, default=None)

    def next(self) -> tuple[Trial, dict[str, Any]] | None:
        """The next trial to make, with its values: one whose process has died, or a new one.

        None if all are made, or other processes are at them.
        """
        with self._storage.lock:
            trials = self.trials
            dead = [trial for trial in trials if self._is_dead(trial)]
            if not dead and len(trials) >= self.budget:
                return None
            number = dead[0].number if dead else len(trials)
            self._study.sampler = self._sampler(number)
            trial = Trial(self._study, dead[0]._trial_id) if dead else self._study.ask()
            trial.set_user_attr(_WORKER, self._storage.worker)
            return trial, self._values(trial)

    def _values(self, trial: Trial) -> dict[str, Any]:
        """The values of a trial; some may be in the journal already, of an attempt that was cut.

        So that these have no part in the others, a sampler is made anew for each.
        """
        _ = trial.relative_params  # those that are drawn together
        values = {}
        for place, (key, part) in enumerate(self.space.items(), 1):
            self._study.sampler = self._sampler(trial.number, place)
            values[key] = part.suggest(trial, key)
        return values

    def falls_behind(self, trial: Trial, step: int, objective: float) -> bool:
        """Keeps the objective after a run, which is a step to Optuna, and says whether to end the trial.

        Not within a run: accuracies after the first experiences of a stream do not tell its last ones, see
        docs/tuning.md. And not after the last run.
        """
        self._report(trial, step, objective)
        return step + 1 < self._settings.seeds and trial.should_prune()

    def complete(self, trial: Trial, objective: float) -> None:
        """Ends a trial."""
        self._tell(trial, objective, TrialState.COMPLETE)

    def prune(self, trial: Trial) -> None:
        """Ends a trial that has fallen behind."""
        self._tell(trial, None, TrialState.PRUNED)

    def fail(self, trial: Trial, step: int, reason: str) -> None:
        """Ends a trial that had an error. To the sampler its accuracy is 0, so that it goes elsewhere."""
        trial.set_user_attr(REASON, reason)
        self._report(trial, step, 0.0)
        self._tell(trial, None, TrialState.PRUNED)

    def _report(self, trial: Trial, step: int, objective: float) -> None:
        if step not in self.trials[trial.number].intermediate_values:  # those of an attempt that was cut
            trial.report(objective, step)

    def _tell(self, trial: Trial, value: float | None, state: TrialState) -> None:
        self._study.sampler = RandomSampler(seed=0)  # that of a grid would stop optimize(), which is not used
        self._study.tell(trial, value, state)

    def _is_dead(self, trial: FrozenTrial) -> bool:
        return trial.state == TrialState.RUNNING and not self._storage.is_working(
            trial.user_attrs.get(_WORKER, "")
        )

    def _sampler(self, number: int, place: int = 0) -> BaseSampler:
        seed = int(np.random.SeedSequence((self._seed, number, place)).generate_state(1)[0])
        if self._settings.sampler == "tpe":
            return TPESampler(seed=seed)
        if self._settings.sampler == "random":
            return RandomSampler(seed=seed)
        grid: Mapping[str, Any] = {key: part.grid() for key, part in self.space.items()}
        return GridSampler(grid, seed=self._seed)  # a trial's place in it is its number


def silence() -> None:
    """Keeps Optuna's own log off the terminal; errors stay exceptions."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)


class _JournalLock(JournalFileOpenLock):
    """A lock that goes with its process; Optuna's own stays, and the next process waits half a minute."""

    def __init__(self, lock: FileLock) -> None:
        super().__init__(lock.lock_file)
        self._lock = lock

    def acquire(self) -> bool:
        self._lock.acquire()
        return True

    def release(self) -> None:
        self._lock.release()


def _drop_torn_line(journal: Path) -> None:
    """Drops the end of a line that a process was writing when it died; Optuna could read no further."""
    if not journal.exists():
        return
    data = journal.read_bytes()
    whole = data.rfind(b"\n") + 1
    if whole < len(data):
        os.truncate(journal, whole)
