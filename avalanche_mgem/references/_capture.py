"""What a model's layers see in one pass over many groups at once, as the layer-wise references need it."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from itertools import accumulate
from math import prod
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized

from avalanche_mgem.memory import owners
from avalanche_mgem.references._batch_norm import batch_norm_by_group, is_by_batch, of_groups
from avalanche_mgem.references._heads import forward_trunk_once, is_trunk_with_heads
from avalanche_mgem.references._rules import Rule, rule_of

# Measured with two cores: an LSTM that is watched takes 1.0 to 3.1 times as long as in the loop.
_LEFT_TO_THE_LOOP = (nn.RNNBase, nn.RNNCellBase)


class LayerwiseError(ValueError):
    """A layer's input does not contain every sample of the pass, so its gradient cannot be split by group."""


@dataclass
class Path:
    """The way that passes took through a model, as far as it can be told: which layers, and which operations.

    Attributes:
        layers: those with a rule that saw the samples of all groups, by their ids.
        steps: an operation of autograd's and one before it, by their names.
    """

    layers: set[int] = field(default_factory=set)
    steps: set[tuple[str, str]] = field(default_factory=set)


class Use(NamedTuple):
    """One use of a parameter in a pass. It determines the gradient on each group that the pass contains.

    Attributes:
        layer: the layer that owns the parameter.
        name: the parameter's name in the layer.
        rule: computes gradients from ``a`` and ``d``.
        a: the layer's input.
        d: the gradient with respect to its output.
        first: the first of the groups that the layer saw, among all groups of the step.
        sizes: number of samples of each of these; in a pass over a single group that of the rows of ``a``,
            because the layer may see a part of its samples only, or their positions as samples.
    """

    layer: nn.Module
    name: str
    rule: Rule
    a: Tensor
    d: Tensor
    first: int
    sizes: tuple[int, ...]

    @property
    def positions(self) -> int:
        """How often each sample is in the input, once a token for example; features come last."""
        return prod(self.a.shape[1:-1])

    def gradients(self, outputs: slice, out: Tensor) -> None:
        """Writes those of some entries of the parameter's first dimension, ``[groups, entries, ...]``."""
        # Under autocast the layer cast a copy of its input, and a is the input before that.
        a = self.a.to(self.d.dtype) if self.a.is_floating_point() else self.a
        self.rule(self.layer, self.name, a, self.d, self.sizes, outputs, out)


class Capture:
    """Watches a model in one forward and backward pass over ``K`` groups; the model is as before on exit.

    - A layer with a rule runs on all samples together. Its input and its output's gradient are handed on.
    - BatchNorm normalises each group by itself.
    - Any other layer that owns parameters runs group by group, on a copy of its parameters for each group;
      autograd gives the gradients of the copies. It must take and return tensors with the samples first;
      attention may have them in its second dimension.
    - A parameter of leading dimension 1 in a module with children (a class token, a position embedding) is
      repeated for each sample.
    - A module with heads, see :mod:`~avalanche_mgem.references._heads`, shows each head the samples of its
      task.

    Args:
        model: the model.
        parameters: the trainable ones; frozen during the pass, so that autograd goes through the activations
            only.
        sizes: number of samples of each group.
        tasks: task label of each group; equal ones are neighbours.
        first: number of the first group among all groups of the step.
        on_use: called with the parameter's index and its use in the backward pass, as soon as it is known.
        path: the way of the pass is added to it.

    Raises:
        LayerwiseError: on entry and in the passes, for a model that cannot be watched.
    """

    def __init__(
        self,
        model: nn.Module,
        parameters: Sequence[nn.Parameter],
        sizes: Sequence[int],
        tasks: Sequence[int | None],
        first: int,
        on_use: Callable[[int, Use], None],
        path: Path,
    ):
        self._model = model
        self._parameters = parameters
        self._sizes = tuple(sizes)
        self._ends = list(accumulate(sizes, initial=0))
        self._tasks = list(tasks)
        self._has_several_tasks = len(set(tasks)) > 1
        self._first = first
        self._seen = range(len(sizes))  # the groups whose samples the model is working on
        self._index = {id(p): i for i, p in enumerate(parameters)}
        self._on_use = on_use
        self._path = path
        self._anchor = torch.zeros((), device=parameters[0].device, requires_grad=True)
        self._copies: list[tuple[int, list[Tensor]]] = []  # index, and a leaf for each group or one for all
        self._of_unit: dict[int, list[dict[str, Tensor]]] = {}
        self._of_batch_norm: dict[int, list[Tensor | None]] = {}
        self._last_seen: dict[int, int] = {}  # the last group that a module with state has seen
        self._is_in_unit = False  # whether a module runs group by group, with the layers in it
        self._exit = ExitStack()

    def __enter__(self) -> "Capture":
        try:
            self._prepare(self._model, set())
            self._exit.callback(self._require_gradients, True)
            self._require_gradients(False)
        except BaseException:
            self._exit.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._exit.close()

    def _require_gradients(self, do: bool) -> None:
        for p in self._parameters:
            p.requires_grad_(do)

    def backward(self, loss: Tensor) -> dict[int, Tensor]:
        """Runs backward; returns the gradients ``[K, ...]`` of the parameters that autograd gives."""
        if not loss.requires_grad:
            return {}
        self._path.steps |= _steps(loss)
        leaves = [leaf for _, copies in self._copies for leaf in copies]
        gradients = iter(torch.autograd.grad(loss, [self._anchor, *leaves], allow_unused=True)[1:])
        found: dict[int, Tensor] = {}
        for index, copies in self._copies:
            parts = [(next(gradients), leaf) for leaf in copies]
            if all(part is None for part, _ in parts):
                continue
            rows = [torch.zeros_like(leaf) if part is None else part.to_dense() for part, leaf in parts]
            stacked = torch.stack(rows) if len(rows) > 1 or len(self._sizes) == 1 else rows[0]
            stacked = stacked.reshape(len(self._sizes), -1)
            found[index] = found[index] + stacked if index in found else stacked
        return found

    def _prepare(self, module: nn.Module, seen: set[int]) -> None:
        """Watches a module, and its children where it does not run as one unit."""
        if id(module) in seen:
            return
        seen.add(id(module))
        if self._has_several_tasks and hasattr(module, "forward_single_task"):
            if is_trunk_with_heads(module):
                self._replace(module, "forward", self._forward_trunk_once)
            self._replace(module, "forward_single_task", self._forward_head)
        names = [name for name, p in module._parameters.items() if p is not None and id(p) in self._index]
        if is_by_batch(module):
            self._replace(module, "forward", self._forward_batch_norm)
        elif is_parametrized(module) or (names and not self._watch_parameters(module, names)):
            self._run_by_group(module)
        else:
            for child in module._modules.values():
                if child is not None:
                    self._prepare(child, seen)

    def _watch_parameters(self, module: nn.Module, names: Sequence[str]) -> bool:
        """Watches the parameters that a module owns itself; False if the module has to run group by group."""
        rule = rule_of(module)
        if rule is not None:
            after = partial(self._after_layer, rule)
            self._exit.callback(module.register_forward_hook(after, with_kwargs=True, prepend=True).remove)
            return True
        parameters = [module.get_parameter(name) for name in names]
        is_of_samples = all(p.dim() > 1 and p.shape[0] == 1 for p in parameters)
        if not (is_of_samples and any(True for _ in module.children())):
            return False
        for name, p in zip(names, parameters, strict=True):
            self._repeat_for_samples(module, name, p)
        return True

    def _run_by_group(self, module: nn.Module) -> None:
        for layer in module.modules():
            if isinstance(layer, _LEFT_TO_THE_LOOP):
                raise LayerwiseError(f"a {type(layer).__name__} is faster group by group")
        self._replace(module, "forward", self._forward_by_group)

    def _after_layer(
        self, rule: Rule, layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Tensor
    ) -> Tensor:
        if self._is_in_unit or not torch.is_grad_enabled():
            return output
        a: Tensor = args[0] if args else kwargs["input"]
        self._check_samples(layer, a)
        if len(self._seen) == len(self._sizes):  # of heads, each step may have others
            self._path.layers.add(id(layer))
        is_single = len(self._sizes) == 1 and a.is_floating_point()
        if is_single and a.dim() < max(2, *(p.dim() for p in layer.parameters())):
            raise LayerwiseError(f"the input of a {type(layer).__name__} has no samples, {list(a.shape)}")
        if not output.requires_grad:  # a first layer: from here on there is a way back
            output = output + self._anchor
        _call_with_gradient(output, partial(self._after_backward, rule, layer, a.detach(), self._seen))
        return output

    def _after_backward(self, rule: Rule, layer: nn.Module, a: Tensor, seen: range, d: Tensor) -> None:
        sizes = self._sizes[seen.start : seen.stop] if len(self._sizes) > 1 else (len(a),)
        with torch.no_grad():
            for name, p in layer._parameters.items():
                index = self._index.get(id(p))
                if index is not None:
                    self._on_use(index, Use(layer, name, rule, a, d, self._first + seen.start, sizes))

    def _repeat_for_samples(self, module: nn.Module, name: str, p: nn.Parameter) -> None:
        of_samples = self._for_groups(p).flatten(0, 1).index_select(0, owners(self._sizes, p.device))
        self._exit.enter_context(_replaced(module, {name: of_samples}))

    def _replace(self, module: nn.Module, method: str, by: Callable[..., Any]) -> None:
        if method in vars(module):
            raise LayerwiseError(f"the {method} of {type(module).__name__} has been replaced already")
        # Past setattr, which some of Avalanche's modules hand on to the module inside.
        vars(module)[method] = partial(by, module, getattr(module, method))
        self._exit.callback(vars(module).pop, method)

    def _forward_head(
        self, module: nn.Module, original: Callable[..., Any], x: Tensor, task_label: int, **kwargs: Any
    ) -> Any:
        """A module with heads runs this for each task, with its samples."""
        before = self._seen
        groups = [k for k in before if self._tasks[k] == task_label]
        if not groups:
            raise LayerwiseError(f"a {type(module).__name__} works on a task that no group has")
        self._seen = range(groups[0], groups[-1] + 1)
        try:
            return original(x, task_label, **kwargs)
        finally:
            self._seen = before

    def _forward_trunk_once(
        self, module: nn.Module, original: Callable[..., Any], x: Tensor, task_labels: Any
    ) -> Any:
        """Runs the trunk once for all tasks: the groups never meet in it."""
        if isinstance(task_labels, int):
            return original(x, task_labels)
        return forward_trunk_once(module, x, task_labels)

    def _forward_batch_norm(self, layer: nn.BatchNorm2d, original: Callable[..., Any], x: Tensor) -> Tensor:
        if self._is_in_unit or not torch.is_grad_enabled():
            return original(x)  # type: ignore[no-any-return]
        self._check_samples(layer, x)
        sizes = self._sizes[self._seen.start : self._seen.stop]
        if layer.training and layer.track_running_stats:
            self._check_order(layer)
        if id(layer) not in self._of_batch_norm:
            self._of_batch_norm[id(layer)] = [
                None if p is None else self._for_groups(p) for p in (layer.weight, layer.bias)
            ]
        seen = slice(self._seen.start, self._seen.stop)
        weight, bias = (of_groups(rows, seen) for rows in self._of_batch_norm[id(layer)])
        return batch_norm_by_group(layer, x, weight, bias, sizes)

    def _for_groups(self, p: nn.Parameter) -> Tensor:
        """A parameter once for each group, ``[K, ...]``, whose gradients autograd gives."""
        rows = p.detach().expand(len(self._sizes), *p.shape).clone()
        if id(p) in self._index:
            self._copies.append((self._index[id(p)], [rows.requires_grad_()]))
        return rows

    def _forward_by_group(
        self, module: nn.Module, original: Callable[..., Any], *args: Any, **kwargs: Any
    ) -> Any:
        if self._is_in_unit or not torch.is_grad_enabled():
            return original(*args, **kwargs)
        tensors = [x for x in (*args, *kwargs.values()) if isinstance(x, Tensor)]
        if not tensors:
            raise LayerwiseError(f"a {type(module).__name__} takes no tensor with the samples")
        dim = 0 if getattr(module, "batch_first", True) else 1
        self._check_samples(module, tensors[0], dim)
        for layer in module.modules():
            if layer._buffers:
                self._check_order(layer)
        all_copies = self._group_copies(module)
        copies = [all_copies[k] for k in self._seen]
        positional = [self._split(x, dim) for x in args]
        named = {key: self._split(x, dim) for key, x in kwargs.items()}
        outputs = []
        self._is_in_unit = True  # layers in it may be watched too, where the model uses them elsewhere
        try:
            for k, parameters in enumerate(copies):
                with _replaced(module, parameters):
                    output = original(*(x[k] for x in positional), **{key: x[k] for key, x in named.items()})
                outputs.append(output)
        finally:
            self._is_in_unit = False
        return outputs[0] if len(outputs) == 1 else _joined(outputs, module, dim)

    def _group_copies(self, module: nn.Module) -> list[dict[str, Tensor]]:
        """Parameters for each group, which share memory and differ for autograd; the same in every call."""
        if id(module) not in self._of_unit:
            named = module.named_parameters(remove_duplicate=False)
            names = {name: p for name, p in named if id(p) in self._index}
            unique = {id(p): p for p in names.values()}
            leaves = [{i: p.detach().requires_grad_() for i, p in unique.items()} for _ in self._sizes]
            self._of_unit[id(module)] = [
                {name: group[id(p)] for name, p in names.items()} for group in leaves
            ]
            self._copies += [(self._index[i], [group[i] for group in leaves]) for i in unique]
        return self._of_unit[id(module)]

    def _split(self, x: Any, dim: int) -> Sequence[Any]:
        """Each group's share of an argument; what has no samples is for all."""
        sizes = [self._sizes[k] for k in self._seen]
        if len(sizes) > 1 and isinstance(x, Tensor):
            for d in (dim, 0):  # an attention mask has the samples first in any case
                if x.dim() > d and x.shape[d] == sum(sizes):
                    return torch.split(x, sizes, d)  # at once: its backward is one concatenation
        return [x] * len(sizes)

    def _check_order(self, module: nn.Module) -> None:
        """Refuses a module with state that would see the groups in another order than in the loop."""
        if len(self._sizes) > 1 and self._last_seen.get(id(module), -1) >= self._seen.start:
            raise LayerwiseError(f"a {type(module).__name__} would see the groups in another order")
        self._last_seen[id(module)] = self._seen.stop - 1

    def _check_samples(self, layer: nn.Module, x: Tensor, dim: int = 0) -> None:
        n = self._ends[self._seen.stop] - self._ends[self._seen.start]
        if len(self._sizes) > 1 and (x.dim() <= dim or x.shape[dim] != n):
            where = f"in a pass over {n} samples"
            raise LayerwiseError(f"the input of a {type(layer).__name__} is {list(x.shape)} {where}")


def _call_with_gradient(output: Tensor, function: Callable[[Tensor], None]) -> None:
    """Calls a function with the gradient of a tensor, after all hooks that the model sets on the tensor."""
    if torch.compiler.is_compiling():  # which knows this hook only
        output.register_hook(function)  # type: ignore[no-untyped-call]
        return
    node, number = output.grad_fn, output.output_nr
    assert node is not None

    def before_node(gradients: tuple[Tensor | None, ...]) -> None:
        gradient = gradients[number]
        if gradient is not None:
            function(gradient)

    node.register_prehook(before_node)


def _steps(loss: Tensor) -> set[tuple[str, str]]:
    """Pairs of operations that follow one another on the way to the loss."""
    found, seen = set(), set()
    left = [] if loss.grad_fn is None else [loss.grad_fn]
    while left:
        after = left.pop()
        for before, _ in after.next_functions:
            if before is None:
                continue
            found.add((after.name(), before.name()))
            if before not in seen:
                seen.add(before)
                left.append(before)
    return found


def _joined(outputs: list[Any], module: nn.Module, dim: int) -> Any:
    """The groups' outputs as one. Attention also returns its weights, samples first, or None."""
    if all(isinstance(output, Tensor) for output in outputs):
        return torch.cat(outputs, dim)
    if isinstance(module, nn.MultiheadAttention):
        values, weights = zip(*outputs, strict=True)
        return torch.cat(values, dim), None if weights[0] is None else torch.cat(weights)
    raise LayerwiseError(f"a {type(module).__name__} returns a {type(outputs[0]).__name__}")


@contextmanager
def _replaced(module: nn.Module, tensors: dict[str, Tensor]) -> Iterator[None]:
    """Puts tensors in the place of parameters of a module or its children."""
    places = [(module.get_submodule(name.rpartition(".")[0]), name.rpartition(".")[2]) for name in tensors]
    before = [owner._parameters[name] for owner, name in places]
    _put(places, list(tensors.values()))
    try:
        yield
    finally:
        _put(places, before)


def _put(places: Sequence[tuple[nn.Module, str]], tensors: Sequence[Any]) -> None:
    for (owner, name), tensor in zip(places, tensors, strict=True):
        owner._parameters[name] = tensor
