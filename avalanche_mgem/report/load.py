"""Reading run folders, and selecting among them."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from avalanche_mgem.report.results import Results, combine, data_size, method_settings
from avalanche_mgem.runs import ABSENT, Run, UserError, find_runs, number_text, read_run, text, unpacked


def load_results(
    *folders: str | os.PathLike[str],
    where: Mapping[str, str | Sequence[str]] | None = None,
    busy: bool = False,
) -> Results:
    """Reads run folders, as the command ``mgem`` leaves them, at any depth below some folders.

    Runs are of one *method* if their strategies and settings are the same but for the seed and for the
    machine. The optimizer is part of the method, because a tuned baseline may have a learning rate of its
    own. Benchmark, numbers of samples, size of minibatches, epochs and model are the *protocol*.

    Args:
        folders: sweeps, runs, or any folders above them; also archives of them, ``.tar.gz`` or ``.zip``.
        where: takes only runs with these values; a list, or commas, for several. Keys are those of the
            configuration (``"strategy.memory_strength"``), ``"strategy"`` and ``"benchmark"`` for their
            names, and those of ``environment.json`` after ``environment.``.
        busy: whether other work ran beside the runs, so that tables leave their seconds out. False (default)
            leaves out those of runs that could share their machine with others of their sweep.

    Returns:
        The frames.

    Raises:
        ValueError: in one line, if there is no complete run, protocols differ, or two runs have the same
            method and seed. Runs with a file that is missing or damaged are left out, and named in
            ``incomplete``; if no other is left, the first one's error is raised.

    Example, not run here because the folder is the reader's:
        >>> results = load_results("runs/sweeps/gamma")  # doctest: +SKIP
        >>> results.runs.groupby("method")["acc"].mean()  # doctest: +SKIP
    """
    with unpacked(folders) as (places, shown):
        complete, incomplete = find_runs(places)
        reasons = {Path(shown(str(path))): reason for path, reason in incomplete.items()}
        found: list[Run] = []
        damaged: list[UserError] = []
        for path in complete:
            try:
                found.append(replace(read_run(path), path=Path(shown(str(path)))))
            except UserError as error:
                damaged.append(error)
                reasons[Path(shown(str(path)))] = str(error).removeprefix(f"{path}{os.sep}")
        if damaged and not found:
            raise damaged[0]
    if not found:
        below = ", ".join(map(str, folders))
        named = "".join(f"; incomplete: {path} ({reason})" for path, reason in list(reasons.items())[:1])
        raise ValueError(f"no complete run in {below}: a run folder has a summary.json{named}")
    runs = _select(found, where or {})
    return replace(combine(runs, method_settings(runs), reasons), is_busy=busy)


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
        allowed = {number_text(part) for value in given for part in (value, *value.split(","))}
        runs_left = [run for run, value in zip(runs, values, strict=True) if value in allowed]
        if not runs_left:
            has = ", ".join(sorted(set(values)))
            raise ValueError(f"where {key}={','.join(given)}: no run has this value; there are {has}")
        runs = runs_left
    return runs


def _properties(run: Run) -> dict[str, Any]:
    environment = {f"environment.{key}": value for key, value in run.environment.items()}
    names = {"strategy": run.strategy, "benchmark": run.benchmark}
    return {**environment, **run.config, **data_size(run), **names}
