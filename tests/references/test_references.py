import subprocess
import sys

import pytest
import torch
import torchvision
from helpers import memory_groups
from torch import nn

from avalanche_mgem.references import loop, reference_mode
from avalanche_mgem.references._trial import exact_products

CPU = torch.device("cpu")


CE = nn.CrossEntropyLoss()


def groups(n=3, size=8, dtype=torch.float32):
    return memory_groups(torch.randn(n * size, 4, dtype=dtype), torch.randint(0, 2, (n * size,)), (size,) * n)


def rows(model, batches, parameters=None, criterion=CE):
    parameters = list(model.parameters()) if parameters is None else parameters
    return loop(batches, model, lambda x, t: model(x), criterion, parameters)


def test_rows_are_the_gradients_of_each_group():
    model = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 2)).double()
    data = groups(dtype=torch.float64)
    G = rows(model, data)
    # An independent oracle: central differences of each group's loss along a random direction.
    direction, step = torch.randn(G.shape[1], dtype=torch.float64), 1e-5
    origin = nn.utils.parameters_to_vector(model.parameters())
    for one, row in zip(data, G, strict=True):
        values = []
        for sign in (1, -1):
            nn.utils.vector_to_parameters(origin + sign * step * direction, model.parameters())
            values.append(CE(model(one.x), one.y).item())
        nn.utils.vector_to_parameters(origin, model.parameters())
        assert (values[0] - values[1]) / (2 * step) == pytest.approx((row @ direction).item(), rel=1e-6)


def test_grad_of_the_parameters_is_left_alone():
    model = nn.Linear(4, 2)
    model.weight.grad = torch.full_like(model.weight, 3.0)
    rows(model, groups())
    assert (model.weight.grad == 3).all()
    assert model.bias.grad is None


def test_an_unused_parameter_has_zeros_and_sparse_gradients_become_dense():
    embedding = nn.Embedding(6, 2, sparse=True)
    unused = nn.Parameter(torch.randn(3))
    tokens = memory_groups(torch.tensor([1, 4]), torch.zeros(2), (2,))
    G = rows(embedding, tokens, [embedding.weight, unused], lambda output, y: output.sum())
    expected = torch.zeros(6, 2)
    expected[[1, 4]] = 1
    assert torch.equal(G[0], torch.cat([expected.flatten(), torch.zeros(3)]))


def test_a_group_that_reaches_no_parameter_has_a_row_of_zeros():
    model = nn.Sequential(nn.Linear(4, 2), nn.Linear(4, 2))
    model[0].requires_grad_(False)
    G = rows(model[0], groups(2), [model[1].weight])
    assert torch.equal(G, torch.zeros(2, 8))


class FunctionalDropout(nn.Module):
    def forward(self, x):
        return nn.functional.dropout(x, training=self.training)


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.attention = nn.MultiheadAttention(4, 1, dropout=0.5)

    def forward(self, x):
        return self.attention(x, x, x)[0]


class Recurrent(nn.Module):
    def __init__(self):
        super().__init__()
        self.lstm = nn.LSTM(4, 4, 2, dropout=0.5)

    def forward(self, x):
        return self.lstm(x)[0]


@pytest.mark.parametrize(
    "layer", [nn.Dropout(0.5), nn.RReLU(), Attention(), Recurrent(), FunctionalDropout()]
)
def test_noise_is_the_same_in_every_pass_unless_asked_for(layer):
    x = torch.randn(6, 4)

    def output(dropout):
        with reference_mode(layer, batchnorm="update", dropout=dropout, device=CPU):
            return layer(x)

    assert torch.equal(output(False), output(False))
    first = output(True)
    torch.rand(1)  # as the training step between two reference passes does
    assert not torch.equal(first, output(True))


def test_stochastic_depth_passes_every_block_unless_asked_for():
    layer, x = torchvision.ops.StochasticDepth(0.5, "batch"), torch.randn(6, 4)
    for step in range(20):
        with reference_mode(layer, batchnorm="update", dropout=False, device=CPU, step=step):
            assert torch.equal(layer(x), x)
    assert layer.training


def test_noise_that_is_no_layer_is_another_in_each_step():
    layer, x = FunctionalDropout(), torch.randn(6, 40)
    seen = []
    for step in (0, 1, 0):
        with reference_mode(layer, batchnorm="update", dropout=False, device=CPU, step=step):
            seen.append(layer(x))
    assert torch.equal(seen[0], seen[2])
    assert not torch.equal(seen[0], seen[1])


@pytest.mark.parametrize("batchnorm", ["update", "batch", "running"])
def test_instance_normalisation_follows_the_policy(batchnorm):
    layer = nn.InstanceNorm1d(3, track_running_stats=True)
    before = layer.running_mean.clone()
    with reference_mode(layer, batchnorm=batchnorm, dropout=False, device=CPU):
        layer(3 + torch.randn(4, 3, 8))
    assert torch.equal(layer.running_mean, before) == (batchnorm != "update")
    assert layer.training
    assert layer.momentum == 0.1


def network():
    return nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.Dropout(0.5), nn.Linear(5, 2))


@pytest.mark.parametrize("batchnorm", ["update", "batch", "running"])
def test_batchnorm_policies(batchnorm):
    model = network()
    before = {name: buffer.clone() for name, buffer in model.named_buffers()}
    x = 3 + torch.randn(16, 4)
    with reference_mode(model, batchnorm=batchnorm, dropout=False, device=CPU):
        normalised = model[1](model[0](x))
    uses_batch = torch.allclose(normalised.mean(dim=0), torch.zeros(5), atol=1e-5)
    unchanged = all(torch.equal(before[name], buffer) for name, buffer in model.named_buffers())
    assert uses_batch == (batchnorm != "running")
    assert unchanged == (batchnorm != "update")
    assert all(layer.training for layer in model.modules())
    assert model[1].track_running_stats


def test_layers_that_the_user_froze_stay_so():
    model = network()
    model[1].eval()
    for policy in ("update", "batch", "running"):
        with reference_mode(model, batchnorm=policy, dropout=True, device=CPU):
            assert not model[1].training
            assert model[2].training
        assert not model[1].training


def test_dropout_is_a_choice_and_never_touches_the_global_generator():
    model = network()
    x = torch.randn(16, 4)
    for dropout in (False, True):
        state = torch.get_rng_state()
        with reference_mode(model, batchnorm="batch", dropout=dropout, device=CPU):
            is_same = torch.equal(model(x), model(x))
        assert is_same == (not dropout)
        assert torch.equal(torch.get_rng_state(), state)
        assert model[2].training


def test_a_trial_has_full_precision_and_leaves_the_settings_alone():
    cudnn, matmul = torch.backends.cudnn, torch.backends.cuda.matmul
    before = cudnn.allow_tf32, matmul.allow_tf32
    try:
        cudnn.allow_tf32 = matmul.allow_tf32 = True
        with exact_products(torch.device("cuda")):  # settings exist without a GPU
            assert not cudnn.allow_tf32
            assert not matmul.allow_tf32
        assert cudnn.allow_tf32
        assert matmul.allow_tf32
    finally:
        cudnn.allow_tf32, matmul.allow_tf32 = before


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(torch.backends.cudnn, "conv"), reason="this torch has the old names alone")
def test_a_trial_knows_the_newer_names_of_precisions():
    script = """
import torch
from avalanche_mgem.references._trial import exact_products
convolutions, products = torch.backends.cudnn.conv, torch.backends.cuda.matmul
convolutions.fp32_precision = products.fp32_precision = "tf32"
with exact_products(torch.device("cuda")):
    assert convolutions.fp32_precision == products.fp32_precision == "ieee"
assert convolutions.fp32_precision == products.fp32_precision == "tf32"
"""  # old and new names in one process are an error of torch
    subprocess.run([sys.executable, "-c", script], check=True)


def test_modes_are_restored_after_an_error():
    model = network()
    with (
        pytest.raises(RuntimeError),
        reference_mode(model, batchnorm="running", dropout=False, device=CPU),
    ):
        model(torch.randn(2, 3))
    assert all(layer.training for layer in model.modules())
