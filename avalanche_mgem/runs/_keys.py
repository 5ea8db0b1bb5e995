"""A configuration by dotted keys, and the keys in which two runs may differ and still be the same run."""

from collections.abc import Mapping
from typing import Any

ABSENT = "absent"
"""Stands for the value of a key that a configuration lacks, as after ``~strategy.ridge``."""

GROUPS = ("benchmark", "strategy", "model", "optimizer")
"""The parts of a configuration of which a run has one each, with a ``_target_``."""

# Parts of the configuration that make no other run: where metrics are logged, what the command reads off the
# benchmark, what a user calls the benchmark, which files are kept, and what is shown.
_PARTS = ("logger", "log_every", "inferred", "names.benchmark", "checkpoint", "save_model", "progress")
# Last parts of other such keys. They say where and how a run is made; results change by rounding at most.
_MACHINE = {
    "channels_last",
    "dataset_root",
    "device",
    "eval_keep_mib",
    "eval_mb_size",
    "memory_device",
    "output_dir",
    "preload",
}
# Keys that runs of older versions lack, with the value that says what these did.
_ADDED = {"validation": None, "strategy.mem_size": None}


def makes_another_run(key: str) -> bool:
    """Whether two configurations that differ in this key are those of two runs.

    A sweep runs configurations once that differ in other keys only, and a report counts them once.

    >>> makes_another_run("strategy.memory_strength"), makes_another_run("seed")
    (True, True)
    >>> makes_another_run("benchmark.preload"), makes_another_run("logger.wandb.project")
    (False, False)
    """
    is_of_part = any(key == part or key.startswith(f"{part}.") for part in _PARTS)
    return not is_of_part and key.rpartition(".")[2] not in _MACHINE


def flatten(node: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings as one, with dotted keys; a list is a value.

    >>> flatten({"optimizer": {"lr": 0.1, "betas": [0.9, 0.99]}, "seed": 0})
    {'optimizer.lr': 0.1, 'optimizer.betas': [0.9, 0.99], 'seed': 0}
    """
    flat: dict[str, Any] = {}
    for key, value in node.items():
        if isinstance(value, Mapping) and value:
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def without_added(flat: Mapping[str, Any]) -> dict[str, Any]:
    """A configuration without a key that an older version lacks, where its value is what that version did.

    >>> without_added({"seed": 0, "validation": None}), without_added({"validation": 0.1})
    ({'seed': 0}, {'validation': 0.1})
    """
    return {key: value for key, value in flat.items() if key not in _ADDED or value != _ADDED[key]}


def text(value: Any) -> str:
    """A value as one writes it on the command line; numbers that are equal give the same text.

    >>> text(1.0), text(True), text(None), text([0.5, "a"])
    ('1', 'true', 'null', '[0.5,a]')
    """
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, list):
        return f"[{','.join(map(text, value))}]"
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value)


def sort_key(value: Any) -> tuple[int, float, str]:
    """A key that sorts values of a setting: numbers by their size, then all else by its text.

    >>> sorted([None, 64, "all", 8.0], key=sort_key)
    [8.0, 64, 'all', None]
    """
    if isinstance(value, int | float):
        return 0, float(value), ""
    return 1, 0.0, text(value)


def number_text(word: str) -> str:
    """A word of a command line as :func:`text` writes its value: ``0.50`` and ``.5`` are one number.

    >>> number_text(".50"), number_text(" null")
    ('0.5', 'null')
    """
    try:
        return text(float(word))
    except ValueError:
        return word.strip()
