"""What a model's layers see in one pass over many groups at once, as the layer-wise references need it."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from math import prod
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized

from avalanche_mgem.references._batch_norm import batch_norm_by_group, is_by_batch
from avalanche_mgem.references._rules import Rule, rule_of


class LayerwiseError(ValueError):
    """A layer saw other than all samples of the pass, so that the groups' gradients cannot be told apart."""


@dataclass(frozen=True)
class Use:
    """One use of a parameter in a pass: of it follows the gradient on each of the pass's groups.

    Attributes:
        layer: the layer that owns the parameter.
        name: the parameter's name in the layer.
        rule: computes gradients from ``a`` and ``d``.
        a: the layer's input.
        d: the gradient with respect to its output.
        first: the first of the groups that the layer saw, among all constraints.
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
        a = (
            self.a.to(self.d.dtype) if self.a.is_floating_point() else self.a
        )  # autocast has cast its copy only
        self.rule(self.layer, self.name, a, self.d, self.sizes, outputs, out)


class Capture:
    """Watches a model in one forward and backward pass over ``K`` groups; the model is as before on exit.

    Layers with a rule run on all samples together, and tell what went in and what came back. Any other module
    that owns parameters runs group by group, on parameters of each group's own, whose gradients come from
    autograd: attention, and whatever a user wrote. BatchNorm normalises each group by itself. A parameter
    of leading dimension 1 that belongs to a module with children (class tokens, position embeddings) is
    repeated for each sample. A module with heads, recognised by Avalanche's ``forward_single_task``, shows
    each head the samples of its task.

    Args:
        model: the model.
        parameters: the trainable ones; frozen during the pass, so that autograd goes through the activations
            only.
        sizes: number of samples of each group.
        tasks: task label of each group; equal ones are neighbours.
        first: number of the first group among all constraints.
        on_use: called with the parameter's index and its use in the backward pass, as soon as it is known.
    """

    def __init__(
        self,
        model: nn.Module,
        parameters: Sequence[nn.Parameter],
        sizes: Sequence[int],
        tasks: Sequence[int | None],
        first: int,
        on_use: Callable[[int, Use], None],
    ):
        self._model = model
        self._parameters = parameters
        self._sizes = list(sizes)
        self._tasks = list(tasks)
        self._first = first
        self._seen = range(len(sizes))  # the groups whose samples the model is working on
        self._index = {id(p): i for i, p in enumerate(parameters)}
        self._on_use = on_use
        self._anchor = torch.zeros((), device=parameters[0].device, requires_grad=True)
        self._copies: list[tuple[int, list[Tensor]]] = []  # index, and a leaf for each group or one for all
        self._of_unit: dict[int, list[dict[str, Tensor]]] = {}
        self._of_batch_norm: dict[int, list[Tensor | None]] = {}
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
        if id(module) in seen:
            return
        seen.add(id(module))
        own = [(name, p) for name, p in module._parameters.items() if p is not None and id(p) in self._index]
        children = list(module.children())
        if len(set(self._tasks)) > 1 and hasattr(module, "forward_single_task"):
            if _is_trunk_with_heads(module):
                self._replace(module, "forward", self._forward_trunk_once)
            self._replace(module, "forward_single_task", self._forward_head)
        if is_parametrized(module):
            self._replace(module, "forward", self._forward_by_group)
            return
        if is_by_batch(module):
            self._replace(module, "forward", self._forward_batch_norm)
            return
        if own:
            rule = rule_of(module)
            if rule is not None:
                hook = module.register_forward_hook(
                    partial(self._after_layer, rule), with_kwargs=True, prepend=True
                )
                self._exit.callback(hook.remove)
            elif children and all(p.dim() > 1 and p.shape[0] == 1 for _, p in own):
                for name, p in own:
                    self._repeat_for_samples(module, name, p)
            else:
                self._replace(module, "forward", self._forward_by_group)
                return
        for child in children:
            self._prepare(child, seen)

    def _after_layer(
        self, rule: Rule, layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Tensor
    ) -> Tensor:
        if not torch.is_grad_enabled():
            return output
        a: Tensor = args[0] if args else kwargs["input"]
        self._check_samples(layer, a, 0)
        is_single = len(self._sizes) == 1 and a.is_floating_point()
        if is_single and a.dim() < max(2, *(p.dim() for p in layer.parameters())):
            raise LayerwiseError(f"a {type(layer).__name__} got an input without samples, {list(a.shape)}")
        if not output.requires_grad:  # a first layer: from here on there is a way back
            output = output + self._anchor
        output.register_hook(  # type: ignore[no-untyped-call]
            partial(self._after_backward, rule, layer, a.detach(), self._seen)
        )
        return output

    def _after_backward(self, rule: Rule, layer: nn.Module, a: Tensor, seen: range, d: Tensor) -> None:
        sizes = tuple(self._sizes[seen.start : seen.stop]) if len(self._sizes) > 1 else (len(a),)
        with torch.no_grad():
            for name, p in layer._parameters.items():
                if id(p) in self._index:
                    self._on_use(
                        self._index[id(p)], Use(layer, name, rule, a, d, self._first + seen.start, sizes)
                    )

    def _repeat_for_samples(self, module: nn.Module, name: str, p: nn.Parameter) -> None:
        repeats = torch.tensor(self._sizes, device=p.device)
        of_samples = self._for_groups(p).flatten(0, 1).repeat_interleave(repeats, dim=0)
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
        own = [k for k in before if self._tasks[k] == task_label]
        if not own:
            raise LayerwiseError(f"a {type(module).__name__} works on a task that no group has")
        self._seen = range(own[0], own[-1] + 1)
        try:
            return original(x, task_label, **kwargs)
        finally:
            self._seen = before

    def _forward_trunk_once(
        self, module: nn.Module, original: Callable[..., Any], x: Tensor, task_labels: Any
    ) -> Any:
        """Avalanche runs trunk and head task by task; here groups never meet, and the trunk can run once."""
        if isinstance(task_labels, int):
            return original(x, task_labels)
        trunk, heads = module.get_submodule("model"), module.get_submodule(str(module.classifier_name))
        return heads(trunk(x).flatten(1), task_labels=task_labels)

    def _forward_batch_norm(self, layer: nn.BatchNorm2d, original: Callable[..., Any], x: Tensor) -> Tensor:
        if not torch.is_grad_enabled():
            return original(x)  # type: ignore[no-any-return]
        self._check_samples(layer, x, 0)
        sizes = self._sizes[self._seen.start : self._seen.stop]
        if min(sizes) * x[0, 0].numel() == 1:
            raise LayerwiseError(f"a {type(layer).__name__} sees a group of one value")
        if id(layer) not in self._of_batch_norm:
            self._of_batch_norm[id(layer)] = [
                None if p is None else self._for_groups(p) for p in (layer.weight, layer.bias)
            ]
        weight, bias = (
            None if rows is None else rows[self._seen.start : self._seen.stop]
            for rows in self._of_batch_norm[id(layer)]
        )
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
        if not torch.is_grad_enabled():
            return original(*args, **kwargs)
        # Attention and recurrent layers may have the samples in their second dimension.
        dim = 0 if getattr(module, "batch_first", True) else 1
        tensors = [x for x in (*args, *kwargs.values()) if isinstance(x, Tensor)]
        if not tensors:
            raise LayerwiseError(f"a {type(module).__name__} takes no tensor with the samples")
        self._check_samples(module, tensors[0], dim)
        all_copies = self._group_copies(module)
        copies = [all_copies[k] for k in self._seen]
        if len(copies) == 1:
            with _replaced(module, copies[0]):
                return original(*args, **kwargs)
        positional = [self._parts(x, dim) for x in args]
        named = {key: self._parts(x, dim) for key, x in kwargs.items()}
        outputs = []
        for k, own in enumerate(copies):
            with _replaced(module, own):
                outputs.append(
                    original(*(x[k] for x in positional), **{key: x[k] for key, x in named.items()})
                )
        return self._merged(outputs, module, dim)

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

    def _parts(self, x: Any, dim: int) -> Sequence[Any]:
        """Each group's share of an argument; what has no samples is for all."""
        sizes = [self._sizes[k] for k in self._seen]
        for d in (dim, 0):
            if isinstance(x, Tensor) and x.dim() > d and x.shape[d] == sum(sizes):
                return torch.split(x, sizes, d)  # at once: its backward is one concatenation
        return [x] * len(sizes)

    def _merged(self, outputs: list[Any], module: nn.Module, dim: int) -> Any:
        """The groups' outputs as one; what follows a layer's first output has the samples elsewhere."""
        first = outputs[0]
        if isinstance(first, Tensor):
            return torch.cat(outputs, dim)
        if isinstance(first, tuple):
            parts = list(zip(*outputs, strict=True))
            others = 1 if isinstance(module, nn.RNNBase) else 0
            merged = [self._merged(list(parts[0]), module, dim)]
            return (*merged, *(self._merged(list(part), module, others) for part in parts[1:]))
        if first is None:
            return None
        raise LayerwiseError(f"a {type(module).__name__} returns a {type(first).__name__}")

    def _check_samples(self, layer: nn.Module, x: Tensor, dim: int) -> None:
        n = sum(self._sizes[k] for k in self._seen)
        if len(self._sizes) > 1 and (x.dim() <= dim or x.shape[dim] != n):
            raise LayerwiseError(
                f"a {type(layer).__name__} got an input of shape {list(x.shape)} in a pass over {n} samples"
            )


def _is_trunk_with_heads(module: nn.Module) -> bool:
    """Avalanche's ``MultiTaskDecorator``; with as many outputs as its heads, so that nothing is padded."""
    name = vars(module).get("classifier_name")
    heads = dict(module.named_children()).get(name) if isinstance(name, str) else None
    return heads is not None and getattr(heads, "max_class_label", 0) == getattr(module, "max_class_label", 1)


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
        if isinstance(owner, nn.RNNBase):  # it keeps a list of its own
            owner._flat_weights[owner._flat_weights_names.index(name)] = tensor
