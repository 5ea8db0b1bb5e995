"""Layer by layer and in a loop, on models drawn at random: shared, repeated, frozen and bare layers."""

import random

import pytest
import torch
from helpers import memory_groups
from torch import nn

from avalanche_mgem.functional import Blocks, combine, gram
from avalanche_mgem.references import Layerwise, ReferenceComputer, loop
from avalanche_mgem.references._rules import linear


class Drawn(nn.Module):
    """Linear layers and norms in a row, some of them twice or with the parameters of another."""

    def __init__(self, draw: random.Random):
        super().__init__()
        width = draw.choice([3, 5, 8])
        self.first = nn.Linear(6, width, bias=draw.random() < 0.7)
        self.middle = nn.ModuleList()
        for _ in range(draw.randint(1, 4)):
            kind = draw.random()
            if kind < 0.6:
                self.middle.append(nn.Linear(width, width, bias=draw.random() < 0.7))
            elif kind < 0.75:
                self.middle.append(nn.LayerNorm(width))
            elif kind < 0.9 and len(self.middle):
                self.middle.append(draw.choice(list(self.middle)))
            else:
                self.middle.append(nn.Sequential(nn.Linear(width, 7), nn.Tanh(), nn.Linear(7, width)))
        linears = [layer for layer in self.middle if isinstance(layer, nn.Linear)]
        if len(linears) > 1 and draw.random() < 0.4:
            linears[-1].weight = linears[0].weight
        if len(linears) > 1 and draw.random() < 0.3 and linears[-1].bias is not None:
            linears[-1].bias = linears[0].bias
        self.last = nn.Linear(width, 4)
        self.has_tokens = draw.random() < 0.4
        for p in self.parameters():
            p.requires_grad_(draw.random() < 0.9)

    def forward(self, x):
        if self.has_tokens:  # seen by all linear layers at three positions
            x = x.unsqueeze(1) + torch.arange(3.0, dtype=x.dtype).view(1, 3, 1)
        x = self.first(x).relu()
        for layer in self.middle:
            x = layer(x).tanh() + x
        return self.last(x.mean(dim=1) if self.has_tokens else x)


def drawn_blocks(draw: random.Random, parameters: list[nn.Parameter]) -> Blocks:
    """One module, one for each tensor, or coordinates at random."""
    P = sum(p.numel() for p in parameters)
    ids = {
        "one": None,
        "tensors": torch.cat([torch.full((p.numel(),), i) for i, p in enumerate(parameters)]),
        "random": torch.cat([torch.arange(min(P, 3)), torch.randint(0, min(P, 3), (max(0, P - 3),))]),
    }
    return Blocks.from_modules(ids[draw.choice(list(ids))], P)


@pytest.mark.parametrize("seed", range(60))
def test_layerwise_is_the_loop_on_models_drawn_at_random(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    draw = random.Random(seed)
    torch.manual_seed(seed)
    model = Drawn(draw).double()
    parameters = [p for p in model.parameters() if p.requires_grad]
    sizes = [draw.randint(1, 5) for _ in range(draw.randint(1, 6))]
    n = sum(sizes)
    memory = memory_groups(torch.randn(n, 6, dtype=torch.float64), torch.randint(0, 4, (n,)), sizes)
    if draw.random() < 0.5:  # sizes as small as these would hardly ever go by pairs of samples
        for file in ("_factors", "_layerwise"):
            monkeypatch.setattr(
                f"avalanche_mgem.references.{file}.is_cheaper_by_samples",
                lambda use, *_: use.rule is linear and use.name == "weight",
            )
    monkeypatch.setattr("avalanche_mgem.references._layerwise.KEPT_ROWS_BYTES", draw.choice([0, 2**30]))
    monkeypatch.setattr("avalanche_mgem.references._factors.TILE_BYTES", draw.choice([64, 2**25]))

    def forward(x, task_labels):
        return model(x)

    G = loop(memory, model, forward, nn.CrossEntropyLoss(), parameters)
    found = Layerwise(draw.choice([None, 1.0]))(memory, model, forward, nn.CrossEntropyLoss(), parameters)
    g, blocks = torch.randn(G.shape[1], dtype=torch.float64), drawn_blocks(draw, parameters)
    K, b = gram(g, G, blocks)
    v = torch.rand_like(b) * (torch.rand(len(b), 1) < 0.8)
    torch.testing.assert_close(gram(g, found, blocks), (K, b), rtol=1e-9, atol=1e-11)
    torch.testing.assert_close(combine(g, found, v, blocks), combine(g, G, v, blocks), rtol=1e-9, atol=1e-11)
    torch.testing.assert_close(found.dense(), G, rtol=1e-9, atol=1e-11)


class Faulty(nn.Module):
    """A drawn model with something that the layer-wise way may not see: it changes from task to task."""

    def __init__(self, draw: random.Random):
        super().__init__()
        self.inner = Drawn(draw)
        self.outside = nn.Linear(4, 4)
        self.fault = "none"

    def forward(self, x):
        h = self.inner(x)
        if self.fault == "couples samples":
            h = h - h.mean(dim=0)
        elif self.fault == "sorts samples":
            h = h[torch.argsort(x[:, 0])]
        elif self.fault == "weight outside":
            h = h + nn.functional.linear(h.tanh(), self.outside.weight)
        return self.outside(h) if self.fault != "another path" else h @ self.outside.weight + h.sum(0)


@pytest.mark.parametrize("seed", range(40))
def test_auto_gives_the_rows_of_the_loop_whatever_a_model_does(seed: int) -> None:
    draw = random.Random(seed)
    torch.manual_seed(seed)
    model, criterion = Faulty(draw).double(), nn.CrossEntropyLoss()
    references, hook = ReferenceComputer(), None
    faults = ["none", "couples samples", "sorts samples", "weight outside", "another path", "hook"]
    for task in range(1, 5):
        references.reset()
        if hook is not None:
            hook.remove()
        model.fault, hook = draw.choice(faults), None
        if model.fault == "hook":
            hook = model.outside.weight.register_hook(lambda gradient: gradient.tril())
        sizes = [draw.randint(1, 40) for _ in range(task)]
        n = sum(sizes)
        groups = memory_groups(torch.randn(n, 6, dtype=torch.float64), torch.randint(0, 4, (n,)), sizes)
        parameters = [p for p in model.parameters() if p.requires_grad]
        for _ in range(2):
            found = references(groups, model, criterion, parameters).dense()
            expected = loop(groups, model, lambda x, t: model(x), criterion, parameters)
            torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-11, msg=model.fault)
