"""How strategies look, in every figure of every report: colour, marker and line."""

from dataclasses import dataclass
from typing import Any
from zlib import crc32

# Okabe and Ito's colours, which colour-blind readers can distinguish, without yellow: it is faint on paper.
_BLUE, _VERMILLION, _GREEN, _PURPLE = "#0072B2", "#D55E00", "#009E73", "#CC79A7"
_ORANGE, _SKY, _GREY, _BLACK = "#E69F00", "#56B4E9", "#7F7F7F", "#000000"
_COLOURS = (_BLUE, _VERMILLION, _GREEN, _PURPLE, _ORANGE, _SKY, _GREY, _BLACK)
_LINES = ("-", "--", "-.", ":")
_SPARE_MARKERS = ("8", "H", "1", "2", "3", "4", "+")

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
    """A strategy's colour, marker and line style, in matplotlib's spelling."""

    colour: str
    marker: str
    line: str


_LOOKS = {
    "naive": Look(_GREY, "x", "--"),
    "ewc": Look(_SKY, "X", "-."),
    "si": Look(_GREY, "d", "-."),
    "lwf": Look(_GREEN, ">", ":"),
    "replay": Look(_PURPLE, "h", "--"),
    "er_ace": Look(_PURPLE, "<", ":"),
    "agem": Look(_ORANGE, "v", "-"),
    "avalanche_gem": Look(_SKY, "p", "--"),
    "gem": Look(_BLUE, "o", "-"),
    "pmgem": Look(_VERMILLION, "s", "-"),
    "dmgem": Look(_GREEN, "^", "-"),
    "pdmgem": Look(_PURPLE, "D", "-"),
    "cumulative": Look(_BLACK, "P", "--"),
    "joint": Look(_BLACK, "*", "-"),
}


def look(strategy: str) -> Look:
    """The look of a strategy. An unknown strategy's look follows from its name alone."""
    if strategy in _LOOKS:
        return _LOOKS[strategy]
    number = crc32(strategy.encode())
    number, colour = divmod(number, len(_COLOURS))
    number, marker = divmod(number, len(_SPARE_MARKERS))
    return Look(_COLOURS[colour], _SPARE_MARKERS[marker], _LINES[number % len(_LINES)])


def rank(strategy: str) -> tuple[int, str]:
    """A key that sorts strategies as tables show them: from naive to joint training, unknown ones last."""
    known = list(_LOOKS)
    return (known.index(strategy) if strategy in known else len(known), strategy)
