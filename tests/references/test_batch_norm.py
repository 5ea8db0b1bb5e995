"""BatchNorm over many groups at once against torch's own, one group after another."""

import copy

import pytest
import torch
from torch import nn

from avalanche_mgem.references._batch_norm import batch_norm_by_group, is_by_batch

SIZES = (3, 3, 5, 2, 2, 2)
LAYERS = {
    "1d": (lambda: nn.BatchNorm1d(4), (4,)),
    "1d with positions": (lambda: nn.BatchNorm1d(4), (4, 5)),
    "2d": (lambda: nn.BatchNorm2d(4), (4, 3, 2)),
    "2d cumulative": (lambda: nn.BatchNorm2d(4, momentum=None), (4, 3, 2)),
    "2d without statistics": (lambda: nn.BatchNorm2d(4, track_running_stats=False), (4, 3, 2)),
    "2d without weights": (lambda: nn.BatchNorm2d(4, affine=False), (4, 3, 2)),
    "3d": (lambda: nn.BatchNorm3d(4), (4, 3, 2, 2)),
}


def made(name, offset=0.0):
    torch.manual_seed(0)
    make, shape = LAYERS[name]
    layer = make().double()
    for p in layer.parameters():
        nn.init.normal_(p)
    x = torch.randn(sum(SIZES), *shape, dtype=torch.float64) + offset
    return layer, x, torch.randn_like(x)


def by_group(layer, x, d):
    """Output, gradient of the input, and of weight and bias of each group ``[K, C]``."""
    outputs, inputs, others = [], [], []
    for xk, dk in zip(torch.split(x, SIZES), torch.split(d, SIZES), strict=True):
        xk = xk.detach().requires_grad_()
        y = layer(xk)
        gradient, *rest = torch.autograd.grad(y, [xk, *layer.parameters()], dk)
        outputs.append(y.detach())
        inputs.append(gradient)
        others.append(rest)
    return [torch.cat(outputs), torch.cat(inputs), *(torch.stack(rows) for rows in zip(*others, strict=True))]


def together(layer, x, d):
    x = x.detach().requires_grad_()
    leaves = [p.detach().expand(len(SIZES), -1).clone().requires_grad_() for p in layer.parameters()]
    weight, bias = leaves or (None, None)
    y = batch_norm_by_group(layer, x, weight, bias, SIZES)
    return [y.detach(), *torch.autograd.grad(y, [x, *leaves], d)]


@pytest.mark.parametrize("is_on_gpu", [False, True])
@pytest.mark.parametrize("name", LAYERS)
def test_each_group_is_normalised_by_itself(name, is_on_gpu, monkeypatch):
    monkeypatch.setattr("avalanche_mgem.references._batch_norm.is_on_gpu", lambda x: is_on_gpu)
    layer, x, d = made(name)
    other = copy.deepcopy(layer)
    for _ in range(2):  # a second time, from other running statistics
        for found, expected in zip(together(layer, x, d), by_group(other, x, d), strict=True):
            torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-11)
    for found, expected in zip(layer.buffers(), other.buffers(), strict=True):
        torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("name", [name for name in LAYERS if name.startswith("2d")])
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_narrow_images_of_groups_of_one_size_are_the_same_side_by_side(monkeypatch, name, dtype):
    layer, x, d = made(name)
    other = copy.deepcopy(layer)
    if dtype == torch.bfloat16:  # under autocast
        layer, other = layer.float(), other.float()
    x, d = (t[:15].to(dtype, memory_format=torch.channels_last) for t in (x, d))
    monkeypatch.setattr(__name__ + ".SIZES", (5, 5, 5))
    calls = []
    original = torch.nn.functional.batch_norm
    with monkeypatch.context() as patched:
        patched.setattr(torch.nn.functional, "batch_norm", lambda *a: calls.append(a) or original(*a))
        patched.setattr(torch, "get_num_threads", lambda: 2)
        for _ in range(2):  # a second time, from other running statistics
            found = together(layer, x, d)
    assert [len(call[0][0]) for call in calls] == [12, 12]  # the channels of three groups
    for _ in range(2):
        expected = by_group(other, x, d)
    tolerance = {"rtol": 1e-9, "atol": 1e-11} if dtype == torch.float64 else {"rtol": 2e-2, "atol": 2e-2}
    assert found[0].is_contiguous(memory_format=torch.channels_last)
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, **tolerance)
    for a, b in zip(layer.buffers(), other.buffers(), strict=True):
        torch.testing.assert_close(a, b, **tolerance)


@pytest.mark.parametrize("name", ["2d", "3d"])
def test_channels_last_stays_so(name):
    layer, x, d = made(name)
    expected = together(copy.deepcopy(layer), x, d)
    memory_format = torch.channels_last if name == "2d" else torch.channels_last_3d
    x, d = x.to(memory_format=memory_format), d.to(memory_format=memory_format)
    found = together(layer, x, d)
    assert found[0].is_contiguous(memory_format=memory_format)
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b)


def test_gradients_against_finite_differences():
    layer, x, _ = made("2d")
    layer.requires_grad_(False).train()
    rows = [p.expand(len(SIZES), -1).clone().requires_grad_() for p in layer.parameters()]
    assert torch.autograd.gradcheck(
        lambda *args: batch_norm_by_group(layer, *args, SIZES), (x.requires_grad_(), *rows)
    )


def test_a_large_mean_costs_no_digits():
    layer, x, d = made("2d", offset=1000.0)
    expected = together(copy.deepcopy(layer), x, d)[0]
    found = together(layer.float(), x.float(), d.float())[0]
    torch.testing.assert_close(found.double(), expected, rtol=1e-3, atol=1e-3)


def test_half_precision_has_statistics_in_single():
    layer, x, d = made("2d")
    x, d = x.bfloat16(), d.bfloat16()
    found = together(layer.float(), x, d)
    expected = by_group(copy.deepcopy(layer), x.float(), d.float())
    assert found[0].dtype == torch.bfloat16
    torch.testing.assert_close(found[0].float(), expected[0], rtol=1e-2, atol=1e-2)


def test_which_layers_normalise_by_their_batch():
    assert is_by_batch(nn.BatchNorm2d(3))
    assert not is_by_batch(nn.BatchNorm2d(3).eval())
    assert is_by_batch(nn.BatchNorm2d(3, track_running_stats=False).eval())
    assert not is_by_batch(nn.SyncBatchNorm(3))
    assert not is_by_batch(nn.GroupNorm(1, 3))
