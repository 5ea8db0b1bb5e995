"""The command ``mgem-report``."""

import math
import os
import shlex
import sys
from argparse import ArgumentParser, ArgumentTypeError, RawDescriptionHelpFormatter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

import avalanche_mgem
from avalanche_mgem.runs import ending_with_its_reader

_DESCRIPTION = """\
Makes a report of runs of mgem: tables of means with 95 % intervals over seeds, paired tests against a
baseline or of all pairs, areas of fronts, and figures for a paper, in Markdown, CSV, LaTeX, PDF and PNG.

A method is a strategy with its settings; its runs differ in the seed. Methods are compared under one
protocol (benchmark, samples, minibatch, epochs, model): runs of several are refused, and the error says what
differs.
"""

_EXAMPLES = """\
examples:
  mgem-report runs/sweeps/gamma                    a sweep, into reports/TIME
  mgem-report runs --output paper/results          all runs below a folder; an older report there is replaced
  mgem-report runs --baseline ewc                  differences to another method than gem
  mgem-report runs --baseline all                  all pairs of methods, corrected over all of them
  mgem-report runs --where strategy=gem,dmgem strategy.num_groups=2
                                                   only runs with these values of their config.yaml
  mgem-report runs --where environment.device=cpu  or of their environment.json
  mgem-report runs --front num_groups              fronts over another setting than memory_strength
  mgem-report runs --front memory_strength,num_groups
                                                   fronts over each of two settings, compared
  mgem-report runs --over patterns_per_step        a figure of what a setting does, and takes
  mgem-report runs --baseline patterns_per_step=null
                                                   each method against the same one with that value
  mgem-report runs --html                          one page to send, tables to sort and figures inside it
  mgem-report runs --wandb my-project              the same numbers in W&B too
  mgem-report runs/sweeps/gamma --pack gamma.tar.gz
                                                   the sweep in one file, to keep or to send
  mgem-report gamma.tar.gz                         its report

A baseline with a method for each value of the front's setting is compared at equal values. From Python,
avalanche_mgem.report has load_results(folder), the numbers as pandas frames, and report(folder), which
makes the same report. MGEM_DEBUG=1 shows an error's traceback.
"""


class _Parser(ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """One line; argparse would print the usage too."""
        _fail(f"{message} (see mgem-report --help)")


@ending_with_its_reader()
def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the command; a mistake of the user's ends it with one line on standard error and status 2.

    Args:
        arguments: words of the command line; None takes the program's own.
    """
    words = sys.argv[1:] if arguments is None else list(arguments)
    options = _parser().parse_args(words)
    try:
        if options.pack is not None:
            _pack(options)
            return
        _run(
            options.runs,
            options.output,
            where=_where(options.where),
            baseline=options.baseline,
            front=options.front,
            reference=None if options.reference is None else tuple(options.reference),
            over=options.over,
            busy=options.busy,
            html=options.html,
            project=options.wandb,
            command=shlex.join(["mgem-report", *words]),
        )
    except BrokenPipeError:
        raise
    except (ValueError, OSError) as error:
        if os.environ.get("MGEM_DEBUG", "") not in ("", "0"):
            raise
        _fail(error)


def _parser() -> ArgumentParser:
    parser = _Parser(
        "mgem-report",
        usage="%(prog)s RUNS... [options]",
        description=_DESCRIPTION,
        epilog=_EXAMPLES,
        formatter_class=RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--version", action="version", version=f"%(prog)s {avalanche_mgem.__version__}")
    add(
        "runs",
        metavar="RUNS",
        nargs="+",
        type=_path,
        help="run folders, sweeps, folders above them, or archives (.tar.gz, .zip)",
    )
    add("--output", metavar="DIR", type=_path, help="where the report goes (default: reports/TIME)")
    add(
        "--baseline",
        metavar="METHOD",
        help="what the others are compared with; KEY=VALUE: the same method with that value; all: every two "
        "methods (default: gem, if it is there)",
    )
    add(
        "--where", metavar="KEY=VALUE", nargs="+", action="extend", default=[],
        help="take only runs with this value, or with one of several after commas",
    )  # fmt: skip
    add(
        "--front", metavar="SETTING", type=_words, default=[],
        help="a setting that varies and trades LA for BWD (default: memory_strength if it varies); several "
        "after commas each have fronts of their own",
    )  # fmt: skip
    add(
        "--over", metavar="SETTING", type=_words, default=[],
        help="a setting that varies, for a figure of ACC, BWD and LA over it; several after commas are one "
        "axis, where strategies call it otherwise",
    )  # fmt: skip
    add(
        "--busy",
        action="store_true",
        help="other work ran beside the runs: leave out their seconds, which measure nothing",
    )
    add(
        "--reference", metavar=("LA", "BWD"), nargs=2, type=_finite,
        help="where areas of fronts begin; give it to compare reports (default: the smallest means)",
    )  # fmt: skip
    add(
        "--pack", metavar="FILE", type=_path,
        help="write the runs into one new archive (.tar.gz), which is read like a folder, and no report",
    )  # fmt: skip
    add(
        "--html",
        action="store_true",
        help="also write report.html: one page to send, with all figures inside",
    )
    add(
        "--wandb", metavar="PROJECT", nargs="?", const="",
        help="log tables and figures to W&B too; offline without an API key (default project: W&B's own)",
    )  # fmt: skip
    return parser


def _path(word: str) -> Path:
    """A shell leaves the ~ of ``--output=~/report`` as it is."""
    return Path(os.path.expanduser(word))


def _words(word: str) -> list[str]:
    return word.split(",")


def _finite(word: str) -> float:
    try:
        value = float(word)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise ArgumentTypeError(f"it must be a finite number; got {word}")
    return value


def _where(words: Sequence[str]) -> dict[str, list[str]]:
    where: dict[str, list[str]] = {}
    for word in words:
        key, sign, value = word.partition("=")
        if not (key and sign):
            raise ValueError(f"--where {word}: it must be KEY=VALUE; folders come before --where")
        where.setdefault(key, []).append(value)
    return where


def _run(
    runs: Sequence[Path], output: Path | None, *, project: str | None, command: str, **choices: Any
) -> None:
    # Imported here: --help need not wait for pandas and matplotlib.
    from avalanche_mgem.report.spelling import print_results
    from avalanche_mgem.report.write import PAGE_FILE, report
    from avalanche_mgem.runs import printable

    made = report(*runs, out=output, command=command, **choices)
    for path, reason in made.results.incomplete.itertuples(index=False):
        sys.stderr.write(f"mgem-report: left out {printable(path)}: {printable(reason)}\n")
    print_results(made.tables["results"], ", ".join(dict.fromkeys(made.results.runs["benchmark"])))
    file = PAGE_FILE if choices["html"] else "report.md"
    print(f"report: {printable(str(made.folder / file))}", flush=True)  # noqa: T201
    if project is not None:
        from avalanche_mgem.report.tracking import log_report

        config = {"protocol": made.results.protocol, "command": command}
        log_report(project or None, made.folder.name, made.tables, made.folder / "figures", config)


def _pack(options: Any) -> None:
    from avalanche_mgem.runs import pack_runs

    for name in ("output", "where", "baseline", "front", "over", "busy", "reference", "html", "wandb"):
        if getattr(options, name) not in (None, [], False):
            raise ValueError(f"--{name}: it is of a report, and --pack writes none; leave out one of the two")
    number = pack_runs(options.runs, options.pack)
    print(f"packed {number} runs: {options.pack}", flush=True)  # noqa: T201


def _fail(message: str | Exception) -> NoReturn:
    from avalanche_mgem.runs import one_line  # here: it imports NumPy, for which --help need not wait

    sys.stderr.write(f"mgem-report: {one_line(message)}\n")
    raise SystemExit(2)
