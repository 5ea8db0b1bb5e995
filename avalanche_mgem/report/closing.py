"""The closing table of a sweep."""

from collections.abc import Hashable, Sequence
from typing import Any

from avalanche_mgem.report.methods import is_protocol, label_methods
from avalanche_mgem.report.results import combine, method_settings, settings_key
from avalanche_mgem.report.spelling import print_results
from avalanche_mgem.report.tables import results_table
from avalanche_mgem.runs import Run, printable

_SHOWN = ("acc", "bwd", "la", "fwt", "seconds_train")

Settings = dict[str, Any]


def print_sweep(runs: Sequence[Run]) -> None:
    """Prints means with 95 % intervals over seeds, a table for each protocol, for 80 columns.

    A sweep may hold what a report refuses: several protocols, such as several benchmarks, and the same run
    twice, asked for in different words. The first of two such runs counts, and a line names both.
    """
    repeats = []
    for title, members in _by_protocol(runs).items():
        first: dict[Hashable, int] = {}
        for number, (run, settings) in enumerate(members):
            other = first.setdefault((run.strategy, run.seed, settings_key(settings)), number)
            if other != number:
                names = f"{members[other][0].path.name} and {run.path.name}"
                repeats.append(f"the same run, counted once: {names}")
        kept = [members[number] for number in first.values()]
        results = combine([run for run, _ in kept], [settings for _, settings in kept], {})
        print_results(results_table(results), title, _SHOWN)
    for line in repeats:
        print(printable(line))  # noqa: T201


def _by_protocol(runs: Sequence[Run]) -> dict[str, list[tuple[Run, Settings]]]:
    """Runs with their settings, by a name for their protocol: the benchmark and what differs."""
    groups: dict[Hashable, list[tuple[Run, Settings]]] = {}
    protocols: dict[Hashable, tuple[str, Settings]] = {}
    for benchmark in dict.fromkeys(run.benchmark for run in runs):
        members = [run for run in runs if run.benchmark == benchmark]
        for run, settings in zip(members, method_settings(members), strict=True):
            protocol = {key: value for key, value in settings.items() if is_protocol(key)}
            key = (benchmark, settings_key(protocol))
            protocols[key] = (benchmark, protocol)
            groups.setdefault(key, []).append((run, settings))
    labels = label_methods(protocols)
    return {labels[key]: members for key, members in groups.items()}
