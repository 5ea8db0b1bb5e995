"""The options of the method, typed and explained once for the projector, the plugins and the strategies."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from functools import wraps
from typing import Any, Final, TypedDict, TypeVar, get_type_hints

import torch

from avalanche_mgem.functional import Ridge
from avalanche_mgem.memory import Grouping, MemoryTransform
from avalanche_mgem.partition import ModuleSpec
from avalanche_mgem.references import Backend, BatchNormPolicy
from avalanche_mgem.solvers import Solver

_Class = TypeVar("_Class", bound=type)
_Init = TypeVar("_Init", bound=Callable[..., None])


class Options(TypedDict, total=False):
    """What the projector, the plugins and the strategies take besides memory size and strength."""

    num_modules: ModuleSpec
    num_groups: int
    grouping: Grouping
    solver: str | Solver
    ridge: Ridge
    normalize_memory_strength: bool
    memory_transform: MemoryTransform
    reference_batchnorm: BatchNormPolicy
    reference_dropout: bool
    references: Backend
    reference_autocast: bool
    patterns_per_step: int | None
    experiences_per_step: int | None
    mem_size: int | None
    memory_device: str | torch.device | None
    seed: int | None


DEFAULTS: Final[Mapping[str, Any]] = {
    "num_modules": 1,
    "num_groups": 1,
    "grouping": "random",
    "solver": "exact",
    "ridge": "relative",
    "normalize_memory_strength": False,
    "memory_transform": "eval",
    "reference_batchnorm": "update",
    "reference_dropout": False,
    "references": "auto",
    "reference_autocast": False,
    "patterns_per_step": None,
    "experiences_per_step": None,
    "mem_size": None,
    "memory_device": None,
    "seed": None,
}
"""With one module and one group the method is GEM."""

EXPLANATIONS: Final = """\
num_modules: modules of the parameters, each constrained on its own (p-mGEM): an integer, ``"layer"``,
    ``"tensor"``, ``"random:M"``, globs or a function; see :class:`~avalanche_mgem.partition.Partition`.
num_groups: groups of each experience's memory, each a constraint (d-mGEM).
grouping: ``"random"`` (default), ``"stratified"``, ``"label"`` or a function; see
    :class:`~avalanche_mgem.memory.EpisodicMemory`.
solver: of the dual: ``"exact"`` (default), ``"quadprog"``, ``"diagonal"`` (the paper's approximation) or a
    function; see :mod:`avalanche_mgem.solvers`.
ridge: ``"relative"`` (default: exact at any scale of the gradients) or ``"absolute"`` (as GEM).
normalize_memory_strength: divide gamma by ``num_groups``, so that the pull of an experience does not depend
    on it. Off by default, the paper's formula.
memory_transform: ``"eval"`` (default): samples are kept without augmentation. ``"train"``: they are
    augmented anew at every use. ``"frozen"``: they are kept under one draw of the augmentation, as GEM does.
reference_batchnorm: what BatchNorm does in reference passes: ``"update"`` (default, as Avalanche's GEM),
    ``"batch"`` or ``"running"``; see :func:`~avalanche_mgem.references.reference_mode`.
reference_dropout: draw dropout in reference passes. Off by default: two passes at the same weights would
    give two different constraints.
references: how reference gradients are made: ``"auto"`` (default), ``"loop"`` or ``"layerwise"``. All give
    the same up to rounding; see :class:`~avalanche_mgem.references.ReferenceComputer`.
reference_autocast: run reference passes under ``torch.autocast`` in bfloat16. Off by default: the
    constraints are then good to two or three digits.
patterns_per_step: samples drawn from the memory for each step, shared evenly among its groups. This changes
    the method: constraints are noisier, and a step costs the same however many experiences there were. None
    (default) takes the whole memory, as GEM does.
experiences_per_step: past experiences drawn for each step, the only ones that constrain it. This changes the
    method too: a step may raise the loss of the others, and the pull of gamma is that of so many
    experiences. None (default) takes all.
mem_size: samples kept of all experiences together, in place of the number of each, which is None then. The
    memory is full from the first experience on, as that of replay: experiences have equal shares, and give
    samples up as more come. None (default) keeps as many of each, as GEM does.
memory_device: where the memory rests between the steps. None (default) is the training device. ``"cpu"``
    keeps a large memory in the host's pinned memory and copies it in every step.
seed: of memory, groups and random modules. None (default) takes the seed of torch's global generator without
    advancing it."""


def explains(text: str = EXPLANATIONS) -> Callable[[_Class], _Class]:
    """Puts a text in the place of ``{arguments}`` in a class's docstring, at its indentation."""

    def decorate(cls: _Class) -> _Class:
        if cls.__doc__:  # python -OO has none
            indent = cls.__doc__.partition("{arguments}")[0].rpartition("\n")[2]
            cls.__doc__ = cls.__doc__.replace("{arguments}", text.replace("\n", f"\n{indent}"))
        return cls

    return decorate


def with_signature(
    arguments: type, defaults: Mapping[str, Any], first: Sequence[str] = ()
) -> Callable[[_Init], _Init]:
    """Spells out the ``**arguments`` of a constructor in its signature, and fills in their defaults.

    So ``help()``, editors and Avalanche's check of keywords see every argument, and a wrong call names the
    class that was called.

    Args:
        arguments: a TypedDict of the keyword arguments, with their types.
        defaults: of those that have one.
        first: names that come first; the others follow in their order.
    """
    hints = get_type_hints(arguments)
    hints = {name: hints[name] for name in (*first, *hints)}

    def decorate(init: _Init) -> _Init:
        explicit = [p for p in inspect.signature(init).parameters.values() if p.kind is not p.VAR_KEYWORD]
        names = {p.name for p in explicit}
        keywords = [
            inspect.Parameter(
                name,
                inspect.Parameter.KEYWORD_ONLY,
                default=defaults.get(name, inspect.Parameter.empty),
                annotation=hint,
            )
            for name, hint in hints.items()
            if name not in names
        ]
        signature = inspect.Signature([*explicit, *keywords])
        filled = {p.name: p.default for p in keywords if p.default is not p.empty}

        @wraps(init)
        def checked(self: Any, *args: Any, **kwargs: Any) -> None:
            try:
                signature.bind(self, *args, **kwargs)
            except TypeError as error:
                raise TypeError(f"{type(self).__name__}() {error}") from None
            init(self, *args, **{**filled, **kwargs})

        del checked.__wrapped__  # the arguments are those that are shown
        checked.__signature__ = signature  # type: ignore[attr-defined]
        checked.__annotations__ = {
            p.name: p.annotation for p in signature.parameters.values() if p.annotation is not p.empty
        }
        return checked  # type: ignore[return-value]

    return decorate


def call_text(name: str, arguments: Mapping[str, Any], defaults: Mapping[str, Any] = DEFAULTS) -> str:
    """A call with these arguments, without those that have their default; for ``repr``.

    Example:
        >>> call_text("PMGEMPlugin", {"num_modules": 2, "num_groups": 1})
        'PMGEMPlugin(num_modules=2)'
    """
    shown = [
        f"{key}={_text(value)}"
        for key, value in arguments.items()
        if key not in defaults or not (value is defaults[key] or _equal(value, defaults[key]))
    ]
    return f"{name}({', '.join(shown)})"


def _equal(value: Any, default: Any) -> bool:
    return isinstance(value, int | float | str) and type(value) is type(default) and value == default


def _text(value: Any) -> str:
    """A model or optimizer by its class: their own text may fill pages."""
    if isinstance(value, torch.nn.Module | torch.optim.Optimizer):
        return type(value).__name__
    return str(getattr(value, "__name__", repr(value)))
