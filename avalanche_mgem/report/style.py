"""How methods look, in every figure of every report: colour, marker and dashes."""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any
from zlib import crc32

from matplotlib.colors import to_hex, to_rgb

# Okabe and Ito's colours, which colour-blind readers can distinguish, without yellow: it is faint on paper.
_BLUE, _VERMILLION, _GREEN, _PURPLE = "#0072B2", "#D55E00", "#009E73", "#CC79A7"
_ORANGE, _SKY, _GREY, _BLACK = "#E69F00", "#56B4E9", "#7F7F7F", "#000000"
_COLOURS = (_BLUE, _VERMILLION, _GREEN, _PURPLE, _ORANGE, _SKY, _GREY, _BLACK)
# Lengths of strokes and gaps, in widths of the line.
_SOLID, _DASHED, _DOTTED, _DASHDOT = (), (4.0, 1.5), (1.0, 1.2), (6.0, 1.2, 1.0, 1.2)
_DASHES: tuple[tuple[float, ...], ...] = (
    *(_SOLID, _DASHED, _DOTTED, _DASHDOT),
    *((9.0, 2.5), (6.0, 1.2, 1.0, 1.2, 1.0, 1.2), (2.0, 3.0), (9.0, 1.5, 3.0, 1.5)),
)
_SPARE_MARKERS = ("8", "H", "3", "4", "|")
_LIGHTEST = 0.6  # of the way from a strategy's colour to white

COLUMN, PAGE = 3.35, 6.9  # inches: widths of one and of two columns of a paper

SETTINGS: Any = {  # matplotlib's type for it lists every key
    "font.family": "DejaVu Sans",  # comes with matplotlib: a figure looks the same everywhere
    "font.size": 8,
    "axes.titlesize": 8,
    "axes.labelsize": 8,
    "legend.fontsize": 7,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "lines.linewidth": 1.2,
    "lines.markersize": 4,
    "axes.linewidth": 0.6,
    "axes.grid": True,
    "grid.color": "#E5E5E5",
    "grid.linewidth": 0.5,
    "axes.axisbelow": True,
    "legend.frameon": False,
    "pdf.fonttype": 42,  # fonts as text, which journals ask for, not as drawings
    "savefig.dpi": 300,
}


@dataclass(frozen=True)
class Look:
    """Colour and marker in matplotlib's spelling, and the lengths of dashes; none for a solid line."""

    colour: str
    marker: str
    dashes: tuple[float, ...]


_LOOKS = {
    "naive": Look(_GREY, "x", _DASHED),
    "ewc": Look(_SKY, "X", _DOTTED),
    "si": Look(_GREY, "d", _DOTTED),
    "lwf": Look(_GREEN, ">", _DOTTED),
    "replay": Look(_PURPLE, "h", _DASHED),
    "er_ace": Look(_PURPLE, "<", _DOTTED),
    "der": Look(_VERMILLION, "1", _DOTTED),
    "derpp": Look(_VERMILLION, "2", _DASHED),
    "mir": Look(_ORANGE, "+", _DASHED),
    "gdumb": Look(_GREY, "_", _DASHDOT),
    "agem": Look(_ORANGE, "v", _SOLID),
    "avalanche_gem": Look(_SKY, "p", _DASHED),
    "gem": Look(_BLUE, "o", _SOLID),
    "pmgem": Look(_VERMILLION, "s", _SOLID),
    "dmgem": Look(_GREEN, "^", _SOLID),
    "pdmgem": Look(_PURPLE, "D", _SOLID),
    "er_gem": Look(_BLUE, "*", _DASHED),
    "cumulative": Look(_BLACK, "P", _DASHED),
    "joint": Look(_BLACK, ".", _SOLID),
}

# What is left for strategies that are not in the list.
_FREE = [
    (colour, dashes)
    for dashes in _DASHES
    for colour in _COLOURS
    if (colour, dashes) not in {(look.colour, look.dashes) for look in _LOOKS.values()}
]


def looks(methods: Mapping[str, str]) -> dict[str, Look]:
    """The look of each method of a report. No two have the same colour with the same dashes.

    A known strategy always has the same look, and so has a tuned one: best_gem that of gem, where gem is not
    there too. That of an unknown one follows from its name, unless another of the report has it. The methods
    of one strategy differ in tints and dashes.

    Args:
        methods: the strategy of each, by the method's name, in the order of tables.

    Example:
        >>> [look.colour for look in looks({"gem a=1": "gem", "gem a=2": "gem"}).values()]
        ['#0072B2', '#99c7e0']
    """
    of_strategy = _of_strategies(dict.fromkeys(methods.values()))
    members: dict[str, list[str]] = {}
    for method, strategy in methods.items():
        members.setdefault(strategy, []).append(method)
    found = {names[0]: of_strategy[strategy] for strategy, names in members.items()}
    in_hue = {(look.colour, look.dashes) for look in found.values()}  # by the colour before its tint
    in_tint = set(in_hue)
    for strategy, names in members.items():
        base = of_strategy[strategy]
        for place, name in enumerate(names[1:], 1):
            colour = _tint(base.colour, _LIGHTEST * place / (len(names) - 1))
            start = _DASHES.index(base.dashes) + place
            turned = [_DASHES[(start + turn) % len(_DASHES)] for turn in range(len(_DASHES))]
            also = [dashes for dashes in turned if (colour, dashes) not in in_tint]  # nor in another hue's
            new = [dashes for dashes in also if (base.colour, dashes) not in in_hue]
            dashes = (new or also or turned)[0]
            in_hue.add((base.colour, dashes))
            in_tint.add((colour, dashes))
            found[name] = Look(colour, base.marker, dashes)
    return {method: found[method] for method in methods}


def _of_strategies(strategies: Iterable[str]) -> dict[str, Look]:
    every = set(strategies)
    found = {name: _LOOKS[known] for name in every if (known := _untuned(name, every)) in _LOOKS}
    taken: set[tuple[str, tuple[float, ...]]] = set()
    for name in sorted(every - set(found)):
        number = crc32(name.encode())
        turned = [_FREE[(number + turn) % len(_FREE)] for turn in range(len(_FREE))]
        colour, dashes = next((pair for pair in turned if pair not in taken), turned[0])
        taken.add((colour, dashes))
        found[name] = Look(colour, _SPARE_MARKERS[number // len(_FREE) % len(_SPARE_MARKERS)], dashes)
    return found


def _untuned(strategy: str, others: Collection[str] = ()) -> str:
    """The strategy that ``mgem tune`` has tuned under this name, gem for best_gem, unless others have it."""
    tuned = strategy.removeprefix("best_")
    return strategy if tuned in others else tuned


def _tint(colour: str, share: float) -> str:
    """A colour mixed with white."""
    red, green, blue = (part + share * (1 - part) for part in to_rgb(colour))
    return to_hex((red, green, blue))


def rank(strategy: str) -> tuple[int, str]:
    """A key that sorts strategies as tables show them: from naive to joint training, unknown ones last."""
    known, name = list(_LOOKS), _untuned(strategy)
    return (known.index(name) if name in known else len(known), strategy)
