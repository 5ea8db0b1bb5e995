"""Sweeps from Python: those of the command, with its folders."""

import os
import re
from collections.abc import Mapping, Sequence
from typing import Any

from hydra._internal.hydra import Hydra
from hydra._internal.utils import create_config_search_path
from hydra.errors import HydraException
from hydra.version import setbase
from omegaconf.errors import OmegaConfBaseException

from avalanche_mgem.experiment import api  # noqa: F401  # first: it brings torch, after which nothing forks
from avalanche_mgem.experiment._files import config_folder
from avalanche_mgem.experiment._sweep import Ended, current_sweep, watched_sweeper
from avalanche_mgem.experiment.configuration import hydra_of_the_caller_kept, quoted, search_path_word
from avalanche_mgem.experiment.errors import explain
from avalanche_mgem.experiment.main import job
from avalanche_mgem.report import Results, load_results
from avalanche_mgem.runs import UserError, text

_PLAIN = re.compile(r"[\w./:+-]+")  # texts that need no quotes in Hydra's grammar


def sweep(
    grid: Mapping[str, Any] | Sequence[str],
    folder: str | os.PathLike[str] | None = None,
    *,
    launcher: str | None = None,
    config_dir: str | os.PathLike[str] | None = None,
) -> Results:
    """Runs every combination of some values, as ``mgem -m`` does, and reads the results.

    It prints what the command prints: a line for each run, and a table. A sweep that was interrupted goes on
    where the same call is made with the same folder, and so does one with more values. The command
    ``mgem -m ... hydra.sweep.dir=FOLDER`` goes on with it too.

    Args:
        grid: words of the command line, such as ``["strategy=gem,dmgem", "seed=range(5)"]``; or a value, or a
            list of values, for each key: ``{"strategy": ["gem", "dmgem"], "seed": range(5)}``.
        folder: of the sweep; None (default) takes a new one below ``runs/sweeps``.
        launcher: such as ``"parallel"``, which makes runs on all cores; None (default) makes one after the
            other in this process.
        config_dir: a folder of your own configuration files, as the command's ``--config-dir``.

    Returns:
        What :func:`~avalanche_mgem.report.load_results` returns for the folder.

    Raises:
        avalanche_mgem.experiment.UserError: in one line, for what the grid has wrong, and for runs that have
            failed. The complete ones are kept: :func:`~avalanche_mgem.report.load_results` reads them.
        ValueError: if the runs have several protocols, such as several benchmarks. They are kept too.

    Example, not run here because it takes half a minute:
        >>> results = sweep({"strategy": ["gem", "dmgem"], "seed": range(3)}, "runs/two")  # doctest: +SKIP
        >>> results.runs.groupby("method")["acc"].mean()  # doctest: +SKIP
    """
    if isinstance(grid, str):
        raise UserError(f"sweep({grid!r}): give a list of such words, or a dictionary")
    words = (
        [f"{key}={_values(value)}" for key, value in grid.items()] if isinstance(grid, Mapping) else [*grid]
    )
    if config_dir is not None:
        words.append(search_path_word(config_dir))
    if launcher is not None:
        words.append(f"hydra/launcher={launcher}")
    if folder is not None:
        words.append(f"hydra.sweep.dir={_value(os.fspath(folder))}")
    try:
        with hydra_of_the_caller_kept(), watched_sweeper():
            setbase("1.3")
            hydra = Hydra.create_main_hydra2("mgem", create_config_search_path(str(config_folder())))
            hydra.multirun("config", job, [*words, "hydra.mode=MULTIRUN"])  # the last word is for each run
    except (HydraException, OmegaConfBaseException) as error:
        raise UserError(explain(error)) from error
    except Ended as end:
        raise UserError(end.message) from None
    made = current_sweep()
    assert made is not None  # it was set when the sweep began
    return load_results(made)


def _values(value: Any) -> str:
    several = isinstance(value, Sequence) and not isinstance(value, str)
    return ",".join(map(_value, value)) if several else _value(value)


def _value(value: Any) -> str:
    """A value in Hydra's grammar; a list is one value, in brackets."""
    if isinstance(value, str):
        return value if _PLAIN.fullmatch(value) else quoted(value)
    if isinstance(value, Sequence):
        return f"[{','.join(map(_value, value))}]"
    return text(value)
