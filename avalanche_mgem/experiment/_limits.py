"""The numbers that classes of other packages are given, and what they may be.

These classes do not check them: a memory of -1 samples is an error deep in the training, or none at all. The
classes of this package check theirs.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from avalanche_mgem.runs import UserError


class _Limit(NamedTuple):
    text: str
    holds: Callable[[float], bool]


_AT_LEAST_1 = _Limit("at least 1", lambda value: value >= 1)
_AT_LEAST_0 = _Limit("at least 0", lambda value: value >= 0)
_ABOVE_0 = _Limit("above 0", lambda value: value > 0)
_SHARE = _Limit("from 0 to 1", lambda value: 0 <= value <= 1)

_OPTIMIZER = {"lr": _AT_LEAST_0, "momentum": _AT_LEAST_0, "weight_decay": _AT_LEAST_0}
_REPLAY = {"mem_size": _AT_LEAST_1, "batch_size_mem": _AT_LEAST_1}
_N_EXPERIENCES = {"n_experiences": _AT_LEAST_1}

LIMITS: Mapping[str, Mapping[str, _Limit]] = {
    "avalanche.benchmarks.SplitCIFAR100": _N_EXPERIENCES,
    "avalanche.benchmarks.SplitMNIST": _N_EXPERIENCES,
    "avalanche.benchmarks.SplitTinyImageNet": _N_EXPERIENCES,
    "avalanche.training.AGEM": {"patterns_per_exp": _AT_LEAST_1, "sample_size": _AT_LEAST_1},
    "avalanche.training.ER_ACE": _REPLAY,
    "avalanche.training.DER": {**_REPLAY, "alpha": _AT_LEAST_0, "beta": _AT_LEAST_0},
    "avalanche.training.EWC": {"ewc_lambda": _AT_LEAST_0, "decay_factor": _SHARE},
    "avalanche.training.GEM": {"patterns_per_exp": _AT_LEAST_1, "memory_strength": _AT_LEAST_0},
    "avalanche.training.GDumb": {"mem_size": _AT_LEAST_1},
    "avalanche.training.LwF": {"alpha": _AT_LEAST_0, "temperature": _ABOVE_0},
    "avalanche.training.MIR": {**_REPLAY, "subsample": _AT_LEAST_1},
    "avalanche.training.Replay": _REPLAY,
    "avalanche.training.plugins.ReplayPlugin": _REPLAY,
    "avalanche.training.SynapticIntelligence": {"si_lambda": _AT_LEAST_0, "eps": _ABOVE_0},
    "avalanche.models.SimpleMLP": {
        "num_classes": _AT_LEAST_1,
        "input_size": _AT_LEAST_1,
        "hidden_size": _AT_LEAST_1,
        "hidden_layers": _AT_LEAST_1,
        "drop_rate": _SHARE,
    },
    "avalanche.models.SlimResNet18": {"nclasses": _AT_LEAST_1, "nf": _AT_LEAST_1},
    "torchvision.models.VisionTransformer": {
        "image_size": _AT_LEAST_1,
        "patch_size": _AT_LEAST_1,
        "num_layers": _AT_LEAST_1,
        "num_heads": _AT_LEAST_1,
        "hidden_dim": _AT_LEAST_1,
        "mlp_dim": _AT_LEAST_1,
        "num_classes": _AT_LEAST_1,
    },
    "torch.optim.SGD": _OPTIMIZER,
    "torch.optim.Adam": _OPTIMIZER,
    "avalanche_mgem.loggers.WandBLogger": {"timeout": _ABOVE_0},
}


def check_limits(group: str, target: str, values: Mapping[str, Any]) -> None:
    """Checks the numbers for a class that does not check them itself.

    Args:
        group: the part of the configuration, for the error.
        target: the class or function.
        values: its keyword arguments.

    Raises:
        UserError: naming the key, its value and what is allowed.
    """
    for key, limit in LIMITS.get(target, {}).items():
        value = values.get(key)
        if isinstance(value, bool) or not isinstance(value, int | float):
            continue
        if not (math.isfinite(value) and limit.holds(value)):
            raise UserError(f"{group}.{key}={value}: it must be {limit.text}")
