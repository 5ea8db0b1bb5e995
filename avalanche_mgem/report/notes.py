"""What a reader must know before comparing the methods of a report."""

from collections.abc import Iterator

import pandas as pd

from avalanche_mgem.report.comparisons import Baselines, Front
from avalanche_mgem.report.results import Results
from avalanche_mgem.report.statistics import FEWEST_SEEDS
from avalanche_mgem.report.tables import Hypervolumes
from avalanche_mgem.runs import LABELS, METRICS

_SPEED = {"device", "platform", "threads"}
_ROUNDING = {"device", "numpy", "platform", "threads", "torch"}  # docs/reproducibility.md


def comparison_notes(
    results: Results, baselines: Baselines | None, front: Front | None, volumes: Hypervolumes | None
) -> list[str]:
    """One sentence for each reason why numbers cannot be compared as they stand.

    Args:
        results: all runs.
        baselines: None if all pairs are compared.
        front: if a setting varies.
        volumes: if fronts have areas.
    """
    return [
        *_seeds(results),
        *_not_compared(results, baselines),
        *_undefined(results),
        *_environments(results.environments),
        *_fronts(front, volumes, is_of_all_pairs=baselines is None),
    ]


def _seeds(results: Results) -> Iterator[str]:
    seeds = {str(name): set(runs["seed"]) for name, runs in results.runs.groupby("method", sort=False)}
    every: set[int] = set().union(*seeds.values())
    for name, present in seeds.items():
        if present != every:
            lacking = _listed(every - present)
            yield f"{name} has seeds {_listed(present)}, and lacks {lacking}, which others have."
    if single := [name for name, present in seeds.items() if len(present) == 1]:
        yield f"One seed gives no interval: {', '.join(single)}."
    if few := [name for name, present in seeds.items() if len(present) < FEWEST_SEEDS]:
        names = "no method has more" if len(few) == len(seeds) else ", ".join(few)
        yield f"Fewer than {FEWEST_SEEDS} seeds are not tested, and give no star and no bootstrap: {names}."


def _not_compared(results: Results, baselines: Baselines | None) -> Iterator[str]:
    if baselines is None:
        if len(results.methods) == 1:
            yield "There is one method, so there are no pairs to compare."
        return
    if baselines.problem:
        yield f"There are no differences to a baseline: {baselines.problem}."
    used = baselines.used
    if not used:
        return
    if baselines.rule:
        yield baselines.rule
    without = [str(name) for name in results.methods.index if name not in baselines.of and name not in used]
    if without:
        yield f"No difference to a baseline is made for: {', '.join(without)}."


def _undefined(results: Results) -> Iterator[str]:
    for name, runs in results.runs.groupby("method", sort=False):
        if missing := [LABELS[metric] for metric in METRICS if runs[metric].isna().all()]:
            yield f"{name} has no {', '.join(missing)}: its runs do not determine them."


def _environments(environments: pd.DataFrame) -> Iterator[str]:
    different = [str(key) for key in environments if environments[key].nunique() > 1]
    for key in different:
        yield f"{key} differs: {_counted(environments[key])}."
    if speed := sorted(_SPEED.intersection(different)):
        yield f"Seconds and memory are not comparable, since the runs differ in {', '.join(speed)}."
    if rounding := sorted(_ROUNDING.intersection(different)):
        yield (
            "Differences at equal seeds have rounding in them, which grows in training, since the runs "
            f"differ in {', '.join(rounding)}."
        )


def _fronts(front: Front | None, volumes: Hypervolumes | None, *, is_of_all_pairs: bool) -> Iterator[str]:
    if front is not None and volumes is None:
        yield f"No seed has LA and BWD at every {front.names} of every front, so there are no hypervolumes."
    if volumes is not None and volumes.left_out:
        yield f"Hypervolumes leave out seeds {_listed(set(volumes.left_out))}, which not all methods have."
    if volumes is not None and is_of_all_pairs:
        yield "All pairs have no baseline, so hypervolumes have no difference to one."


def _counted(values: "pd.Series[str]") -> str:
    return ", ".join(
        f"{value} ({n} run{'s' * (n > 1)})" for value, n in values.value_counts().sort_index().items()
    )


def _listed(seeds: set[int]) -> str:
    return ", ".join(map(str, sorted(seeds)))
