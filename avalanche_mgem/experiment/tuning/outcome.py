"""What a study comes to: a frame of its trials, a table, and files."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from optuna.trial import FrozenTrial, TrialState
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from avalanche_mgem.experiment.tuning.study import REASON, Study
from avalanche_mgem.runs import printable, text

TRIALS_FILE = "trials.csv"
_SHOWN = 10  # rows of a table
_COLUMNS = ("strategy", "trial", "state", "valid_acc", "reason")


@dataclass(frozen=True, repr=False)
class Tuned:
    """What a study has found.

    Attributes:
        folder: of the study.
        best: the best values of each strategy, by dotted keys.
        valid_acc: the accuracy of each on validation samples, as a fraction.
        trials: a row for each: ``strategy``, ``trial``, ``state`` (complete, pruned, failed), ``valid_acc``,
            the values by their keys, and the ``reason`` of a failed one. ``valid_acc`` of a pruned one is
            that when it was ended.
        command: which runs the best values over five seeds.
    """

    folder: Path
    best: Mapping[str, Mapping[str, Any]]
    valid_acc: Mapping[str, float]
    trials: pd.DataFrame
    command: str

    def __repr__(self) -> str:
        found = ", ".join(f"{name} {value:.3f}" for name, value in self.valid_acc.items())
        return f"Tuned({len(self.trials)} trials: {found}; {self.folder})"


def frame(studies: Mapping[str, Study]) -> pd.DataFrame:
    """The trials of all strategies, with the values of each by their keys."""
    rows = [_row(name, trial) for name, study in studies.items() for trial in study.trials]
    keys = dict.fromkeys(key for study in studies.values() for key in study.space)
    return pd.DataFrame(rows, columns=[*_COLUMNS[:-1], *keys, _COLUMNS[-1]])


def _row(strategy: str, trial: FrozenTrial) -> dict[str, Any]:
    reason = trial.user_attrs.get(REASON)
    last = trial.intermediate_values.get(trial.last_step) if trial.last_step is not None else None
    state = "failed" if reason else trial.state.name.lower()
    return {
        "strategy": strategy,
        "trial": trial.number,
        "state": state,
        "valid_acc": trial.value if trial.state == TrialState.COMPLETE else None if reason else last,
        "reason": reason,
        **trial.params,
    }


def print_tuned(tuned: Tuned) -> None:
    """Prints the best trials of each strategy for 80 columns, the best values, and what to do with them."""
    console = Console(width=80, highlight=False, markup=False, soft_wrap=False)
    for name, best in tuned.best.items():
        trials = tuned.trials[tuned.trials["strategy"] == name]
        console.print(_table(name, trials, list(best)))
        counts = trials["state"].value_counts()
        said = ", ".join(
            f"{counts[state]} {state}" for state in ("complete", "pruned", "failed") if state in counts
        )
        console.print(f"{printable(name)}: {len(trials)} trials: {said}")
        for reason, number in trials["reason"].dropna().value_counts().items():
            console.print(f"  {number} failed: {printable(str(reason))}", soft_wrap=True)
        values = " ".join(f"{key}={text(value)}" for key, value in best.items())
        console.print(f"best: {printable(values)}\n", soft_wrap=True)
    console.print(f"results: {printable(str(tuned.folder))}", soft_wrap=True)
    console.print(f"next: {printable(tuned.command)}", soft_wrap=True)


def _table(name: str, trials: pd.DataFrame, keys: list[str]) -> Table:
    table = Table(box=SIMPLE_HEAD, title=f"{printable(name)}: best trials")
    table.add_column("trial", justify="right")
    table.add_column("valid ACC", justify="right")
    for key in keys:
        table.add_column(printable(key.rpartition(".")[2]), justify="right", overflow="fold")
    complete = trials[trials["state"] == "complete"].sort_values("valid_acc", ascending=False, kind="stable")
    for _, row in complete.head(_SHOWN).iterrows():
        values = (_short(row[key]) for key in keys)
        table.add_row(str(row["trial"]), f"{row['valid_acc']:.3f}", *values)
    return table


def _short(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else printable(text(value))
