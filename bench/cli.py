"""The command ``python -m bench``."""

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from avalanche_mgem.experiment._quiet import quiet
from avalanche_mgem.experiment.errors import allowed
from avalanche_mgem.runs import UserError
from bench.progress import Reporter
from bench.record import FOLDER, Record, machine, read, record, write
from bench.report import PAGE, amount, limit, ratio, verdict, write_page
from bench.row import Options, Row
from bench.rows import ROWS

_DESCRIPTION = """\
Measures avalanche-mgem beside stock Avalanche and beside the arithmetic alone, in turns, with the same seeds
and threads. Every result is a ratio with a floor and a goal. As soon as a row is measured, its file in
docs/performance/ is replaced and the tables of docs/performance.md are rewritten.

Exit status: 0 all floors met, 1 a floor missed or results that disagree, 2 a mistake in the command."""

_EXAMPLES = """\
examples:
  python -m bench                              every row; mostly stock Avalanche's time
  python -m bench --only step_gem_mlp g_to_z   two rows; the results of the others stay
  python -m bench --quick                      try that it works: tiny sizes, no data set, nothing written
  python -m bench --tables                     rewrite the tables from the files, without measuring"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command and returns its exit status."""
    parser = _parser()
    args = parser.parse_args(arguments)
    try:
        rows = _chosen(args.only)
        if args.list:
            _console().print(_listing(rows))
            return 0
        if args.tables:
            _write_page()
            return 0
        return _measure(rows, args)
    except UserError as error:
        sys.stderr.write(f"bench: {error}\n")
        return 2


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m bench",
        description=_DESCRIPTION,
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--only", nargs="+", metavar="NAME", help="measure these rows (default: all)")
    parser.add_argument("--list", action="store_true", help="show the rows with floors and goals, and stop")
    parser.add_argument("--tables", action="store_true", help="rewrite the page's tables, and stop")
    parser.add_argument("--quick", action="store_true", help="tiny sizes on made-up data; nothing is written")
    parser.add_argument(
        "--threads",
        type=_at_least(1),
        default=2,
        help="of torch, both sides (default: 2); a row that says one thread has one",
    )
    parser.add_argument("--seed", type=_at_least(0), default=0, help="of everything (default: 0)")
    parser.add_argument(
        "--dataset-root",
        type=lambda text: Path(text).expanduser(),
        default=Path("~/.avalanche").expanduser(),
        metavar="DIR",
        help="where MNIST and CIFAR-100 lie (default: ~/.avalanche); nothing is downloaded",
    )
    return parser


def _at_least(least: int) -> Callable[[str], int]:
    def integer(text: str) -> int:
        if not text.isdecimal() or int(text) < least:
            raise argparse.ArgumentTypeError(f"it must be an integer of at least {least}; got {text!r}")
        return int(text)

    return integer


def _chosen(names: Sequence[str] | None) -> list[Row]:
    """The rows with these names, in the order of the table; None chooses all that can be measured here."""
    known = {row.name for row in ROWS}
    for name in names or ():
        if name not in known:
            raise UserError(f"there is no row {name!r}; {allowed(name, known)}")
    if names is None:
        return [row for row in ROWS if _is_there(row.device)]
    chosen = [row for row in ROWS if row.name in names]
    for row in chosen:
        if not _is_there(row.device):
            raise UserError(f"the row {row.name} needs a GPU with CUDA, and torch sees none")
    return chosen


def _is_there(device: str) -> bool:
    return device == "cpu" or torch.cuda.is_available()


def _measure(rows: Sequence[Row], args: argparse.Namespace) -> int:
    state = machine()
    failed = False
    results: list[tuple[Row, Record]] = []
    with Reporter() as report, quiet():
        for row in rows:
            report.row(row.name)
            options = Options(args.dataset_root.resolve(), args.seed, args.quick, report, row.device)
            torch.set_num_threads(row.threads or args.threads)
            kept = record(row, row.measure(options), options, state)
            results.append((row, kept))
            failed |= _failed(row, kept, quick=args.quick)
            report.say(f"{row.name}: {ratio(kept['ratio'])}, {_comment(row, kept, quick=args.quick)}")
            if kept["agreement"] is not None:
                report.say(f"{row.name}: {kept['agreement']['text']}")
            if not args.quick:
                write(kept)
                _write_page()
    _console().print(_results(results, quick=args.quick))
    return int(failed)


def _failed(row: Row, kept: Record, *, quick: bool) -> bool:
    """Whether the row fails. Floors count at full size only; results must agree at every size."""
    disagrees = kept["agreement"] is not None and not kept["agreement"]["ok"]
    return disagrees or not (quick or row.meets(kept["ratio"], row.floor))


def _comment(row: Row, kept: Record, *, quick: bool) -> str:
    return "not judged" if quick else verdict(row, kept)


def _console() -> Console:
    """A console wide enough for the names, even if the output is not a terminal."""
    return Console(width=100)


def _write_page() -> None:
    write_page([(row, kept) for row in ROWS if (kept := read(row)) is not None])
    sys.stderr.write(f"bench: wrote {PAGE.name} from {FOLDER.name}/\n")


def _listing(rows: Sequence[Row]) -> Table:
    table = _table("row", "what", "against", "floor", "goal")
    for row in rows:
        table.add_row(row.name, row.what, row.against, limit(row, row.floor), limit(row, row.goal))
    return table


def _results(results: Sequence[tuple[Row, Record]], *, quick: bool) -> Table:
    table = _table("row", "ours", "other", "ratio", "floor", "")
    for row, kept in results:
        sides = (amount(kept[side]["median"], kept["unit"]) for side in ("ours", "other"))
        comment = _comment(row, kept, quick=quick)
        table.add_row(row.name, *sides, ratio(kept["ratio"]), limit(row, row.floor), comment)
    return table


def _table(*heads: str) -> Table:
    table = Table(box=SIMPLE_HEAD)
    for head in heads:
        table.add_column(head, no_wrap=head not in ("what", "against"))
    return table
