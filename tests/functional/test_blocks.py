"""The coordinates of modules, in any order."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from avalanche_mgem.functional import Blocks


@st.composite
def module_ids(draw) -> Tensor:
    """Of up to 30 parameters, sorted or not; modules may be empty."""
    ids = draw(st.lists(st.integers(0, 4), min_size=1, max_size=30))
    return torch.tensor(sorted(ids) if draw(st.booleans()) else ids)


@given(modules=module_ids())
def test_split_gives_each_module_its_coordinates_and_join_is_its_inverse(modules):
    blocks, x = Blocks.from_modules(modules, len(modules)), torch.arange(len(modules))
    parts = blocks.split(x)
    assert len(parts) == len(blocks.sizes) == int(modules.max()) + 1
    for j, part in enumerate(parts):
        assert torch.equal(part, x[modules == j])
    assert torch.equal(blocks.join(list(parts)), x)
    assert [part.shape for part in blocks.split(torch.zeros(2, 3, len(x)))] == [
        (2, 3, n) for n in blocks.sizes
    ]


@given(modules=module_ids(), data=st.data())
def test_pieces_are_the_coordinates_of_a_range_by_module(modules, data):
    P = len(modules)
    blocks = Blocks.from_modules(modules, P)
    ranges = st.tuples(st.integers(0, P - 1), st.integers(1, P)).filter(lambda r: r[0] < r[1])
    for start, stop in data.draw(st.lists(ranges, min_size=1, max_size=4)):
        x, found = torch.arange(start, stop), torch.full((stop - start,), -1)
        for module, places in blocks.pieces(start, stop):
            assert len(x[places]) > 0
            assert (found[places] == -1).all()
            found[places] = module
        assert torch.equal(found, modules[start:stop])


def test_modules_in_order_are_not_moved():
    blocks = Blocks.from_modules(torch.tensor([0, 0, 1, 3]), 4)
    assert (blocks.sizes, blocks.order) == ((2, 1, 0, 1), None)
    x = torch.arange(4.0)
    assert blocks.split(x)[0].data_ptr() == x.data_ptr()


@pytest.mark.parametrize("modules", [None, torch.zeros(0, dtype=torch.long)])
def test_no_parameter(modules):
    assert sum(Blocks.from_modules(modules, 0).sizes) == 0
