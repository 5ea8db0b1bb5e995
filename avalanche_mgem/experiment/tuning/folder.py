"""The folder of a study: known by the contents of its mark, and of one study alone."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from filelock import FileLock

from avalanche_mgem.experiment.tuning.settings import Settings
from avalanche_mgem.experiment.tuning.space import Space
from avalanche_mgem.runs import (
    ABSENT,
    UserError,
    differing_keys,
    flatten,
    makes_another_run,
    text,
    write_whole,
    written,
)

MARK = "study.json"
_SIGNATURE = {"package": "avalanche-mgem", "kind": "study", "format": 1}
_LOCKS = ".locks"


def claim(folder: Path, asked: Mapping[str, str]) -> None:
    """Makes the folder of a study, or checks that it is that of the same study.

    Args:
        folder: new, empty, or of a study.
        asked: what makes the study, see :func:`description`.

    Raises:
        UserError: if it holds anything else, or another study; then nothing is changed.
    """
    if os.path.lexists(folder) and not folder.is_dir():
        raise UserError(f"tune.dir={folder}: it must be a folder")
    if others := _others(folder):
        raise UserError(f"{folder} holds {others[0]}, and no study; give an empty or another tune.dir")
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(lock_file(folder, "study")):  # two processes may begin at once
        if not (folder / MARK).exists():
            mark = {**_SIGNATURE, "study": dict(asked)}
            write_whole(folder / MARK, json.dumps(mark, indent=2) + "\n")
        there = _read(folder / MARK)
    if there.get("strategy") != asked["strategy"]:  # then most keys have other names
        there, asked = ({"strategy": made.get("strategy", ABSENT)} for made in (there, asked))
    if different := differing_keys(there, asked):
        raise UserError(
            f"{folder} holds a study with another {', '.join(different)}; nothing is changed: give another "
            "tune.dir"
        )


def lock_file(folder: Path, name: str) -> Path:
    """The file of a lock of a study: ``study``, ``journal``, or that of a process."""
    (folder / _LOCKS).mkdir(exist_ok=True)
    return folder / _LOCKS / name


def _others(folder: Path) -> list[str]:
    """What a folder without a mark holds."""
    if not folder.is_dir() or (folder / MARK).exists():
        return []
    return sorted(path.name for path in folder.iterdir() if path.name != _LOCKS)


def description(
    cfgs: Mapping[str, Any], spaces: Mapping[str, Space], settings: Settings, seed: int
) -> dict[str, str]:
    """What makes a study, by dotted keys: all but the number of trials, which may grow.

    Args:
        cfgs: the configuration of each strategy.
        spaces: what is tried, of each strategy.
        settings: of the study.
        seed: of the sampler.
    """
    made = {
        "strategy": ",".join(cfgs),
        "seed": seed,
        **{f"tune.{key}": getattr(settings, key) for key in _SETTINGS},
    }
    configs: dict[str, dict[str, str]] = {}
    for name, cfg in cfgs.items():
        flat = {key: value for key, value in flatten(written(cfg)).items() if makes_another_run(key)}
        flat |= {f"tune.space.{key}": str(part) for key, part in spaces[name].items()}
        configs[name] = {key: text(value) for key, value in flat.items() if key != "names.strategy"}
    for name, config in configs.items():
        for key, value in config.items():
            is_common = all(other.get(key) == value for other in configs.values())
            made[key if is_common else f"{name}: {key}"] = value
    return {key: text(value) for key, value in made.items()}


_SETTINGS = ("experiences", "seeds", "first_seed", "sampler", "prune")


def _read(path: Path) -> dict[str, str]:
    try:
        mark = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: it cannot be read as the mark of a study: {error}") from error
    study = mark.get("study") if isinstance(mark, dict) else None
    if not isinstance(study, dict) or {key: mark.get(key) for key in _SIGNATURE} != _SIGNATURE:
        raise UserError(f"{path}: it is no mark of a study of this version; give another tune.dir")
    return {str(key): str(value) for key, value in study.items()}
