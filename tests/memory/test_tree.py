"""Trees of tensors, in every form that a collate function or a model returns."""

from collections import OrderedDict, UserDict, namedtuple
from dataclasses import dataclass
from types import MappingProxyType

import pytest
import torch

from avalanche_mgem.memory import leaves, tensors_of, tree_map, with_tensors
from avalanche_mgem.memory._tree import check_batch, form_of, tree_split

Pair = namedtuple("Pair", ["a", "b"])


@dataclass(frozen=True)
class Output:
    logits: torch.Tensor
    hidden: tuple | None = None


class Encoding(UserDict):
    """A mapping that holds more than its items, as a tokenizer's batch does."""

    encodings = ("kept",)


A, B = torch.arange(6.0).view(3, 2), torch.arange(3)
FORMS = {
    "tensor": A,
    "tuple": (A, B),
    "list": [A, [B, None]],
    "dict": {"a": A, "b": {"c": B}},
    "ordered": OrderedDict(a=A, b=B),
    "user dict": Encoding(a=A, b=B),
    "read-only": MappingProxyType({"a": A}),
    "named tuple": Pair(A, B),
    "dataclass": Output(A, (B, None)),
}


@pytest.mark.parametrize("form", FORMS)
def test_a_tree_is_mapped_in_place_of_its_tensors(form):
    tree = FORMS[form]
    doubled = tree_map(lambda x: 2 * x, tree)
    assert type(doubled) is type(tree)
    for (place, before), (same_place, after) in zip(leaves(tree), leaves(doubled), strict=True):
        assert place == same_place
        assert after is None if before is None else torch.equal(after, 2 * before)
    assert torch.equal(tensors_of(tree)[0], A)  # the tree itself is as before
    summed = tree_map(torch.add, tree, doubled)
    assert all(torch.equal(s, 3 * b) for s, b in zip(tensors_of(summed), tensors_of(tree), strict=True))


@pytest.mark.parametrize("form", FORMS)
def test_a_tree_is_split_by_samples(form):
    first, second = tree_split(FORMS[form], [1, 2])
    assert type(first) is type(second) is type(FORMS[form])
    for whole, one, two in zip(*map(tensors_of, (FORMS[form], first, second)), strict=True):
        assert torch.equal(torch.cat([one, two]), whole)
        assert len(one) == 1


def test_what_a_mapping_has_beside_its_items_stays():
    tree = Encoding(a=A)
    tree.length = 3
    assert tree_map(torch.neg, tree).length == 3


def test_new_tensors_go_to_the_places_of_the_old_ones():
    assert with_tensors({"a": A, "b": (B, "x")}, [1, 2]) == {"a": 1, "b": (2, "x")}


def test_the_form_tells_what_can_be_concatenated():
    assert form_of({"a": A}) == form_of({"a": A[:1]})
    for other in ({"b": A}, {"a": A[:, :1]}, {"a": A.double()}, {"a": A, "b": B}, [A], A, {"a": None}):
        assert form_of({"a": A}) != form_of(other)


@pytest.mark.parametrize(
    ("tree", "found"),
    [
        ({"text": ["a", "b", "c"]}, r"inputs\['text'\]\[0\] is a str"),
        ([A, torch.ones(2, 3)], r"inputs\[1\] is of shape \[2, 3\]"),
        ({"a": torch.tensor(1.0)}, r"inputs\['a'\] is of shape \[\]"),
        (A.to_sparse(), "inputs is a sparse or nested tensor"),
        ({"a": {1, 2}}, r"inputs\['a'\] is a set"),
    ],
)
def test_a_batch_that_cannot_be_kept_is_refused_in_one_line(tree, found):
    with pytest.raises(ValueError, match=f"cannot keep a batch of 3 samples in which {found}; it keeps") as e:
        check_batch(tree, 3, "inputs")
    assert "\n" not in str(e.value)
    check_batch({"a": A, "b": [B, None]}, 3, "inputs")
