"""What a report says, in its order: texts, tables and figures; and its spelling in Markdown."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pandas as pd

from avalanche_mgem.report.results import Results
from avalanche_mgem.report.sheets import Sheet
from avalanche_mgem.report.spelling import markdown
from avalanche_mgem.runs import text


@dataclass(frozen=True)
class Items:
    """A list of lines, each with what it is about; an empty one for a sentence.

    Attributes:
        lines: pairs of name and text.
        is_code: whether the names are keys of a configuration.
    """

    lines: list[tuple[str, str]]
    is_code: bool = False


@dataclass(frozen=True)
class Picture:
    """A figure, by the name of its files without their ending."""

    name: str
    caption: str


@dataclass(frozen=True)
class Document:
    """A report.

    Attributes:
        title: the benchmarks.
        runs: how many runs and methods.
        command: the one that made it.
        sections: by their headings.
    """

    title: str
    runs: str
    command: str
    sections: dict[str, Sheet | Items | str | list[Picture]]


def document(
    results: Results,
    sheets: Mapping[str, Sheet],
    figures: Mapping[str, str],
    notes: Sequence[str],
    command: str,
) -> Document:
    """Puts a report together.

    Args:
        results: all runs.
        sheets: its tables, by their headings.
        figures: captions, by the names of the files in ``figures/``.
        notes: what to know before comparing.
        command: the one that made it.
    """
    runs = results.runs
    sections: dict[str, Sheet | Items | str | list[Picture]] = {
        **sheets,
        "Before comparing": Items([("", note) for note in notes])
        if notes
        else "All runs have the same seeds, versions and machine.",
        "Figures": [Picture(name, caption) for name, caption in figures.items()],
        "Protocol": Items([(key, text(value)) for key, value in results.protocol.items()], is_code=True),
        "Versions": Items(list(_shared(results.environments).items())),
    }
    if len(results.incomplete):
        rows = results.incomplete.itertuples(index=False)
        lines = [(str(row.path), str(row.reason)) for row in rows]
        sections["Incomplete or damaged runs, left out"] = Items(lines)
    return Document(
        title=", ".join(dict.fromkeys(runs["benchmark"])),
        runs=f"{len(runs)} runs of {len(results.methods)} methods",
        command=command,
        sections=sections,
    )


def as_markdown(made: Document) -> str:
    """The report in Markdown."""
    parts = [f"# {made.title}", f"{made.runs}, by `{made.command}`."]
    for heading, content in made.sections.items():
        parts.append(f"## {heading}")
        if isinstance(content, Sheet):
            parts.append(markdown(content).rstrip())
        elif isinstance(content, Items):
            parts.append("\n".join(_item(content, *line) for line in content.lines))
        elif isinstance(content, str):
            parts.append(content)
        else:
            parts += [f"![{one.name}](figures/{one.name}.png)\n\n{one.caption}" for one in content]
    return "\n\n".join(parts) + "\n"


def _item(items: Items, name: str, line: str) -> str:
    if not name:
        return f"- {line}"
    return f"- `{name}`: {line}" if items.is_code else f"- {name}: {line}"


def _shared(environments: pd.DataFrame) -> dict[str, str]:
    """What is the same for all runs; what differs is among the notes."""
    return {str(key): environments[key].iloc[0] for key in environments if environments[key].nunique() == 1}
