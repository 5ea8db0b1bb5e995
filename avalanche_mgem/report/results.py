"""Runs of one protocol as pandas frames, grouped into methods."""

from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from avalanche_mgem.report.methods import (
    chosen_settings,
    counts,
    differing,
    follow_seeds,
    is_protocol,
    label_methods,
)
from avalanche_mgem.report.style import rank
from avalanche_mgem.runs import ABSENT, COSTS, GAP_METRICS, METRICS, Run, sort_key, text

_LISTED = 6  # differing keys in an error: a whole model would fill the screen


@dataclass(frozen=True, repr=False)
class Results:
    """What run folders of one protocol hold.

    Attributes:
        runs: a row for each complete run: ``path``, ``strategy``, ``method``, ``seed``, ``benchmark``; the
            metrics ``acc``, ``bwd``, ``la``, ``fwt``, ``forgetting`` as fractions; ``seconds_train``,
            ``seconds_eval``, ``seconds_data``, ``peak_memory_mb`` in MiB; those of ``GAP_METRICS`` that some
            run has, as means over its experiences; and the settings that differ.
        matrices: a row for each measured accuracy: ``run`` (index of ``runs``), ``after`` (the number of
            experiences that the model has been trained on, 0 for the untrained one), ``experience`` (tested,
            from 0), ``accuracy``.
        constraints: the rows of all ``constraints.csv`` with their ``run``; empty if there are none.
        incomplete: ``path`` and ``reason`` of folders that hold no complete run.
        methods: by name of the method its ``strategy`` and the settings that differ, ``"absent"`` where its
            configuration lacks them.
        settings: by name of the method all its settings, also those that do not differ.
        protocol: the settings that all runs share because they must.
        environments: versions, machine and source revision as text, a row for each run.
        is_busy: whether other work ran beside them, so that their seconds measure nothing.
    """

    runs: pd.DataFrame
    matrices: pd.DataFrame
    constraints: pd.DataFrame
    incomplete: pd.DataFrame
    methods: pd.DataFrame
    settings: dict[str, dict[str, Any]]
    protocol: dict[str, Any]
    environments: pd.DataFrame
    is_busy: bool = False

    @property
    def gap(self) -> tuple[str, ...]:
        """The measures of the generalisation gap that some run has."""
        return tuple(name for name in GAP_METRICS if name in self.runs)

    def __repr__(self) -> str:
        runs, methods, incomplete = map(len, (self.runs, self.methods, self.incomplete))
        return f"Results({runs} runs of {methods} methods, {incomplete} incomplete)"

    def _repr_html_(self) -> str:
        """The table of means, for a notebook."""
        from avalanche_mgem.report.page import html_table
        from avalanche_mgem.report.sheets import results_sheet
        from avalanche_mgem.report.tables import results_table

        return html_table(results_sheet(results_table(self)))


def combine(
    runs: Sequence[Run], settings: Sequence[Mapping[str, Any]], incomplete: Mapping[Path, str]
) -> Results:
    """Groups runs into methods, and puts what they hold into frames.

    Args:
        runs: complete ones, in any order.
        settings: of each, from :func:`method_settings`.
        incomplete: the other run folders, with the reason for each.

    Raises:
        ValueError: in one line, if protocols differ, or two runs have the same method and seed.
    """
    _check_protocol(settings)
    methods = _name_methods(runs, settings)
    place = {name: number for number, name in enumerate(dict.fromkeys(methods.values()))}
    order = sorted(range(len(runs)), key=lambda number: (place[methods[number]], runs[number].seed))
    runs, settings = [runs[i] for i in order], [settings[i] for i in order]
    names = [methods[i] for i in order]
    _check_duplicates(runs, names)
    return Results(
        runs=_runs_frame(runs, names, settings),
        matrices=_matrices_frame(runs),
        constraints=_constraints_frame(runs),
        incomplete=pd.DataFrame(
            [(str(path), reason) for path, reason in incomplete.items()], columns=["path", "reason"]
        ),
        methods=_methods_frame(runs, names, settings),
        settings={name: dict(chosen) for name, chosen in zip(names, settings, strict=True)},
        protocol={key: value for key, value in sorted(settings[0].items()) if is_protocol(key)},
        environments=_environments_frame(runs),
    )


def method_settings(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """The settings of each run, in which seeds that follow the run's are the same in all.

    With them is how much data there was: two folders of images can have the same configuration.
    """
    chosen = [chosen_settings(run.config) | data_size(run) for run in runs]
    settings: dict[int, dict[str, Any]] = {}
    for strategy in {run.strategy for run in runs}:
        numbers = [number for number, run in enumerate(runs) if run.strategy == strategy]
        followed = follow_seeds([(runs[number].seed, chosen[number]) for number in numbers])
        settings |= zip(numbers, followed, strict=True)
    return [settings[number] for number in range(len(runs))]


def data_size(run: Run) -> dict[str, Any]:
    """``n_experiences``, and ``n_samples`` where the configuration says it."""
    samples = run.config.get("inferred.n_samples")
    return {"n_experiences": run.matrix.shape[1], **({} if samples is None else {"n_samples": samples})}


def settings_key(settings: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
    """The settings as a key of a dictionary; equal numbers give equal keys."""
    return tuple(sorted((key, text(value)) for key, value in settings.items()))


def _check_protocol(settings: Sequence[Mapping[str, Any]]) -> None:
    keys = [key for key in differing(settings) if is_protocol(key)]
    if not keys:
        return
    named = "; ".join(f"{key}: {counts(key, settings)}" for key in keys[:_LISTED])
    more = f"; and {len(keys) - _LISTED} keys more" if len(keys) > _LISTED else ""
    raise ValueError(
        f"the runs have different protocols, so they cannot be compared: {named}{more}. Give the folders of "
        f"one protocol, or select by --where KEY=VALUE, such as --where "
        f"{keys[0]}={text(settings[0].get(keys[0], ABSENT))} (in Python where={{...}})"
    )


def _name_methods(runs: Sequence[Run], settings: Sequence[Mapping[str, Any]]) -> dict[int, str]:
    """The method's name of each run, by the run's number; methods in the order of tables."""
    keys = [(run.strategy, settings_key(chosen)) for run, chosen in zip(runs, settings, strict=True)]
    columns = differing(settings)
    first: dict[Hashable, int] = {key: keys.index(key) for key in dict.fromkeys(keys)}
    order = sorted(
        first,
        key=lambda key: (
            rank(runs[first[key]].strategy),
            [sort_key(settings[first[key]].get(name, ABSENT)) for name in columns],
        ),
    )
    labels = label_methods({key: (runs[first[key]].strategy, settings[first[key]]) for key in order})
    return {number: labels[key] for key in order for number, other in enumerate(keys) if other == key}


def _check_duplicates(runs: Sequence[Run], names: Sequence[str]) -> None:
    seen: dict[tuple[str, int], Run] = {}
    for run, name in zip(runs, names, strict=True):
        other = seen.setdefault((name, run.seed), run)
        if other is not run:
            raise ValueError(
                f"two runs of {name!r} with seed {run.seed}: {other.path} and {run.path}; "
                "a seed counts once: leave one out, or select by --where KEY=VALUE"
            )


def _runs_frame(
    runs: Sequence[Run], names: Sequence[str], settings: Sequence[Mapping[str, Any]]
) -> pd.DataFrame:
    keys = differing(settings)
    gaps = [_gaps(run) for run in runs]
    gap = [name for name in GAP_METRICS if any(name in means for means in gaps)]
    rows = [
        {
            "path": str(run.path),
            "strategy": run.strategy,
            "method": name,
            "seed": run.seed,
            "benchmark": run.benchmark,
            **run.numbers,
            **means,
            **{key: chosen.get(key) for key in keys},
        }
        for run, name, means, chosen in zip(runs, names, gaps, settings, strict=True)
    ]
    columns = ["path", "strategy", "method", "seed", "benchmark", *METRICS, *COSTS, *gap, *keys]
    return pd.DataFrame(rows, columns=columns).rename_axis(index="run")


def _gaps(run: Run) -> dict[str, float]:
    """The means over experiences of what was measured of the generalisation gap."""
    if run.constraints is None:
        return {}
    means = run.constraints.reindex(columns=list(GAP_METRICS)).mean().dropna()
    return {str(name): float(mean) for name, mean in means.items()}


def _methods_frame(
    runs: Sequence[Run], names: Sequence[str], settings: Sequence[Mapping[str, Any]]
) -> pd.DataFrame:
    keys = differing(settings)
    rows = {
        name: {"strategy": run.strategy, **{key: chosen.get(key, ABSENT) for key in keys}}
        for run, name, chosen in zip(runs, names, settings, strict=True)
    }
    # Of objects: pandas would turn null into NaN, and integers beside it into floats.
    frame = pd.DataFrame(list(rows.values()), index=list(rows), columns=["strategy", *keys], dtype=object)
    return frame.rename_axis(index="method")


def _matrices_frame(runs: Sequence[Run]) -> pd.DataFrame:
    rows = []
    for number, run in enumerate(runs):
        experiences = run.matrix.shape[1]
        # Two rows only: trained on all experiences at once.
        after: Iterable[int] = range(experiences + 1) if len(run.matrix) > 2 else (0, experiences)
        for trained, accuracies in zip(after, run.matrix.tolist(), strict=True):
            rows += [(number, trained, experience, value) for experience, value in enumerate(accuracies)]
    return pd.DataFrame(rows, columns=["run", "after", "experience", "accuracy"])


def _environments_frame(runs: Sequence[Run]) -> pd.DataFrame:
    rows = [
        {key: text(value) for key, value in run.environment.items() if key not in ("overrides", "job")}
        for run in runs
    ]
    return pd.DataFrame(rows).fillna(ABSENT).rename_axis(index="run")


def _constraints_frame(runs: Sequence[Run]) -> pd.DataFrame:
    frames = [
        run.constraints.assign(run=number) for number, run in enumerate(runs) if run.constraints is not None
    ]
    if not frames:
        return pd.DataFrame(columns=["run", "experience"])
    frame = pd.concat(frames, ignore_index=True)
    return frame[["run", *(column for column in frame if column != "run")]]
