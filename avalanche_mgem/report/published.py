"""Published numbers beside ours, where the protocol is the same."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files
from typing import Any

import pandas as pd
from yaml import safe_load  # type: ignore[import-untyped]

from avalanche_mgem.report.results import Results
from avalanche_mgem.runs import ABSENT, text


@dataclass(frozen=True)
class Published:
    """Numbers of one method under one protocol.

    Attributes:
        source: who published them.
        protocol: in words.
        method: as the source calls it.
        values: metrics as they were published, by our names.
        command: words for ``mgem`` that make a run of the protocol; empty if there are none.
        strategies: names of ours for the method.
        settings: those of a run of the protocol, a value or a list of alternatives by dotted key.
    """

    source: str
    protocol: str
    method: str
    values: dict[str, str]
    command: str = ""
    strategies: list[str] = field(default_factory=list)
    settings: dict[str, Any] = field(default_factory=dict)

    def is_of(self, strategy: str, settings: Mapping[str, Any]) -> bool:
        """Whether a method of ours has this protocol.

        Args:
            strategy: its name.
            settings: all of them, by dotted keys.
        """
        return strategy in self.strategies and all(
            text(settings.get(key, ABSENT)) in map(text, wanted if isinstance(wanted, list) else [wanted])
            for key, wanted in self.settings.items()
        )


@cache
def all_published() -> tuple[Published, ...]:
    """All that are known, also those that stand beside no run."""
    entries = safe_load(files("avalanche_mgem.report").joinpath("published.yaml").read_text(encoding="utf-8"))
    return tuple(Published(**entry) for entry in entries)


def published_table(results: Results, means: pd.DataFrame) -> pd.DataFrame:
    """Ours beside the published ones of the same protocol.

    Args:
        results: all runs.
        means: :func:`~avalanche_mgem.report.tables.results_table` of them.

    Returns:
        A row for each number: ``method``, ``source``, ``protocol``, ``metric``, ``n`` seeds, ``mean``,
        ``half_width`` and ``published``; empty if there are none.
    """
    ours = means.set_index("method")
    rows = [
        {
            "method": method,
            "source": entry.source,
            "protocol": entry.protocol,
            "metric": metric,
            "n": ours.loc[method, "n"],
            "mean": ours.loc[method, f"{metric}_mean"],
            "half_width": ours.loc[method, f"{metric}_half_width"],
            "published": value,
        }
        for method, settings in results.settings.items()
        for entry in all_published()
        if entry.is_of(str(results.methods.loc[method, "strategy"]), settings)
        for metric, value in entry.values.items()
    ]
    columns = ["method", "source", "protocol", "metric", "n", "mean", "half_width", "published"]
    return pd.DataFrame(rows, columns=columns)
