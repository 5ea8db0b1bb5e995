"""All ways of making reference gradients give the same, in float64."""

import copy

import pytest
import torch
import torchvision
from avalanche.models import SlimResNet18
from helpers import MLP, memory_groups, mlp
from torch import nn
from torch.utils.data import TensorDataset

from avalanche_mgem.functional import Blocks, combine, gram, project
from avalanche_mgem.memory import EpisodicMemory
from avalanche_mgem.models import PaperCNN
from avalanche_mgem.references import Layerwise, ReferenceComputer, loop, reference_mode
from avalanche_mgem.references._rules import RULES, rule_of

CPU = torch.device("cpu")
CE = nn.CrossEntropyLoss()


class Conv(nn.Module):
    """All kinds of convolution that rules exist for, and a linear layer on positions."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(3, 4, 3, padding="same", padding_mode="reflect"),
            nn.ReLU(inplace=True),
            nn.Conv2d(4, 6, 3, stride=2, padding=1, groups=2, bias=False),
            nn.GroupNorm(3, 6),
            nn.Tanh(),
            nn.Conv2d(6, 5, 2, dilation=2, padding="valid"),
            nn.Flatten(2),
            nn.Conv1d(5, 5, 3, padding="same", bias=False),  # the norm would make its gradient rounding
            nn.LayerNorm(4),
            nn.Linear(4, 2),
            nn.RMSNorm([5, 2]),
            nn.Flatten(),
        )

    def forward(self, x):
        return self.layers(x)


class Text(nn.Module):
    """An embedding, attention with the samples first and second, and weights shared with the output."""

    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(11, 8, padding_idx=0)
        self.position = nn.Parameter(torch.randn(1, 5, 8))
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.second = nn.MultiheadAttention(8, 1)
        self.classifier = nn.Linear(8, 11, bias=False)
        self.classifier.weight = self.embedding.weight

    def forward(self, x):
        h = self.embedding(x) + self.position
        h = self.attention(h, h, h, need_weights=False)[0]
        h, weights = self.second(*[h.transpose(0, 1)] * 3)
        h = h.transpose(0, 1) + weights.mean(dim=2, keepdim=True)
        return self.classifier(h).mean(dim=1)


class Recurrent(nn.Module):
    """What is left to the loop."""

    def __init__(self):
        super().__init__()
        self.recurrent = nn.LSTM(3, 4, batch_first=True)
        self.classifier = nn.Linear(4, 3)

    def forward(self, x):
        return self.classifier(self.recurrent(x.unflatten(1, (2, 3)))[0][:, -1])


class Scale(nn.Module):
    """A layer of a user's own."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.randn(7))

    def forward(self, x):
        return x * self.scale.exp()


class Shared(nn.Module):
    """A layer that is used twice, one that is not used, and a layer of a user's own."""

    def __init__(self):
        super().__init__()
        self.first, self.shared, self.scale = nn.Linear(6, 7), nn.Linear(7, 7), Scale()
        self.unused = nn.Linear(3, 3)

    def forward(self, x):
        h = torch.tanh(self.shared(self.first(x)))
        return self.scale(self.shared(h))


def parametrized():
    model = nn.Sequential(nn.Linear(6, 7), nn.Tanh(), nn.Linear(7, 3))
    nn.utils.parametrizations.weight_norm(model[0])
    return model


def vit():
    return torchvision.models.VisionTransformer(
        image_size=8, patch_size=4, num_layers=2, num_heads=2, hidden_dim=8, mlp_dim=16, num_classes=3
    )


def resnet18():
    model = torchvision.models.resnet18(num_classes=5)
    model.conv1 = nn.Conv2d(3, 64, 3, padding=1, bias=False)
    return model


MODELS = {
    "mlp": (lambda: MLP(6, 5, 3), (6,), 3),
    "cnn": (Conv, (3, 8, 8), 10),
    "paper cnn": (lambda: PaperCNN(4, (3, 8, 8), channels=(4, 6)), (3, 8, 8), 4),
    "reduced resnet18": (lambda: SlimResNet18(3, nf=2), (3, 32, 32), 3),
    "vit": (vit, (3, 8, 8), 3),
    "text": (Text, None, 11),
    "shared": (Shared, (6,), 7),
    "weight norm": (parametrized, (6,), 3),
}


def problem(name, sizes=(3, 4, 2)):
    make, shape, classes = MODELS[name]
    torch.manual_seed(0)
    model = make().double()
    n = sum(sizes)
    x = torch.randint(0, 11, (n, 5)) if shape is None else torch.randn(n, *shape, dtype=torch.float64)
    return model, memory_groups(x, torch.randint(0, classes, (n,)), sizes)


def arguments(model, criterion=CE):
    return (model, lambda x, t: model(x), criterion, [p for p in model.parameters() if p.requires_grad])


def computed(references, groups, model, criterion=CE):
    """The rows of G by a backend, or by a computer of references."""
    if isinstance(references, str):
        references = ReferenceComputer(references, batchnorm="batch")
    _, forward, criterion, parameters = arguments(model, criterion)
    return references(groups, model, criterion, parameters, forward)


def assert_equal_rows(found, expected):
    scale = expected.abs().max()
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-11 * scale.item())


@pytest.fixture(params=["as on a CPU", "as on a GPU"])
def calls(request, monkeypatch):
    """Whether a layer makes a call for each group, or one for all, which works on a CPU too."""
    if request.param == "as on a GPU":
        for file in ("_rules", "_batch_norm"):
            monkeypatch.setattr(f"avalanche_mgem.references.{file}.is_on_gpu", lambda x: True)


@pytest.mark.usefixtures("calls")
@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("sizes", [(3, 4, 2), (3, 3), (5,)])
def test_layerwise_is_the_loop(name, sizes):
    model, groups = problem(name, sizes)
    compute = Layerwise()
    expected = loop(groups, *arguments(model))
    for _ in range(2):  # the second call knows how many groups go in one pass
        assert_equal_rows(compute(groups, *arguments(model)).dense(), expected)


@pytest.mark.parametrize("name", ["paper cnn", "reduced resnet18"])
@pytest.mark.parametrize("policy", ["update", "batch", "running"])
def test_layerwise_respects_the_batchnorm_policy(name, policy):
    model, groups = problem(name)
    for layer in model.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.running_mean.normal_()
            layer.running_var.uniform_(0.5, 2)
    other = copy.deepcopy(model)
    with reference_mode(model, batchnorm=policy, dropout=False, device=CPU):
        expected = loop(groups, *arguments(model))
    with reference_mode(other, batchnorm=policy, dropout=False, device=CPU):
        found = Layerwise()(groups, *arguments(other)).dense()
    assert_equal_rows(found, expected)
    for (key, a), b in zip(model.state_dict().items(), other.state_dict().values(), strict=True):
        torch.testing.assert_close(a, b, msg=key)


@pytest.mark.slow
def test_layerwise_on_the_full_resnet18():
    torch.manual_seed(0)
    model = resnet18().double()
    groups = memory_groups(torch.randn(6, 3, 16, 16, dtype=torch.float64), torch.randint(0, 5, (6,)), (3, 3))
    assert_equal_rows(Layerwise()(groups, *arguments(model)).dense(), loop(groups, *arguments(model)))


@pytest.mark.parametrize("tasks", [(0, 0, 1, 2), (1, 0, 1, 1)])
def test_layerwise_tells_heads_apart(tasks):
    model, sizes = mlp(multi_head=True), (3, 4, 3, 3)
    labels = torch.tensor(tasks).repeat_interleave(torch.tensor(sizes))
    x, y = torch.randn(13, 64), torch.randint(0, 2, (13,))
    for task in range(3):
        model.classifier.classifiers[str(task)] = nn.Linear(32, 2)
    model.classifier.masking = False
    model.classifier.max_class_label = 2
    groups = memory_groups(x, y, sizes, labels)
    args = (model, lambda x, t: model(x, t), CE, list(model.parameters()))
    expected = loop(groups, *args)
    for one_pass in (False, True):
        found = Layerwise(sample_bytes=1.0 if one_pass else None)(groups, *args).dense()
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)
    assert (expected == 0).all(dim=0).any() or set(tasks) == {0, 1, 2}


def test_the_trunk_runs_once_for_all_tasks():
    model = mlp(multi_head=True)
    model.classifier.classifiers["1"] = nn.Linear(32, 2)
    model.classifier.masking = False
    model.classifier.max_class_label = 2
    seen = []
    model.model.register_forward_hook(lambda module, args, output: seen.append(len(output)))
    groups = memory_groups(
        torch.randn(8, 64), torch.randint(0, 2, (8,)), (4, 4), torch.tensor([0] * 4 + [1] * 4)
    )
    Layerwise(sample_bytes=1.0)(groups, model, lambda x, t: model(x, t), CE, list(model.parameters()))
    assert seen == [8]


def test_outputs_that_are_padded_beyond_the_heads_have_their_part_in_the_loss():
    model = mlp(multi_head=True)
    model.classifier.classifiers["1"] = nn.Linear(32, 2)
    model.classifier.masking = False
    model.classifier.max_class_label, model.max_class_label = 2, 5
    labels = torch.tensor([0] * 4 + [1] * 4)
    groups = memory_groups(torch.randn(8, 64), torch.randint(0, 2, (8,)), (4, 4), labels)
    args = (model, lambda x, t: model(x, t), CE, list(model.parameters()))
    assert model(groups.x, labels).shape == (8, 5)
    found = Layerwise(sample_bytes=1.0)(groups, *args).dense()
    torch.testing.assert_close(found, loop(groups, *args), rtol=1e-4, atol=1e-6)


class SharedWithHead(nn.Module):
    """Trunk and head of task 0 have one weight, which samples of task 1 reach in the trunk only."""

    def __init__(self):
        super().__init__()
        self.trunk = nn.Linear(6, 6)
        self.heads = nn.ModuleDict({"0": nn.Linear(6, 6), "1": nn.Linear(6, 6)})
        self.heads["0"].weight = self.trunk.weight

    def forward_single_task(self, x, task_label):
        return self.heads[str(task_label)](x)

    def forward(self, x, task_labels):
        h = torch.tanh(self.trunk(x))
        out = torch.empty_like(h)
        for task in task_labels.unique().tolist():
            out[task_labels == task] = self.forward_single_task(h[task_labels == task], task)
        return out


def test_a_weight_that_trunk_and_a_head_share_has_the_gradients_of_both(monkeypatch):
    for file in ("_factors", "_layerwise"):  # so few samples would go by pairs, without rows
        monkeypatch.setattr(f"avalanche_mgem.references.{file}.is_cheaper_by_samples", lambda *_: False)
    model, compute = SharedWithHead().double(), Layerwise(sample_bytes=1.0)
    labels = torch.tensor([0] * 4 + [1] * 5)
    groups = memory_groups(torch.randn(9, 6, dtype=torch.float64), torch.randint(0, 6, (9,)), (4, 5), labels)
    args = (model, lambda x, t: model(x, t), CE, list(model.parameters()))
    for _ in range(2):  # a second time over memory that is full of the first
        assert_equal_rows(compute(groups, *args).dense(), loop(groups, *args))
        with torch.no_grad():
            model.trunk.weight.add_(1.0)


def test_layerwise_takes_mixed_tasks_in_one_group():
    model = mlp(multi_head=True)
    model.classifier.masking = False
    model.classifier.classifiers["1"] = nn.Linear(32, 2)
    model.classifier.max_class_label = 2
    groups = memory_groups(
        torch.randn(6, 64), torch.randint(0, 2, (6,)), (3, 3), torch.tensor([0, 1, 1, 0, 0, 0])
    )
    args = (model, lambda x, t: model(x, t), CE, list(model.parameters()))
    torch.testing.assert_close(Layerwise()(groups, *args).dense(), loop(groups, *args), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    "criterion",
    [
        nn.CrossEntropyLoss(label_smoothing=0.1),
        nn.CrossEntropyLoss(weight=torch.rand(3, dtype=torch.float64)),
        nn.CrossEntropyLoss(ignore_index=1),
        lambda output, y: nn.functional.multi_margin_loss(output, y) + output.square().mean(),
    ],
)
@pytest.mark.parametrize("sizes", [(4, 5), (4, 4)])
def test_any_criterion(criterion, sizes):
    model, groups = problem("mlp", sizes)
    groups.y[0], groups.y[-1] = 0, 2  # not all are ignored
    args = arguments(model, criterion)
    assert_equal_rows(Layerwise()(groups, *args).dense(), loop(groups, *args))


def blocks_of(kind, model):
    sizes = [p.numel() for p in model.parameters()]
    if kind == "whole":
        return Blocks((sum(sizes),))
    if kind == "tensor":
        return Blocks(tuple(sizes))
    torch.manual_seed(1)
    return Blocks.from_modules(torch.randint(0, 3, (sum(sizes),)), sum(sizes))


@pytest.mark.parametrize("name", ["mlp", "cnn", "text", "shared"])
@pytest.mark.parametrize("kind", ["whole", "tensor", "random"])
@pytest.mark.parametrize("kept", [0, 2**28])
def test_products_and_update_from_factors_are_those_of_the_matrix(name, kind, kept, monkeypatch):
    # With nothing kept, rows are computed when they are needed, and here in many tiles.
    monkeypatch.setattr("avalanche_mgem.references._layerwise.KEPT_ROWS_BYTES", kept)
    monkeypatch.setattr("avalanche_mgem.references._factors.TILE_BYTES", 200)
    model, groups = problem(name, (3, 1, 2, 3))
    G = loop(groups, *arguments(model))
    factors = Layerwise()(groups, *arguments(model))
    g = torch.randn(G.shape[1], dtype=torch.float64) - 10 * G.sum(dim=0)
    blocks = blocks_of(kind, model)
    for found, expected in zip(gram(g, factors, blocks), gram(g, G, blocks), strict=True):
        torch.testing.assert_close(found, expected)
    diagonal = gram(g, factors, blocks, diagonal=True)[0]
    expected = gram(g, G, blocks, diagonal=True)[0]
    torch.testing.assert_close(diagonal.diagonal(dim1=1, dim2=2), expected.diagonal(dim1=1, dim2=2))
    v = torch.rand(len(blocks.sizes), len(groups), dtype=torch.float64)
    v[-1] = 0
    torch.testing.assert_close(combine(g, factors, v, blocks), combine(g, G, v, blocks))
    z = project(g, factors, modules=blocks, memory_strength=0.5)
    torch.testing.assert_close(z, project(g, G, modules=blocks, memory_strength=0.5), rtol=1e-6, atol=1e-6)


def test_squares_of_samples_that_cancel_are_never_negative():
    model = nn.Linear(40, 30, bias=False).double()
    criterion = lambda output, y: (output.sum(dim=1) * y).mean()  # noqa: E731
    args = arguments(model, criterion)
    for _ in range(40):
        x = 1e4 * torch.randn(2, 40, dtype=torch.float64)
        x = torch.cat([x, x * (1 + 1e-9 * torch.randn_like(x))])[[0, 2, 1, 3]]
        groups = memory_groups(x, torch.tensor([1.0, -1.0, 1.0, -1.0]), (2, 2))
        rows, g = Layerwise()(groups, *args), torch.randn(1200, dtype=torch.float64)
        K, _ = gram(g, rows, Blocks((1200,)))
        assert (K.diagonal(dim1=1, dim2=2) >= 0).all()
        assert torch.isfinite(project(g, rows)).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_samples_that_cancel_to_a_few_digits_leave_constraints_that_hold(dtype):
    """Alike rows, each the difference of samples that are nearly equal: their pairs give no Gram matrix."""
    small = (30 * torch.finfo(dtype).eps) ** 0.5
    model = nn.Linear(40, 30, bias=False).to(dtype)
    criterion = lambda output, y: (output.sum(dim=1) * y).mean()  # noqa: E731
    args = arguments(model, criterion)
    is_needed = 0
    for seed in range(20):
        torch.manual_seed(seed)
        common, inputs = torch.randn(40, dtype=torch.float64), []
        for _ in range(8):
            x = torch.randn(40, dtype=torch.float64)
            inputs += [x + small * (common + 0.1 * torch.randn(40)), x]
        y = torch.tensor([1.0, -1.0] * 8).to(dtype)
        groups = memory_groups(torch.stack(inputs).to(dtype), y, (2,) * 8)
        rows, G = Layerwise()(groups, *args), loop(groups, *args)
        g = -G.mean(dim=0) + 0.1 * G.std() * torch.randn(1200, dtype=dtype)
        K, _ = rows.products(g, Blocks((1200,)), dtype, diagonal=False)
        norms = K[0].double().diagonal().sqrt()
        is_needed += bool(torch.linalg.eigvalsh(K[0].double() / norms.outer(norms))[0] < -1e-3)
        z = project(g, rows)
        cosines = G.double() @ z.double() / (G.double().norm(dim=1) * g.double().norm())
        assert (G @ g < 0).any()
        assert cosines.min() > -1e-4
    assert is_needed > 10  # or there is no point


@pytest.mark.parametrize("module_of_bias", [0, 1])
@pytest.mark.parametrize("is_shared", [False, True])
def test_few_samples_and_many_constraints_go_by_pairs_of_samples(module_of_bias, is_shared):
    torch.manual_seed(0)
    layers = [nn.Linear(50, 40), nn.Linear(40, 40, bias=False), nn.Linear(40, 40), nn.Linear(40, 30)]
    if is_shared:
        layers[2].weight = layers[1].weight
    model = nn.Sequential(*(part for layer in layers for part in (layer, nn.Tanh()))).double()
    named = dict(model.named_parameters())
    ids = [torch.full((p.numel(),), module_of_bias if name == "0.bias" else 0) for name, p in named.items()]
    blocks = Blocks.from_modules(torch.cat(ids), sum(len(part) for part in ids))
    groups = memory_groups(torch.randn(24, 50).double(), torch.randint(0, 30, (24,)), (1,) * 20 + (4,))
    factors = Layerwise()(groups, *arguments(model))
    by_rows = {"0.bias"} if module_of_bias else set()  # in another module than its weight
    by_rows |= {"4.bias"} if is_shared else set()  # not with its weight each time
    expected_indices = {i for i, name in enumerate(named) if name not in by_rows}
    assert factors._by_samples(blocks, torch.float64)[1] == expected_indices  # or there is no point
    G = loop(groups, *arguments(model))
    g = torch.randn(G.shape[1], dtype=torch.float64)
    for found, expected in zip(gram(g, factors, blocks), gram(g, G, blocks), strict=True):
        torch.testing.assert_close(found, expected)
    z = project(g, factors, modules=blocks)
    torch.testing.assert_close(z, project(g, G, modules=blocks), rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("scale", [1e-25, 1.0, 1e15])
def test_factors_take_gradients_of_every_scale(scale):
    model, groups = problem("mlp")
    model.float()
    args = arguments(model, lambda output, y: scale * CE(output, y))
    groups = memory_groups(groups.x.float(), groups.y, groups.sizes)
    G, factors = loop(groups, *args), Layerwise()(groups, *args)
    g = -G.sum(dim=0)
    z = project(g, factors)
    assert z is not g
    torch.testing.assert_close(z / scale, project(g, G) / scale, rtol=1e-3, atol=1e-5)


def test_the_model_is_as_before():
    model, groups = problem("text")
    before = copy.deepcopy(model.state_dict())
    frozen = model.attention.out_proj.weight.requires_grad_(False)
    model.classifier.weight.grad = torch.ones_like(model.classifier.weight)
    Layerwise()(groups, *arguments(model))
    assert [p.requires_grad for p in model.parameters()].count(False) == 1
    assert not frozen.requires_grad
    assert (model.classifier.weight.grad == 1).all()
    assert all(
        isinstance(p, nn.Parameter) for m in model.modules() for p in m._parameters.values() if p is not None
    )
    assert not any(m._forward_hooks or "forward" in vars(m) for m in model.modules())
    for (key, a), b in zip(before.items(), model.state_dict().values(), strict=True):
        assert torch.equal(a, b), key


def test_what_runs_without_gradient_has_rows_of_zeros():
    model, groups = problem("shared")

    def forward(x, t):
        with torch.no_grad():
            h = model.first(x)
        return model.shared(h)

    args = (model, forward, CE, list(model.parameters()))
    expected = loop(groups, *args)
    assert_equal_rows(Layerwise()(groups, *args).dense(), expected)
    assert (expected[:, : model.first.weight.numel()] == 0).all()


def test_the_memory_of_rows_serves_one_user_after_another():
    model, groups = problem("mlp")
    compute, args = Layerwise(), arguments(model)
    first = compute(groups, *args)
    expected = first.dense()
    place = first._memory.data_ptr()
    with torch.no_grad():
        model.classifier.bias.add_(1.0)
    second = compute(groups, *args)
    assert_equal_rows(first.dense(), expected)  # though another step has been taken
    assert second._memory.data_ptr() != place
    place = second._memory.data_ptr()
    del first, second
    third = compute(groups, *args)
    assert third._memory.data_ptr() == place
    assert_equal_rows(third.dense(), loop(groups, *args))


class Functional(nn.Module):
    """Uses a layer's weight outside of the layer, which no rule can see."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(6, 3)

    def forward(self, x):
        return self.layer(x) + nn.functional.linear(x, self.layer.weight).square()


class TimeFirst(nn.Module):
    """The samples are in the second dimension of a linear layer's input."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(6, 3)

    def forward(self, x):
        return self.layer(x.unsqueeze(1).expand(-1, 2, -1).transpose(0, 1)).mean(dim=0)


@pytest.mark.parametrize("make", [Functional, TimeFirst])
def test_auto_takes_the_loop_where_layerwise_is_wrong_and_layerwise_says_so(make):
    model = make()
    groups = memory_groups(torch.randn(12, 6), torch.randint(0, 3, (12,)), (6, 6))
    references = ReferenceComputer("auto")
    found = computed(references, groups, model)
    assert torch.equal(found.dense(), loop(groups, *arguments(model)))
    assert references.chosen == "loop"
    assert references.reason
    with pytest.raises(ValueError, match=r"^references='layerwise' does not fit .*use 'loop' or 'auto'\.$"):
        computed("layerwise", groups, model)


def test_auto_takes_layerwise_where_it_is_right_and_leaves_running_statistics_alone():
    model, groups = problem("paper cnn")
    before = copy.deepcopy(model.state_dict())
    references = ReferenceComputer(batchnorm="batch")
    computed(references, groups, model)
    assert references.chosen == "layerwise"
    for (key, a), b in zip(before.items(), model.state_dict().values(), strict=True):
        assert torch.equal(a, b), key


def test_trying_a_model_leaves_its_running_statistics_alone():
    model, groups = problem("paper cnn")
    other = copy.deepcopy(model)
    ReferenceComputer("auto", batchnorm="update")(groups, model, CE, list(model.parameters()))
    ReferenceComputer("loop", batchnorm="update")(groups, other, CE, list(other.parameters()))
    assert any(m.num_batches_tracked == len(groups) for m in model.modules() if hasattr(m, "momentum"))
    for (key, a), b in zip(model.state_dict().items(), other.state_dict().values(), strict=True):
        torch.testing.assert_close(a, b, msg=key)


def compiled_in_place(model):
    model.compile(backend="eager")  # traced as for any backend, but run without a C++ compiler
    return model


def wrapped(model):
    return torch.compile(model, backend="eager")


# torch's tracer looks at .grad of every tensor that it meets, and warns itself.
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning")
@pytest.mark.parametrize("compiled", [compiled_in_place, pytest.param(wrapped, marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    ("backend", "name"),
    [
        ("loop", "mlp"),
        pytest.param("loop", "reduced resnet18", marks=pytest.mark.slow),
        ("layerwise", "mlp"),
        pytest.param("layerwise", "reduced resnet18", marks=pytest.mark.slow),
    ],
)
def test_a_compiled_model_has_the_same_gradients(backend, name, compiled):
    model, groups = problem(name)
    other = compiled(copy.deepcopy(model))
    with reference_mode(model, batchnorm="running", dropout=False, device=CPU):
        expected = loop(groups, *arguments(model))
    found = computed(ReferenceComputer(backend, batchnorm="running"), groups, other)
    assert_equal_rows(found.dense(), expected)


@pytest.mark.parametrize("compiled", [compiled_in_place, wrapped])
def test_auto_does_not_take_compiled_convolutions_apart(compiled):
    model, groups = problem("cnn")
    references = ReferenceComputer("auto")
    computed(references, groups, model)
    assert references.chosen == "layerwise"
    references = ReferenceComputer("auto")
    computed(references, groups, compiled(model))
    assert references.chosen == "loop"


class ByBatch(nn.Module):
    """A batch normalisation written by hand, which couples the samples of a pass."""

    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(6, 5), nn.Linear(5, 3)

    def forward(self, x):
        h = self.first(x)
        return self.last((h - h.mean(0)) / h.std(0))


class Switch(nn.Module):
    """Uses a layer's weight outside of the layer, once a flag is set."""

    def __init__(self):
        super().__init__()
        self.layer, self.is_set = nn.Linear(6, 3), False

    def forward(self, x):
        return nn.functional.linear(x, self.layer.weight).square() if self.is_set else self.layer(x)


class Faint(Switch):
    """Uses a layer outside of the layer alone, with gradients that are small beside the others."""

    def __init__(self):
        super().__init__()
        self.outside = nn.Linear(6, 3, bias=False)

    def forward(self, x):
        return self.layer(x) + 1e-3 * nn.functional.linear(x, self.outside.weight)


def test_auto_misses_no_parameter_however_small_its_gradient():
    model, references = Faint(), ReferenceComputer()
    groups = memory_groups(torch.randn(12, 6), torch.randint(0, 3, (12,)), (5, 7))
    computed(references, groups, model)
    assert references.chosen == "loop"
    assert references.reason == "the gradients of 'outside.weight' are not those of the loop"


def six_inputs(sizes):
    n = sum(sizes)
    return memory_groups(torch.randn(n, 6, dtype=torch.float64), torch.randint(0, 3, (n,)), sizes)


def test_auto_does_not_trust_what_it_found_with_a_single_group():
    model, references = ByBatch().double(), ReferenceComputer()
    computed(references, six_inputs((5,)), model)
    assert references.chosen == "layerwise"  # with one group every way is right
    groups = six_inputs((5, 6))
    assert torch.equal(computed(references, groups, model).dense(), loop(groups, *arguments(model)))
    assert references.chosen == "loop"


class MeetsByTask(nn.Module):
    """Runs as a whole for each task, where the samples of that task meet."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(6, 3)

    def forward_single_task(self, x, task_label):
        h = self.layer(x)
        return h - h.mean(0)

    def forward(self, x, task_labels):
        out = torch.empty(len(x), 3, dtype=x.dtype)
        for task in task_labels.unique().tolist():
            out[task_labels == task] = self.forward_single_task(x[task_labels == task], task)
        return out


@pytest.mark.parametrize("tasks", [(0, 1, 1, 2), (0, 0, 1, 2, 3), (0, 1, 2, 3, 3)])
def test_auto_tries_groups_that_meet_in_the_pass_of_a_task(tasks):
    model, groups = MeetsByTask().double(), six_inputs((3,) * len(tasks))
    labels = torch.tensor(tasks).repeat_interleave(3)
    groups = memory_groups(groups.x, groups.y, groups.sizes, labels)
    references = ReferenceComputer()
    found = references(groups, model, CE, list(model.parameters())).dense()
    expected = loop(groups, model, lambda x, t: model(x, t), CE, list(model.parameters()))
    assert_equal_rows(found, expected)
    assert references.chosen == "loop"


@pytest.mark.parametrize("widths", [(3, 3, 4, 3), (3, 4, 5, 5, 3)])
def test_auto_tries_groups_of_one_form_that_meet_where_others_differ_in_it(widths):
    class OfAnyWidth(ByBatch):
        def forward(self, x):
            return super().forward(x.mean(dim=1, keepdim=True).expand(-1, 6))

    memory = EpisodicMemory(4, seed=0)
    for width in widths:  # of the first, the third and the last no two are in one pass
        memory.remember(TensorDataset(torch.randn(9, width, dtype=torch.float64), torch.arange(9) % 3))
    model, groups, references = OfAnyWidth().double(), memory.groups(), ReferenceComputer()
    found = references(groups, model, CE, list(model.parameters())).dense()
    assert_equal_rows(found, loop(groups, *arguments(model)))


def test_auto_tries_a_model_anew_in_each_experience():
    model, references, groups = Switch().double(), ReferenceComputer(), six_inputs((5, 6))
    for is_set, chosen in ((False, "layerwise"), (True, "loop"), (False, "layerwise")):
        model.is_set = is_set
        references.reset()
        assert_equal_rows(computed(references, groups, model).dense(), loop(groups, *arguments(model)))
        assert references.chosen == chosen


@pytest.mark.parametrize("steps", [1, 2, 99])
def test_auto_finds_a_change_of_path_within_an_experience(steps):
    model, references, groups = Switch().double(), ReferenceComputer(), six_inputs((5, 6))
    for _ in range(steps):
        computed(references, groups, model)
    model.is_set = True
    with pytest.warns(UserWarning, match="goes on with the loop: the gradients of 'layer.weight' are not"):
        found = computed(references, groups, model)
    assert torch.equal(found.dense(), loop(groups, *arguments(model)))
    assert references.chosen == "loop"


class Detour(nn.Module):
    """Uses no other layer once a flag is set, but another operation."""

    def __init__(self, operation):
        super().__init__()
        self.layer, self.operation, self.is_set = nn.Linear(6, 3), operation, False

    def forward(self, x):
        h = self.layer(x)
        return self.operation(h) if self.is_set else h


def test_auto_finds_samples_that_begin_to_meet():
    model, references = Detour(lambda h: h - h.mean(0)).double(), ReferenceComputer()
    groups = six_inputs((5, 6))
    computed(references, groups, model)
    model.is_set = True
    with pytest.warns(UserWarning, match=r"goes on with the loop: the gradients of 'layer\.weight' are not"):
        found = computed(references, groups, model)
    assert torch.equal(found.dense(), loop(groups, *arguments(model)))


@pytest.mark.filterwarnings("ignore:references='auto' goes on with the loop:UserWarning")
def test_running_statistics_take_a_step_in_once_though_it_is_made_twice():
    model, groups = Detour(lambda h: h - h.mean(0)).double(), six_inputs((5, 6))
    model.layer = nn.Sequential(nn.Linear(6, 3), nn.BatchNorm1d(3))
    model.double()
    other, references = copy.deepcopy(model), ReferenceComputer(batchnorm="update")
    looped = ReferenceComputer("loop", batchnorm="update")
    for is_set in (False, True):
        model.is_set = other.is_set = is_set
        computed(references, groups, model)
        computed(looped, groups, other)
    assert references.chosen == "loop"
    torch.testing.assert_close(model.layer[1].running_mean, other.layer[1].running_mean)
    assert model.layer[1].num_batches_tracked == other.layer[1].num_batches_tracked == 4


def test_a_parameter_without_gradient_at_first_is_tried_again():
    def gate(h):  # of zero: what comes before it has no gradient
        return h + model.gate * nn.functional.linear(h.tanh(), model.outside.weight)

    model, references, groups = Detour(gate).double(), ReferenceComputer(), six_inputs((5, 6))
    model.outside, model.is_set = nn.Linear(3, 3).double(), True
    model.gate = torch.zeros((), dtype=torch.float64)
    model.layer = nn.Sequential(model.layer, nn.Tanh())
    computed(references, groups, model)
    model.gate.fill_(1.0)
    with pytest.warns(UserWarning, match="goes on with the loop: the gradients of"):
        found = computed(references, groups, model)
    assert torch.equal(found.dense(), loop(groups, *arguments(model)))


def test_what_cannot_be_tried_is_tried_in_few_steps(monkeypatch):
    model, references, groups = Shared().double(), ReferenceComputer(), six_inputs((5, 6))  # one is unused
    tried, original = [], ReferenceComputer._tried
    monkeypatch.setattr(
        ReferenceComputer, "_tried", lambda self, *a: tried.append(self._steps) or original(self, *a)
    )
    for _ in range(20):
        computed(references, groups, model)
    assert tried == [0, 2, 3, 4, 8, 16]


def test_auto_takes_the_loop_where_only_running_statistics_would_differ():
    model = nn.Sequential(nn.Linear(6, 3), Detour(lambda h: h - h.mean(0)), nn.BatchNorm1d(3)).double()
    model[1].layer, model[1].is_set = nn.Identity(), True
    references, groups = ReferenceComputer(batchnorm="update"), six_inputs((5, 6))
    other = copy.deepcopy(model)
    computed(references, groups, model)
    computed(ReferenceComputer("loop", batchnorm="update"), groups, other)
    assert references.reason == "'2.running_mean' is not what the loop makes of it"
    torch.testing.assert_close(model[2].running_mean, other[2].running_mean)


def test_another_path_that_is_right_is_tried_once(monkeypatch):
    tried = []
    monkeypatch.setattr(ReferenceComputer, "_tried", lambda *_: tried.append(1))
    model, references, groups = Detour(torch.tanh).double(), ReferenceComputer(), six_inputs((5, 6, 4))
    for step in range(6):
        model.is_set = step % 2 == 1
        assert_equal_rows(computed(references, groups, model).dense(), loop(groups, *arguments(model)))
    assert references.chosen == "layerwise"
    assert len(tried) == 2


class WritesItsInputs(nn.Module):
    """Normalises its inputs in place, as many a network of images does."""

    def __init__(self):
        super().__init__()
        self.layer, self.is_set = nn.Linear(6, 3), True

    def forward(self, x):
        return self.layer(x.sub_(0.5) if self.is_set else x)


@pytest.mark.parametrize("backend", ["auto", "loop", "layerwise"])
def test_a_model_that_writes_into_its_inputs_leaves_the_memory_alone(backend):
    model, references, groups = WritesItsInputs().double(), ReferenceComputer(backend), six_inputs((5, 6))
    x = groups.x.clone()
    for _ in range(3):
        found = computed(references, groups, model).dense()
        assert torch.equal(groups.x, x)
        copied = memory_groups(x.clone(), groups.y, groups.sizes)
        assert_equal_rows(found, loop(copied, *arguments(model)))
    assert references.chosen != "auto"


def test_a_model_that_begins_to_write_into_its_inputs_is_refused():
    model, references, groups = WritesItsInputs().double(), ReferenceComputer(), six_inputs((5, 6))
    model.is_set = False
    computed(references, groups, model)
    model.is_set = True
    with pytest.raises(
        ValueError, match=r"the model changes its inputs in place, which it did not in .* a copy\.$"
    ):
        computed(references, groups, model)


def test_trying_a_model_draws_no_noise():
    class Noisy(nn.Linear):
        def forward(self, x):
            return nn.functional.dropout(super().forward(x))

    model, groups = Noisy(6, 3).double(), six_inputs((5, 6))
    found = [computed(backend, groups, model).dense() for backend in ("auto", "loop")]
    assert torch.equal(*found)


class Borrowed(nn.Module):
    """A layer of a user's own with a layer in it, which the model uses elsewhere too."""

    def __init__(self, layer):
        super().__init__()
        self.layer, self.scale = layer, nn.Parameter(torch.randn(6))

    def forward(self, x):
        return self.layer(x) * self.scale


@pytest.mark.parametrize("make", [lambda norm: norm, Borrowed])
def test_state_that_would_see_tasks_in_another_order_is_as_in_the_loop(make):
    tasks = torch.tensor([0, 2, 1, 3, 4, 5, 6])  # of those that are tried first, each is after the one before
    model, groups = MeetsByTask().double(), six_inputs((3,) * 7)
    model.layer = nn.Sequential(make(nn.BatchNorm1d(6)), nn.Linear(6, 3)).double()
    groups = memory_groups(groups.x, groups.y, groups.sizes, tasks.repeat_interleave(3))
    other = copy.deepcopy(model)
    with pytest.warns(
        UserWarning, match=r"goes on with the loop: a BatchNorm1d would see the groups in another"
    ):
        ReferenceComputer()(groups, model, CE, list(model.parameters()))
    ReferenceComputer("loop")(groups, other, CE, list(other.parameters()))
    for a, b in zip(model.buffers(), other.buffers(), strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("make", [lambda: nn.Linear(6, 6), lambda: nn.BatchNorm1d(6)])
@pytest.mark.parametrize("sizes", [(5,), (5, 6)])
def test_a_layer_that_is_used_alone_and_in_a_layer_of_a_users_own(make, sizes):
    layer = make()
    model = nn.Sequential(Borrowed(layer), nn.Tanh(), layer, nn.Linear(6, 3)).double()
    other, groups = copy.deepcopy(model), six_inputs(sizes)
    with reference_mode(model, batchnorm="batch", dropout=False, device=CPU):
        assert_equal_rows(Layerwise()(groups, *arguments(model)).dense(), loop(groups, *arguments(model)))
    computed(ReferenceComputer(batchnorm="update"), groups, model)
    computed(ReferenceComputer("loop", batchnorm="update"), groups, other)
    for a, b in zip(model.buffers(), other.buffers(), strict=True):
        torch.testing.assert_close(a, b)


def test_a_layer_of_a_users_own_with_state_that_is_called_twice_has_it_as_in_the_loop():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = Borrowed(nn.BatchNorm1d(6))

        def forward(self, x):
            return self.inner(2 * self.inner(x).tanh())

    model, groups = Twice().double(), six_inputs((5, 6))
    other = copy.deepcopy(model)
    computed(ReferenceComputer(batchnorm="update"), groups, model)
    computed(ReferenceComputer("loop", batchnorm="update"), groups, other)
    torch.testing.assert_close(model.inner.layer.running_mean, other.inner.layer.running_mean)


@pytest.mark.parametrize("batchnorm", ["update", "batch"])
def test_a_norm_that_is_called_twice_updates_as_in_the_loop(batchnorm):
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.norm = nn.Linear(6, 3), nn.BatchNorm1d(3)

        def forward(self, x):
            return self.norm(2 * self.norm(self.first(x)).tanh())

    model, groups = Twice().double(), six_inputs((5, 6))
    other, references = copy.deepcopy(model), ReferenceComputer(batchnorm=batchnorm)
    found = computed(references, groups, model).dense()
    expected = computed(ReferenceComputer("loop", batchnorm=batchnorm), groups, other).dense()
    assert_equal_rows(found, expected)
    torch.testing.assert_close(model.norm.running_mean, other.norm.running_mean)
    assert references.chosen == ("loop" if batchnorm == "update" else "layerwise")


def test_hooks_on_outputs_of_layers_have_their_part():
    def hooked(h):
        h.register_hook(lambda gradient: gradient.clamp(-1e-3, 1e-3))
        return h

    model, groups = Detour(hooked).double(), six_inputs((5, 6))
    model.is_set = True
    assert_equal_rows(Layerwise()(groups, *arguments(model)).dense(), loop(groups, *arguments(model)))


def test_auto_takes_the_loop_for_parameters_with_hooks():
    model, groups = problem("mlp")
    references = ReferenceComputer()
    computed(references, groups, model)
    assert references.chosen == "layerwise"
    model.classifier.weight.register_hook(lambda gradient: gradient * (torch.arange(3) > 0).unsqueeze(1))
    with pytest.warns(UserWarning, match="'classifier.weight' has a hook on its gradient"):
        found = computed(references, groups, model).dense()
    assert torch.equal(found, loop(groups, *arguments(model)))
    assert not found[:, -18:-13].any()  # the first row of the classifier's weight
    references.reset()
    computed(references, groups, model)
    assert references.chosen == "loop"
    with pytest.raises(ValueError, match=r"does not fit this model: the parameter 'classifier\.weight' has"):
        computed("layerwise", groups, model)


def test_any_error_of_the_layerwise_way_takes_the_loop_with_a_warning(monkeypatch):
    model, groups = problem("mlp")
    references = ReferenceComputer()
    computed(references, groups, model)

    def fail(*args):
        raise RuntimeError("no such kernel\nand more")

    monkeypatch.setattr(references, "_compute", fail)
    with pytest.warns(UserWarning, match=r"goes on with the loop: no such kernel\.$"):
        found = computed(references, groups, model)
    assert torch.equal(found.dense(), loop(groups, *arguments(model)))


def test_a_recurrent_network_is_left_to_the_loop():
    torch.manual_seed(0)
    model = Recurrent().double()
    groups = memory_groups(torch.randn(9, 6, dtype=torch.float64), torch.randint(0, 3, (9,)), (4, 5))
    references = ReferenceComputer()
    found = computed(references, groups, model)
    assert torch.equal(found.dense(), loop(groups, *arguments(model)))
    assert references.chosen == "loop"
    assert references.reason == "a LSTM is faster group by group"


def test_auto_leaves_attention_to_the_loop_while_all_rows_are_small(monkeypatch):
    model, groups = problem("text")
    for kept, chosen in ((2**30, "loop"), (100, "layerwise")):
        monkeypatch.setattr("avalanche_mgem.references._computer.KEPT_ROWS_BYTES", kept)
        references = ReferenceComputer()
        computed(references, groups, model)
        assert references.chosen == chosen


def test_an_unknown_backend_is_refused():
    with pytest.raises(ValueError, match=r"references must be one of .*; got 'fast'\.$"):
        ReferenceComputer("fast")


def test_rules_are_for_the_very_classes_of_torch():
    class Own(nn.Linear):
        pass

    assert rule_of(Own(2, 2)) is None
    assert rule_of(nn.Linear(2, 2)) is RULES[nn.Linear]
    assert rule_of(nn.Embedding(3, 2, max_norm=1.0)) is None
    assert rule_of(nn.BatchNorm1d(3)) is None  # couples the samples while it trains
    assert rule_of(nn.BatchNorm1d(3).eval()) is not None


@pytest.mark.parametrize("name", ["mlp", "paper cnn"])
def test_backends_run_under_autocast(name):
    model, groups = problem(name)
    model.float()
    groups = memory_groups(groups.x.float(), groups.y, groups.sizes)
    expected = loop(groups, *arguments(model))
    with torch.autocast("cpu", torch.bfloat16):
        for G in (loop(groups, *arguments(model)), Layerwise()(groups, *arguments(model)).dense()):
            assert G.dtype == torch.float32
            assert (G - expected).norm() < 0.1 * expected.norm()
            assert not torch.equal(G, expected)


class Routed(nn.Module):
    """A layer that sees some of the samples only."""

    def __init__(self):
        super().__init__()
        self.first, self.expert, self.last = nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 4)

    def forward(self, x):
        h = self.first(x)
        out, chosen = h.clone(), x[:, 0] > 0
        out[chosen] = self.expert(h[chosen])
        return self.last(out)


class Flattened(Routed):
    """A layer that sees positions as samples."""

    def forward(self, x):
        tokens = torch.stack([x, x.flip(1)], dim=1)
        return self.last(self.expert(self.first(tokens).flatten(0, 1)).view(tokens.shape).mean(dim=1))


class Routing(Routed):
    """Of a few samples, convolved and normalised."""

    def __init__(self):
        super().__init__()
        self.expert = nn.Sequential(
            nn.Unflatten(1, (2, 3)), nn.Conv1d(2, 2, 1), nn.Flatten(), nn.LayerNorm(6)
        )


class Vector(Routed):
    """A layer that sees no samples."""

    def __init__(self):
        super().__init__()
        self.register_buffer("code", torch.randn(6))

    def forward(self, x):
        return self.last(self.first(x) * self.expert(self.code))


@pytest.mark.parametrize("is_empty", [False, True])
@pytest.mark.parametrize("model", [Routed, Flattened, Routing])
def test_a_single_group_may_be_seen_in_parts_or_more_than_once(model, is_empty):
    """As in the second experience: there is no other group from which its samples would have to be told."""
    net, y = model().double(), torch.randint(0, 4, (9,))
    x = torch.randn(9, 6, dtype=torch.float64)
    one = memory_groups(-x.abs() if is_empty else x, y, [9])
    parameters = list(net.parameters())

    def forward(x, task_labels):
        return net(x)

    G = loop(one, net, forward, CE, parameters)
    g, blocks = -G[0] + torch.randn(G.shape[1], dtype=G.dtype), Blocks((G.shape[1],))
    for backend in ("layerwise", "auto"):
        found = ReferenceComputer(backend)(one, net, CE, parameters, forward)
        z = project(g, found, memory_strength=0.5, modules=blocks)
        torch.testing.assert_close(
            z, project(g, G, memory_strength=0.5, modules=blocks), rtol=1e-9, atol=1e-11
        )


def test_a_layer_that_sees_no_samples_goes_to_the_loop():
    net = Vector().double()
    one = memory_groups(torch.randn(3, 6, dtype=torch.float64), torch.tensor([0, 1, 2]), [3])
    references = ReferenceComputer("auto")
    computed(references, one, net)
    assert references.chosen == "loop"
    assert "has no samples" in references.reason
