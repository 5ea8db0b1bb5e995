"""Run folders as pandas frames."""

import os
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

import pandas as pd

from avalanche_mgem.report.run_folder import COSTS, METRICS, Run, find_runs, read_run
from avalanche_mgem.report.settings import (
    ABSENT,
    chosen_settings,
    counts,
    differing,
    follow_seeds,
    is_protocol,
    label_methods,
    text,
)
from avalanche_mgem.report.style import rank

_LISTED = 6  # differing keys in an error: a whole model would fill the screen


@dataclass(frozen=True)
class Results:
    """What run folders of one protocol hold.

    Attributes:
        runs: a row for each complete run: ``path``, ``strategy``, ``method``, ``seed``, ``benchmark``; the
            metrics ``acc``, ``bwd``, ``la``, ``fwt``, ``forgetting`` as fractions; ``seconds_train``,
            ``seconds_eval``, ``seconds_data``, ``peak_memory_mb`` in MiB; and the settings that differ.
        matrices: a row for each measured accuracy: ``run`` (index of ``runs``), ``after`` (the number of
            experiences that the model has been trained on, 0 for the untrained one), ``experience`` (tested,
            from 0), ``accuracy``.
        constraints: the rows of all ``constraints.csv`` with their ``run``; empty if there are none.
        incomplete: ``path`` and ``reason`` of folders that hold no complete run.
        methods: by name of the method its ``strategy`` and the settings that differ, ``"absent"`` where its
            configuration lacks them.
        protocol: the settings that all runs share because they must, as text.
        environments: versions, machine and source revision as text, a row for each run.
    """

    runs: pd.DataFrame
    matrices: pd.DataFrame
    constraints: pd.DataFrame
    incomplete: pd.DataFrame
    methods: pd.DataFrame
    protocol: dict[str, str]
    environments: pd.DataFrame


def load_results(
    *folders: str | os.PathLike[str], where: Mapping[str, str | Sequence[str]] | None = None
) -> Results:
    """Reads run folders, as the command ``mgem`` leaves them, at any depth below some folders.

    Runs are of one *method* if their strategies and settings are the same but for the seed and for the
    machine. The optimizer is part of the method, because a tuned baseline may have a learning rate of its
    own. Benchmark, numbers of samples, size of minibatches, epochs and model are the *protocol*.

    Args:
        folders: sweeps, runs, or any folders above them.
        where: takes only runs with these values; a list, or commas, for several. Keys are those of the
            configuration (``"strategy.memory_strength"``), ``"strategy"`` and ``"benchmark"`` for their
            names, and those of ``environment.json`` after ``environment.``.

    Returns:
        The frames.

    Raises:
        ValueError: in one line, if there is no complete run, a file is missing or damaged, protocols differ,
            or two runs have the same method and seed.

    Example:
        >>> results = load_results("runs/sweeps/gamma")  # doctest: +SKIP
        >>> results.runs.groupby("method")["acc"].mean()  # doctest: +SKIP
    """
    complete, reasons = find_runs(folders)
    if not complete:
        below = ", ".join(map(str, folders))
        named = "".join(f"; incomplete: {path} ({reason})" for path, reason in list(reasons.items())[:1])
        raise ValueError(f"no complete run in {below}: a run folder has a summary.json{named}")
    runs = _select([read_run(path) for path in complete], where or {})
    settings = _settings(runs)
    _check_protocol(settings)
    methods = _methods(runs, settings)
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
            [(str(path), reason) for path, reason in reasons.items()], columns=["path", "reason"]
        ),
        methods=_methods_frame(runs, names, settings),
        protocol={key: text(value) for key, value in sorted(settings[0].items()) if is_protocol(key)},
        environments=_environments_frame(runs),
    )


def _select(runs: list[Run], where: Mapping[str, str | Sequence[str]]) -> list[Run]:
    for key, wanted in where.items():
        values = [text(_properties(run).get(key, ABSENT)) for run in runs]
        if set(values) == {ABSENT}:
            known = sorted(set().union(*map(_properties, runs)))
            close = get_close_matches(key, known, n=3, cutoff=0.4)
            raise ValueError(
                f"where {key}: no run has this key; the nearest are {', '.join(close) or 'none'}"
            )
        given = [wanted] if isinstance(wanted, str) else [text(value) for value in wanted]
        # A list is one value with commas in it, so the whole is allowed too.
        allowed = {_number_text(part) for value in given for part in (value, *value.split(","))}
        runs_left = [run for run, value in zip(runs, values, strict=True) if value in allowed]
        if not runs_left:
            has = ", ".join(sorted(set(values)))
            raise ValueError(f"where {key}={','.join(given)}: no run has this value; there are {has}")
        runs = runs_left
    return runs


def _properties(run: Run) -> dict[str, Any]:
    environment = {f"environment.{key}": value for key, value in run.environment.items()}
    return {**environment, **run.config, **_size(run), "strategy": run.strategy, "benchmark": run.benchmark}


def _size(run: Run) -> dict[str, Any]:
    """How much data there was, which tells folders of images apart that the configuration does not."""
    samples = run.config.get("inferred.n_samples")
    return {"n_experiences": run.matrix.shape[1], **({} if samples is None else {"n_samples": samples})}


def _number_text(value: str) -> str:
    """``0.50`` and ``.5`` are the same number to who writes them."""
    try:
        return text(float(value))
    except ValueError:
        return value.strip()


def _settings(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """The chosen settings of each run, in which seeds that follow the run's are the same in all."""
    settings: dict[int, dict[str, Any]] = {}
    told_by_all = set.intersection(*(set(_size(run)) for run in runs))  # older runs do not tell of samples
    for strategy in {run.strategy for run in runs}:
        numbers = [number for number, run in enumerate(runs) if run.strategy == strategy]
        chosen = [
            chosen_settings(runs[i].config)
            | {key: value for key, value in _size(runs[i]).items() if key in told_by_all}
            for i in numbers
        ]
        own = follow_seeds([(runs[i].seed, settings) for i, settings in zip(numbers, chosen, strict=True)])
        settings |= zip(numbers, own, strict=True)
    return [settings[number] for number in range(len(runs))]


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


def _methods(runs: Sequence[Run], settings: Sequence[Mapping[str, Any]]) -> dict[int, str]:
    """The method's name of each run, by the run's number; methods in the order of tables."""
    keys = [
        (run.strategy, tuple(sorted((key, text(value)) for key, value in own.items())))
        for run, own in zip(runs, settings, strict=True)
    ]
    told = differing(settings)
    first: dict[Hashable, int] = {key: keys.index(key) for key in dict.fromkeys(keys)}
    order = sorted(
        first,
        key=lambda key: (
            rank(runs[first[key]].strategy),
            [_sortable(settings[first[key]].get(name, ABSENT)) for name in told],
        ),
    )
    labels = label_methods({key: (runs[first[key]].strategy, settings[first[key]]) for key in order})
    return {number: labels[key] for key in order for number, other in enumerate(keys) if other == key}


def _sortable(value: Any) -> tuple[int, float, str]:
    """Numbers by their size, then all else by its text."""
    if isinstance(value, int | float):
        return 0, float(value), ""
    return 1, 0.0, text(value)


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
    told = differing(settings)
    rows = [
        {
            "path": str(run.path),
            "strategy": run.strategy,
            "method": name,
            "seed": run.seed,
            "benchmark": run.benchmark,
            **run.numbers,
            **{key: own.get(key) for key in told},
        }
        for run, name, own in zip(runs, names, settings, strict=True)
    ]
    columns = ["path", "strategy", "method", "seed", "benchmark", *METRICS, *COSTS, *told]
    return pd.DataFrame(rows, columns=columns).rename_axis(index="run")


def _methods_frame(
    runs: Sequence[Run], names: Sequence[str], settings: Sequence[Mapping[str, Any]]
) -> pd.DataFrame:
    told = differing(settings)
    rows = {
        name: {"strategy": run.strategy, **{key: own.get(key, ABSENT) for key in told}}
        for run, name, own in zip(runs, names, settings, strict=True)
    }
    # Of objects: pandas would turn null into NaN, and integers beside it into floats.
    frame = pd.DataFrame(list(rows.values()), index=list(rows), columns=["strategy", *told], dtype=object)
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
