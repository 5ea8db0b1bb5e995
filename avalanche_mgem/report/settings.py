"""What tells runs apart: the protocol, which must be the same, and the settings of their methods."""

from collections import Counter
from collections.abc import Collection, Hashable, Iterable, Mapping, Sequence
from typing import Any

ABSENT = "absent"  # in the place of a value: older configurations lack keys

# Where and how a run was made, which changes its results by rounding at most.
_OF_THE_MACHINE = {"dataset_root", "device", "memory_device", "preload", "eval_mb_size", "output_dir"}
# No choice of the method: measurements beside it, or what follows from other values.
_NOT_CHOSEN = {"seed", "inferred", "names", "logger", "channels_last", "gap_patterns_per_exp", "gap_every"}

_PROTOCOL_GROUPS = {"benchmark", "model"}
_PROTOCOL = {
    "n_experiences",
    "n_samples",
    "samples_per_experience",
    "test_samples_per_experience",
    "train_mb_size",
    "train_epochs",
}


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


def chosen_settings(config: Mapping[str, Any]) -> dict[str, Any]:
    """The part of a flat configuration that says what was run, apart from ``seed`` and the machine."""
    return {
        key: value
        for key, value in config.items()
        if key.partition(".")[0] not in _NOT_CHOSEN and key.rpartition(".")[2] not in _OF_THE_MACHINE
    }


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

    A setting that only some of a strategy's methods have tells the age of their configurations more often
    than a choice: it is named where nothing else tells them apart.

    Args:
        methods: for each its strategy and settings.

    Example:
        >>> gem = {0: ("gem", {"s.gamma": 0.5, "s.b": 1}), 1: ("gem", {"s.gamma": 1, "s.b": 1})}
        >>> label_methods(gem | {2: ("naive", {})})
        {0: 'gem gamma=0.5', 1: 'gem gamma=1', 2: 'naive'}
    """
    labels: dict[Hashable, str] = {}
    for strategy in dict.fromkeys(strategy for strategy, _ in methods.values()):
        own = {name: settings for name, (other, settings) in methods.items() if other == strategy}
        keys = _telling(list(own.values()))
        short = _short_keys(keys)
        values = {key: _short_values(key, [x[key] for x in own.values() if key in x]) for key in keys}
        for name, settings in own.items():
            words = [f"{short[key]}={values[key][text(settings[key])]}" for key in keys if key in settings]
            labels[name] = " ".join([strategy, *words])
    return {name: labels[name] for name in methods}


def _telling(all_settings: Sequence[Mapping[str, Any]]) -> list[str]:
    """The differing keys that all have, and as few of the others as tell all apart."""
    different = differing(all_settings)
    keys = [key for key in different if all(key in settings for settings in all_settings)]
    others = [key for key in different if key not in keys]

    def classes(keys: Sequence[str]) -> int:
        return len({tuple(text(s.get(key, ABSENT)) for key in keys) for s in all_settings})

    while others and classes(keys) < len(all_settings):
        best = max(others, key=lambda key: classes([*keys, key]))
        keys.append(best)
        others.remove(best)
    return keys


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
