"""Writes the generated part of docs/performance.md from the JSON files of the rows."""

from collections.abc import Sequence

from bench.record import ROOT, Record
from bench.row import Row

PAGE = ROOT / "docs" / "performance.md"
BEGIN, END = "<!-- bench:begin -->", "<!-- bench:end -->"

Results = Sequence[tuple[Row, Record]]


def write_page(results: Results) -> None:
    """Puts the tables between the markers of the page. The text around the markers is written by hand.

    Raises:
        ValueError: if the page lacks a marker.
    """
    page = PAGE.read_text(encoding="utf-8")
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise ValueError(f"{PAGE.name} needs the markers {BEGIN} and {END}, in this order.")
    PAGE.write_text(f"{before}{BEGIN}\n{tables(results)}\n{END}{after}", encoding="utf-8")


def tables(results: Results) -> str:
    """All tables in Markdown."""
    if not results:
        return "Nothing has been measured yet."
    return "\n\n".join((_ratios(results), _medians(results), _details(results), _machines(results)))


def verdict(row: Row, kept: Record) -> str:
    """How a record compares with the floor and goal that its row has today, in words."""
    if kept["agreement"] is not None and not kept["agreement"]["ok"]:
        return "results disagree"
    if row.meets(kept["ratio"], row.goal):
        return "goal met"
    return "floor met" if row.meets(kept["ratio"], row.floor) else "floor missed"


def ratio(value: float) -> str:
    """A ratio with three digits."""
    return f"{value:.3g} x"


def limit(row: Row, value: float) -> str:
    """A floor or goal with its direction."""
    return f"{'≥' if row.at_least else '≤'} {value:g} x"


def amount(value: float, unit: str) -> str:
    """An amount of seconds or bytes, readable."""
    if unit == "bytes":
        return f"{value / 2**20:,.0f} MiB"
    return f"{value:,.1f} s" if value >= 10 else f"{value:.2f} s" if value >= 1 else f"{value * 1e3:.2f} ms"


def _ratios(results: Results) -> str:
    lines = []
    for row, kept in results:
        spread = f"{ratio(kept['ratio'])} ({' to '.join(f'{q:.3g}' for q in kept['ratio_quartiles'])})"
        if kept["ours"]["n"] == 1:
            spread = ratio(kept["ratio"])
        direction = "times as fast" if row.at_least else "as much"
        cells = [
            f"`{row.name}`: {row.what}",
            row.against,
            f"{spread} {direction}",
            limit(row, row.floor),
            limit(row, row.goal),
            verdict(row, kept),
        ]
        lines.append(cells)
    return _table(["what", "against", "ratio", "floor", "goal", "met"], lines)


def _medians(results: Results) -> str:
    lines = []
    for row, kept in results:
        sides = []
        for side in ("ours", "other"):
            values = kept[side]
            low, high = (amount(q, kept["unit"]) for q in values["quartiles"])
            middle = amount(values["median"], kept["unit"])
            sides.append(middle if low == high else f"{middle} ({low} to {high})")
        revision = f"{(kept['revision'] or 'none')[:7]}{' + changes' if kept['dirty'] else ''}"
        seed = str(kept["seed"])
        lines.append([f"`{row.name}`", *sides, str(kept["ours"]["n"]), seed, revision, kept["date"]])
    heads = [
        "row",
        "ours, median (quartiles)",
        "the other, median (quartiles)",
        "n",
        "seed",
        "source",
        "date",
    ]
    return _table(heads, lines)


def _details(results: Results) -> str:
    lines = []
    for row, kept in results:
        parts = []
        if kept["agreement"] is not None:
            parts.append(f"{kept['agreement']['text']}.")
        for name, value in kept["record"].items():
            parts.append(f"For the record, {name}: {ratio(value)}.")
        if parts:
            lines.append(f"- `{row.name}`: {' '.join(parts)}")
    return "\n".join(lines)


def _machines(results: Results) -> str:
    """One line for each machine and its software, with the names of its rows."""
    found: dict[str, list[str]] = {}
    for row, kept in results:
        versions = ", ".join(f"{name} {value}" for name, value in kept["versions"].items())
        threads = f"{kept['threads']['torch']} torch threads, {kept['threads']['blas']} of NumPy's BLAS"
        where = f"{kept['machine']['cpu']}, {kept['machine']['cores']} cores; {threads}; {versions}"
        if kept.get("device", "cpu") != "cpu":
            where = f"{kept['device']}; {where}"
        found.setdefault(where, []).append(row.name)
    if len(found) == 1:
        return f"All rows: {next(iter(found))}."
    return "\n".join(
        f"- {', '.join(f'`{name}`' for name in names)}: {where}." for where, names in found.items()
    )


def _table(heads: list[str], lines: list[list[str]]) -> str:
    rows = [heads, ["---"] * len(heads), *lines]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in rows)
