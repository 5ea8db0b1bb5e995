"""Batches of any form: a tensor, or tuples, lists, mappings and dataclasses of such.

These are the forms that ``default_collate`` gives, and the outputs of Hugging Face's models. torch's own
``torch.utils._pytree`` is private, and takes neither a ``UserDict``, which a tokenizer's batch is, nor a
dataclass that nobody registered.
"""

import copy
from collections.abc import Callable, Iterator, Mapping, MutableMapping, Sequence
from dataclasses import fields, is_dataclass, replace
from typing import Any

import torch
from torch import Tensor

Tree = Any
"""A tensor, or a tuple, list, mapping or dataclass of trees. What is neither, such as None, is a constant."""


def tree_map(function: Callable[..., Any], tree: Tree, *others: Tree) -> Tree:
    """The same tree with ``function`` of each tensor in its place.

    Args:
        function: of a tensor, and of those of the others at the same place.
        tree: the first tree, whose form and constants the result has.
        others: trees of the same form.

    Example:
        >>> tree_map(torch.add, {"a": torch.ones(1)}, {"a": torch.ones(1)})
        {'a': tensor([2.])}
    """
    if isinstance(tree, Tensor):
        return function(tree, *others)
    parts = _parts(tree)
    if parts is None:
        return tree
    rest = [_parts(other) or {} for other in others]
    return _rebuilt(
        tree, {key: tree_map(function, part, *(r[key] for r in rest)) for key, part in parts.items()}
    )


def leaves(tree: Tree, name: str = "") -> Iterator[tuple[str, Any]]:
    """Tensors and constants of a tree, each with the path that leads to it from ``name``."""
    parts = None if isinstance(tree, Tensor) else _parts(tree)
    if parts is None:
        yield name, tree
        return
    for key, part in parts.items():
        yield from leaves(part, f"{name}[{key!r}]")


def tensors_of(tree: Tree) -> list[Tensor]:
    """The tensors of a tree, in their order."""
    if isinstance(tree, Tensor):
        return [tree]
    return [leaf for _, leaf in leaves(tree) if isinstance(leaf, Tensor)]


def tree_split(tree: Tree, sizes: Sequence[int]) -> Sequence[Tree]:
    """Splits every tensor ``[N, ...]``, as ``torch.split`` does.

    Example:
        >>> [part["a"].tolist() for part in tree_split({"a": torch.arange(3)}, [1, 2])]
        [[0], [1, 2]]
    """
    if isinstance(tree, Tensor):
        return torch.split(tree, list(sizes))
    split = [torch.split(tensor, list(sizes)) for tensor in tensors_of(tree)]
    return [with_tensors(tree, [of_leaf[k] for of_leaf in split]) for k in range(len(sizes))]


def form_of(tree: Tree) -> Any:
    """What two trees share whose tensors can be concatenated: places, shapes of a sample, and dtypes."""
    if isinstance(tree, Tensor):
        return tree.shape[1:], tree.dtype
    parts = _parts(tree)
    return tree if parts is None else (type(tree), {key: form_of(part) for key, part in parts.items()})


def check_batch(tree: Tree, n: int, name: str) -> None:
    """Checks that every tensor has the samples first, as the memory needs it to keep some of them.

    Args:
        tree: inputs or targets of a batch.
        n: number of its samples.
        name: of the tree, for the errors.

    Raises:
        ValueError: if it holds anything but such tensors and None.
    """
    for place, leaf in leaves(tree, name):
        if leaf is None:
            continue
        if not isinstance(leaf, Tensor):
            found = f"a {type(leaf).__name__}"
        elif leaf.layout != torch.strided or leaf.is_nested:
            found = "a sparse or nested tensor"
        elif leaf.dim() == 0 or leaf.shape[0] != n:
            found = f"of shape {list(leaf.shape)}"
        else:
            continue
        raise ValueError(
            f"the memory cannot keep a batch of {n} samples in which {place} is {found}; it keeps tensors "
            "with the samples in the first dimension, in tuples, lists, mappings and dataclasses."
        )


def with_tensors(tree: Tree, tensors: Sequence[Tensor]) -> Tree:
    """The same tree with these tensors."""
    remaining = iter(tensors)
    return tree_map(lambda _: next(remaining), tree)


def _parts(tree: Any) -> dict[Any, Any] | None:
    """What a tree is made of, by key, field or place; None for a constant."""
    if is_dataclass(tree) and not isinstance(tree, type):
        return {field.name: getattr(tree, field.name) for field in fields(tree) if field.init}
    if isinstance(tree, Mapping):
        return dict(tree.items())
    return dict(enumerate(tree)) if isinstance(tree, list | tuple) else None


def _rebuilt(tree: Any, parts: dict[Any, Any]) -> Any:
    """A tree of the same type of other parts; a mapping keeps what it has beside them."""
    if is_dataclass(tree) and not isinstance(tree, type):
        return replace(tree, **parts)
    if isinstance(tree, MutableMapping):
        changed = copy.copy(tree)
        changed.update(parts)
        return changed
    if isinstance(tree, Mapping):
        return type(tree)(parts)  # type: ignore[call-arg]
    if hasattr(tree, "_fields"):  # a named tuple
        return type(tree)(*parts.values())
    return type(tree)(list(parts.values()))
