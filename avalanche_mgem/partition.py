"""Which parameters form a module: the partition of p-mGEM (design of Liu et al., 2024, arXiv 2410.00868).

The paper constrains modules of the parameters on their own; how it draws their borders is not in our source,
so the forms here are this package's choice.
"""

from collections.abc import Callable, Sequence
from fnmatch import fnmatchcase
from itertools import pairwise
from numbers import Integral
from zlib import crc32

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parameter import UninitializedParameter

from avalanche_mgem.functional import Blocks
from avalanche_mgem.parameters import trainable_parameters

ModuleSpec = int | str | Sequence[str | Sequence[str]] | Callable[[nn.Module], Sequence[Sequence[str]]]

_ALLOWED = (
    "allowed are an integer of at least 1, 'layer', 'tensor', 'random:M', a list of parameter-name globs "
    "(one entry, or list of entries, a module) or a function model -> lists of parameter names"
)


class Partition:
    """Divides the trainable parameters of a model into modules, and follows the model as it grows.

    Args:
        num_modules: how to divide.

            - an integer ``m``: ``m`` contiguous runs of whole layers, with parameter counts as even as whole
              layers allow (least sum of squares); frozen layers count, so that freezing moves no border;
            - ``"layer"``: a module for each leaf layer, weight and bias together;
            - ``"tensor"``: a module for each parameter tensor;
            - ``"random:M"``: every coordinate to one of ``M`` modules at random, and in a growing model the
              old ones to the same as before. The ablation: a partition without structure;
            - a list with an entry a module: a glob of parameter names, or a list of globs;
            - a function ``model -> list[list[name]]``.
        seed: of the random partition; None takes the seed of torch's global generator when it is drawn.

    Raises:
        ValueError: if ``num_modules`` has none of these forms.

    Example:
        >>> model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3), nn.Linear(3, 2))
        >>> Partition(2).blocks(model).sizes
        (30, 29)
        >>> Partition(["0.*", ["2.*", "3.*"]]).blocks(model).sizes
        (30, 29)
        >>> Partition("tensor").blocks(model).sizes
        (24, 6, 18, 3, 6, 2)
    """

    def __init__(self, num_modules: ModuleSpec = 1, *, seed: int | None = None):
        self.spec: ModuleSpec = _checked_spec(num_modules)
        self.seed = seed
        self._signature: object = None
        self._blocks = Blocks(sizes=(0,))

    def blocks(self, model: nn.Module, parameters: list[tuple[str, nn.Parameter]] | None = None) -> Blocks:
        """The modules' coordinates in the concatenation of the trainable parameters of ``model``.

        Computed anew only when the names or shapes of the trainable parameters have changed. The order is
        that of ``trainable_parameters``.

        Args:
            model: the model.
            parameters: its trainable parameters, where they are known already.

        Raises:
            ValueError: if a trainable parameter is in no module or in several, naming it, or if there are
                more modules than layers.
        """
        parameters = trainable_parameters(model) if parameters is None else parameters
        signature = [(name, p.shape, p.device) for name, p in parameters]
        if signature != self._signature:
            modules = self._module_ids(model, parameters)
            self._blocks = Blocks.from_modules(modules, sum(p.numel() for _, p in parameters))
            self._signature = signature
        return self._blocks

    def check(self, model: nn.Module) -> None:
        """Finds what can never divide a model whose layers stay: call it before the first step.

        Which parameters are trainable may change, so whether each is in one module is seen in :meth:`blocks`.
        A model with parameters that get their shapes in the first forward pass is not checked.

        Raises:
            ValueError: if there are more modules than layers, or a glob matches no parameter.
        """
        is_lazy = any(isinstance(p, UninitializedParameter) for p in model.parameters())
        if not (is_lazy or isinstance(self.spec, str) or callable(self.spec)):
            _named_modules(self.spec, model, [])

    def _module_ids(self, model: nn.Module, parameters: list[tuple[str, nn.Parameter]]) -> Tensor | None:
        if self.spec == 1:
            return None
        device = parameters[0][1].device
        sizes = torch.tensor([p.numel() for _, p in parameters])
        if isinstance(self.spec, str) and self.spec.startswith("random:"):
            return self._random_ids(parameters, int(self.spec.removeprefix("random:"))).to(device)
        names = [name for name, _ in parameters]
        module_of = _assign(names, _named_modules(self.spec, model, names))
        return torch.repeat_interleave(torch.tensor(module_of), sizes).to(device)

    def _random_ids(self, parameters: list[tuple[str, nn.Parameter]], m: int) -> Tensor:
        num_parameters = sum(p.numel() for _, p in parameters)
        if m > num_parameters:
            raise ValueError(f"num_modules={self.spec!r} but the model has {num_parameters} parameters.")
        if self.seed is None:
            self.seed = torch.initial_seed()
        # A generator for each name: a head that appears or grows leaves the draws of the others alone.
        draws = [
            np.random.default_rng([self.seed % 2**64, crc32(name.encode())]).integers(m, size=p.numel())
            for name, p in parameters
        ]
        return torch.from_numpy(np.concatenate(draws))


def _checked_spec(spec: ModuleSpec) -> ModuleSpec:
    if isinstance(spec, str):
        m = spec.removeprefix("random:")
        if spec in ("layer", "tensor") or (m != spec and m.isdigit() and int(m) >= 1):
            return spec
    elif isinstance(spec, bool) or spec is None:
        pass
    elif isinstance(spec, int | Integral):
        if spec >= 1:
            return int(spec)
    elif callable(spec):
        return spec
    elif isinstance(spec, Sequence) and len(spec) > 0:
        entries = [[entry] if isinstance(entry, str) else entry for entry in spec]
        if all(isinstance(e, Sequence) and all(isinstance(glob, str) for glob in e) for e in entries):
            return spec
    raise ValueError(f"num_modules={spec!r} is not a partition; {_ALLOWED}.")


def _named_modules(spec: ModuleSpec, model: nn.Module, names: list[str]) -> Sequence[Sequence[str]]:
    """The modules as lists of parameter names, frozen ones too; they need not be a partition yet."""
    if spec == "tensor":
        return [[name] for name in names]
    if spec == "layer":
        return _layers(names)
    if isinstance(spec, int):
        sizes = {name: p.numel() for name, p in model.named_parameters()}
        return _even_runs(_layers(list(sizes)), sizes, spec)
    if callable(spec):
        return spec(model)
    globs = [[entry] if isinstance(entry, str) else list(entry) for entry in spec]
    everything = [name for name, _ in model.named_parameters(remove_duplicate=False)]
    for pattern in (p for patterns in globs for p in patterns):
        if not any(fnmatchcase(name, pattern) for name in everything):
            raise ValueError(f"num_modules: the glob {pattern!r} matches no parameter of the model.")
    return [[n for n in names if any(fnmatchcase(n, p) for p in patterns)] for patterns in globs]


def _layers(names: list[str]) -> list[list[str]]:
    """Groups the parameters by the leaf layer that owns them, in the model's order."""
    layers: dict[str, list[str]] = {}
    for name in names:
        layers.setdefault(name.rpartition(".")[0], []).append(name)
    return list(layers.values())


def _even_runs(layers: list[list[str]], sizes: dict[str, int], m: int) -> list[list[str]]:
    """Cuts the layers into ``m`` runs with the least sum of squared sizes, by dynamic programming."""
    n = len(layers)
    if m > n:
        raise ValueError(f"num_modules={m} but the model has {n} layers with parameters.")
    ends = np.cumsum([0] + [sum(sizes[name] for name in layer) for layer in layers], dtype=np.float64)
    cost = (ends[None, :] - ends[:, None]) ** 2  # cost[i, j] of the run of layers i..j-1
    cost[np.tril_indices(n + 1)] = np.inf  # no empty run
    best = cost[0].copy()  # best[j]: layers 0..j-1 in the runs so far
    choices = []
    for _ in range(m - 1):
        total = best[:, None] + cost
        choices.append(total.argmin(axis=0))
        best = total.min(axis=0)
    cuts = [n]
    for choice in reversed(choices):
        cuts.append(int(choice[cuts[-1]]))
    cuts.append(0)
    return [[name for layer in layers[i:j] for name in layer] for i, j in pairwise(reversed(cuts))]


def _assign(names: list[str], groups: Sequence[Sequence[str]]) -> list[int]:
    """Module id of each name; modules without a trainable parameter are left out of the numbering."""
    owners: dict[str, list[int]] = {name: [] for name in names}
    for j, group in enumerate(groups):
        for name in group:
            owners.get(name, []).append(j)
    for name, modules in owners.items():
        if len(modules) != 1:
            where = "no module" if not modules else f"modules {modules}"
            raise ValueError(
                f"num_modules: the trainable parameter {name!r} is in {where}; it must be in exactly one."
            )
    numbering = {j: i for i, j in enumerate(sorted({modules[0] for modules in owners.values()}))}
    return [numbering[owners[name][0]] for name in names]
