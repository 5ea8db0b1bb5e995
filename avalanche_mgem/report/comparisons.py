"""Which methods are compared: those along one setting, each with its baseline, or all pairs."""

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from avalanche_mgem.report.methods import label_methods
from avalanche_mgem.runs import ABSENT, number_text, text

ALL_PAIRS = "all"
"""In place of a baseline: every pair of methods is compared. It is never the name of a baseline."""

_DEFAULT_SETTING, _DEFAULT_BASELINE = "memory_strength", "gem"


@dataclass(frozen=True)
class Front:
    """Methods that differ in one setting only, such as one that trades learning the new for keeping the old.

    Attributes:
        settings: its key, such as ``"strategy.memory_strength"``; several keys where strategies call it
            otherwise, or where each of them makes fronts of its own.
        families: by strategy (and its other differing settings) the setting's value in each method, in the
            order of the value.
    """

    settings: tuple[str, ...]
    families: dict[str, dict[str, Any]]

    @property
    def name(self) -> str:
        """The setting without its group; of several the first."""
        return _short(self.settings[0])

    @property
    def names(self) -> str:
        """All its settings without their groups, as words of a sentence."""
        *others, last = map(_short, self.settings)
        return f"{', '.join(others)} or {last}" if others else last

    @property
    def curves(self) -> dict[str, dict[str, Any]]:
        """The families with more than one method."""
        return {name: values for name, values in self.families.items() if len(values) > 1}

    @property
    def values(self) -> dict[str, Any]:
        """The setting's value in each of the methods, of several settings any."""
        return {method: value for values in self.families.values() for method, value in values.items()}


def find_fronts(methods: pd.DataFrame, settings: Sequence[str]) -> list[Front]:
    """Finds the methods that differ in one setting only, for each of some settings.

    Args:
        methods: ``Results.methods``.
        settings: their keys, with or without the group; none takes the memory strength if it varies.

    Returns:
        A front for each setting; none if nothing was asked for and the memory strength does not vary.

    Raises:
        ValueError: if a setting that was asked for does not vary within a strategy.
    """
    varying = _varying(methods)
    if not settings and len(_named(_DEFAULT_SETTING, varying)) != 1:
        return []
    wanted = dict.fromkeys(_the_one(name, varying, "--front") for name in settings or [_DEFAULT_SETTING])
    return [_along(methods, (key,)) for key in wanted]


def front_of_baseline(fronts: Sequence[Front], baseline: str | None) -> Front | None:
    """The first of some fronts in which the baseline is a family, or else the first."""
    wanted = baseline or _DEFAULT_BASELINE
    return next((front for front in fronts if wanted in front.families), fronts[0] if fronts else None)


def join_fronts(fronts: Sequence[Front]) -> Front | None:
    """The curves of several settings side by side, each named by its setting too.

    Returns:
        Of one front itself, and None of none. A method may be in a family of each setting.
    """
    if len(fronts) < 2:
        return fronts[0] if fronts else None
    names = [front.name for front in fronts]
    families = {
        f"{name} over {front.name if names.count(front.name) == 1 else front.settings[0]}": values
        for front in fronts
        for name, values in front.curves.items()
    }
    return Front(tuple(front.settings[0] for front in fronts), families)


def find_axis(methods: pd.DataFrame, settings: Sequence[str]) -> Front:
    """Finds the methods that differ in one setting only, which may have other names in other strategies.

    Samples of the memory a step are ``patterns_per_step`` of GEM and ``batch_size_mem`` of replay.

    Args:
        methods: ``Results.methods``.
        settings: its keys, with or without the group.

    Raises:
        ValueError: if one of them does not vary within a strategy, or a method has two of them.
    """
    varying = _varying(methods)
    keys = tuple(_the_one(setting, varying, "--over") for setting in settings)
    for name in methods.index:
        if len(both := [key for key in keys if key in _present(methods.loc[name])]) > 1:
            raise ValueError(
                f"--over {','.join(settings)}: {name} has {' and '.join(both)}; give one of them"
            )
    return _along(methods, keys)


def _varying(methods: pd.DataFrame) -> list[str]:
    """The settings that vary within a strategy while its others stay."""
    keys = map(str, methods.columns.drop("strategy"))
    return [key for key in keys if _along(methods, (key,)).curves]


def _named(setting: str, keys: Sequence[str]) -> list[str]:
    return [key for key in keys if setting in (key, _short(key))]


def _short(key: str) -> str:
    return key.rpartition(".")[2]


def _the_one(setting: str, varying: Sequence[str], option: str) -> str:
    found = _named(setting, varying)
    if len(found) == 1:
        return found[0]
    problem = f"there are {', '.join(found)}" if found else "it does not vary within a strategy"
    raise ValueError(f"{option} {setting}: {problem}; settings that do: {', '.join(varying) or 'none'}")


def _along(methods: pd.DataFrame, keys: tuple[str, ...]) -> Front:
    settings = {name: _present(methods.loc[name]) for name in methods.index}
    values = {name: present[key] for name, present in settings.items() for key in keys if key in present}
    rest = {
        name: {other: value for other, value in present.items() if other not in keys}
        for name, present in settings.items()
    }
    families: dict[Any, list[str]] = {}
    for name in values:
        identity = tuple((other, text(value)) for other, value in rest[name].items())
        families.setdefault((methods.loc[name, "strategy"], identity), []).append(name)
    labels = label_methods({family: (family[0], rest[names[0]]) for family, names in families.items()})
    return Front(
        keys, {labels[family]: {name: values[name] for name in names} for family, names in families.items()}
    )


def _present(row: "pd.Series[Any]") -> dict[str, Any]:
    return {str(key): value for key, value in row.drop("strategy").items() if value != ABSENT}


@dataclass(frozen=True)
class Baselines:
    """What each method is compared with.

    Attributes:
        of: for each method that has one its baseline.
        problem: why none has one, as the rest of a sentence; empty if some have, or with a single method.
        rule: which of several baselines is whose, as a sentence; empty where there is one.
    """

    of: dict[str, str]
    problem: str = ""
    rule: str = ""

    @property
    def used(self) -> set[str]:
        """The methods that others are compared with."""
        return set(self.of.values())


def find_baselines(methods: pd.DataFrame, front: Front | None, baseline: str | None) -> Baselines:
    """Finds what each method is compared with. Without ``gem`` and without a choice there are no baselines.

    Args:
        methods: ``Results.methods``.
        front: if the baseline has a method for each value of a setting, others are compared at equal value.
        baseline: a method, or a strategy; or ``KEY=VALUE`` of a setting that varies, for the same method with
            that value; None takes ``gem``.

    Raises:
        ValueError: if a baseline was asked for, and no method, or more than one, is called so.
    """
    names = [str(name) for name in methods.index]
    wanted = baseline or _DEFAULT_BASELINE
    candidates = [wanted] if wanted in names else _of_family(methods, front, wanted)
    if len(names) == 1 and (baseline is None or candidates):
        return Baselines({})
    setting = wanted.partition("=")[0]
    if not candidates and _named(setting, varying := _varying(methods)):
        return _at_value(_along(methods, (_the_one(setting, varying, "--baseline"),)), wanted)
    if len(candidates) == 1:
        return Baselines({name: candidates[0] for name in names if name != candidates[0]})
    by_value = _by_value(front, candidates)
    if by_value is None:
        problem = f"{len(candidates)} methods are" if candidates else "no method is"
        choices = ", ".join([*map(shlex.quote, candidates or names), f"or {ALL_PAIRS} for all pairs"])
        if baseline is None:
            return Baselines({}, f"{problem} called {wanted}; give --baseline one of {choices}")
        raise ValueError(f"--baseline {baseline}: {problem} called so; give one of {choices}")
    assert front is not None  # or there would be no values
    of = {
        name: by_value[text(value)]
        for name, value in front.values.items()
        if name not in candidates and text(value) in by_value
    }
    rule = f"Each method is compared with the baseline of the same {front.name}." if len(by_value) > 1 else ""
    return Baselines(of, "" if of else f"no other method has a {front.name} of {wanted}'s", rule)


def family_of_baselines(front: Front, baselines: Baselines) -> str | None:
    """The name of the family that has all baselines: of several the one with the fewest compared methods."""
    used = baselines.used
    names = [name for name, values in front.curves.items() if used and used.issubset(values)]
    return min(names, key=lambda name: len(baselines.of.keys() & front.curves[name].keys()), default=None)


def _at_value(along: Front, wanted: str) -> Baselines:
    """For each method the one that differs from it in a setting only, and has the wanted value of that."""
    value = number_text(wanted.partition("=")[2])
    of: dict[str, str] = {}
    for values in along.curves.values():
        chosen = [name for name in values if text(values[name]) == value]
        of |= {name: base for base in chosen for name in values if name != base}
    if not of:
        there = ", ".join(dict.fromkeys(map(text, along.values.values())))
        raise ValueError(f"--baseline {wanted}: no method has this value; there are {there}")
    return Baselines(of, rule=f"Each method is compared with the same one at {along.name}={value}.")


def by_accuracy(runs: pd.DataFrame) -> list[str]:
    """The methods, that of the highest mean ACC over its seeds first; of equal ones the first of the table.

    Args:
        runs: ``Results.runs``.

    Example:
        >>> by_accuracy(pd.DataFrame({"method": ["gem", "gem", "ewc"], "acc": [0.5, 0.7, 0.8]}))
        ['ewc', 'gem']
    """
    means = runs.groupby("method", sort=False)["acc"].mean()
    return [str(name) for name in means.sort_values(ascending=False, kind="stable").index]


def _of_family(methods: pd.DataFrame, front: Front | None, wanted: str) -> list[str]:
    if front is not None and wanted in front.families:
        return list(front.families[wanted])
    return [str(name) for name in methods.index[methods["strategy"] == wanted]]


def _by_value(front: Front | None, candidates: Sequence[str]) -> Mapping[str, str] | None:
    """The candidates by the value of the setting; None if they are not one front."""
    if (
        not candidates
        or front is None
        or not any(set(candidates) == set(names) for names in front.families.values())
    ):
        return None
    values = front.values
    return {text(values[name]): name for name in candidates}
