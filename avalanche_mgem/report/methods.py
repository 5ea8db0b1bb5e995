"""Which settings make a method, and which make a protocol; the names of methods."""

from collections import Counter
from collections.abc import Collection, Hashable, Iterable, Mapping, Sequence
from typing import Any

from avalanche_mgem.runs import ABSENT, makes_another_run, text

# Part of every run, in columns of their own.
_COLUMNS = {"seed", "names.strategy"}

_PROTOCOL_GROUPS = {"benchmark", "model"}
_PROTOCOL = {
    "n_experiences",
    "n_samples",
    "samples_per_experience",
    "test_samples_per_experience",
    "train_mb_size",
    "train_epochs",
    "validation",
}


def chosen_settings(config: Mapping[str, Any]) -> dict[str, Any]:
    """The part of a flat configuration that says what was run, without the strategy's name and the seed.

    >>> chosen_settings({"seed": 0, "strategy.memory_strength": 0.5, "device": "cpu"})
    {'strategy.memory_strength': 0.5}
    """
    return {key: value for key, value in config.items() if makes_another_run(key) and key not in _COLUMNS}


def is_protocol(key: str) -> bool:
    """Whether runs that differ in this key cannot be compared."""
    return key in _PROTOCOL or key.partition(".")[0] in _PROTOCOL_GROUPS


def follow_seeds(runs: Sequence[tuple[int, Mapping[str, Any]]]) -> list[dict[str, Any]]:
    """Puts ``"${seed}"`` for each value under ``*.seed`` that follows the run's seed.

    One that equals it follows it, unless it is held fixed at that number in others of the runs.

    Args:
        runs: of one strategy: seed and settings of each.
    """
    fixed = {
        (key, text(value))
        for seed, settings in runs
        for key, value in settings.items()
        if key.endswith(".seed") and value != seed
    }

    def follows(key: str, value: Any, seed: int) -> bool:
        return key.endswith(".seed") and value == seed and (key, text(value)) not in fixed

    return [
        {key: "${seed}" if follows(key, value, seed) else value for key, value in settings.items()}
        for seed, settings in runs
    ]


def differing(all_settings: Collection[Mapping[str, Any]]) -> list[str]:
    """The keys whose values are not the same everywhere, sorted; an absent one has a value of its own."""
    keys = sorted(set().union(*all_settings))
    return [key for key in keys if len({text(s.get(key, ABSENT)) for s in all_settings}) > 1]


def counts(key: str, all_settings: Iterable[Mapping[str, Any]]) -> str:
    """The values of a key and how many runs have each: ``0.5 (3 runs), absent (1 run)``."""
    values = Counter(text(settings.get(key, ABSENT)) for settings in all_settings)
    return ", ".join(f"{value} ({n} run{'s' * (n > 1)})" for value, n in sorted(values.items()))


def label_methods(methods: Mapping[Hashable, tuple[str, Mapping[str, Any]]]) -> dict[Hashable, str]:
    """Names methods by their strategy and, where that has several, by the settings in which these differ.

    A setting that a method lacks is not in its name.

    Args:
        methods: for each its strategy and settings.

    Example:
        >>> gem = {0: ("gem", {"s.gamma": 0.5, "s.b": 1}), 1: ("gem", {"s.gamma": 1, "s.b": 1})}
        >>> label_methods(gem | {2: ("naive", {})})
        {0: 'gem gamma=0.5', 1: 'gem gamma=1', 2: 'naive'}
    """
    labels: dict[Hashable, str] = {}
    for strategy in dict.fromkeys(strategy for strategy, _ in methods.values()):
        members = {name: settings for name, (other, settings) in methods.items() if other == strategy}
        keys = differing(list(members.values()))
        short = _short_keys(keys)
        values = {key: _short_values(key, [x[key] for x in members.values() if key in x]) for key in keys}
        for name, settings in members.items():
            words = [f"{short[key]}={values[key][text(settings[key])]}" for key in keys if key in settings]
            labels[name] = " ".join([strategy, *words])
    return {name: labels[name] for name in methods}


def _short_keys(keys: Sequence[str]) -> dict[str, str]:
    """The last part of a key where that is enough; a ``_target_`` is named by the group whose class it is."""
    short = {key: key.removesuffix("._target_").rpartition(".")[2] for key in keys}
    clashes = {name for name, n in Counter(short.values()).items() if n > 1}
    return {key: key if name in clashes else name for key, name in short.items()}


def _short_values(key: str, values: Iterable[Any]) -> dict[str, str]:
    """A class without its module, unless two modules have one of that name."""
    texts = set(map(text, values))
    short = {value: value.rpartition(".")[2] if key.endswith("._target_") else value for value in texts}
    return short if len(set(short.values())) == len(texts) else {value: value for value in texts}
