"""The text of a report."""

from collections.abc import Iterable, Mapping, Sequence

import pandas as pd

from avalanche_mgem.report.results import Results
from avalanche_mgem.report.sheets import Sheet, markdown


def document(
    results: Results,
    sheets: Mapping[str, Sheet],
    figures: Mapping[str, str],
    notes: Sequence[str],
    command: str,
) -> str:
    """The report in Markdown.

    Args:
        results: all runs.
        sheets: its tables, by their headings.
        figures: captions, by the names of the files in ``figures/``.
        notes: what to know before comparing.
        command: the one that made it.
    """
    runs = results.runs
    parts = [
        f"# {', '.join(dict.fromkeys(runs['benchmark']))}",
        f"{len(runs)} runs of {len(results.methods)} methods, by `{command}`.",
        *(f"## {heading}\n\n{markdown(sheet).rstrip()}" for heading, sheet in sheets.items()),
        "## Before comparing",
        _items(notes) or "All runs have the same seeds, versions and machine.",
        "## Figures",
        *(f"![{name}](figures/{name}.png)\n\n{caption}" for name, caption in figures.items()),
        "## Protocol",
        _items(f"`{key}`: {value}" for key, value in results.protocol.items()),
        "## Versions",
        _items(f"{key}: {value}" for key, value in _shared(results.environments).items()),
    ]
    if len(results.incomplete):
        rows = results.incomplete.itertuples(index=False)
        parts += [
            "## Incomplete or damaged runs, left out",
            _items(f"{row.path}: {row.reason}" for row in rows),
        ]
    return "\n\n".join(parts) + "\n"


def _items(lines: Iterable[str]) -> str:
    return "\n".join(f"- {line}" for line in lines)


def _shared(environments: pd.DataFrame) -> dict[str, str]:
    """What is the same for all runs; what differs is among the notes."""
    return {str(key): environments[key].iloc[0] for key in environments if environments[key].nunique() == 1}
