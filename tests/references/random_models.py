"""Models of every kind drawn at random, and how far the references of each are from those of the loop.

``python tests/references/random_models.py --n 3000`` draws many; the tests draw a few.
"""

import argparse
import random
import sys
import warnings
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from unittest.mock import patch

import torch
from avalanche.models import as_multitask
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 (torch's own spelling)
from torch.nn.utils import parametrizations

from avalanche_mgem.functional import Blocks, combine, gram
from avalanche_mgem.memory import MemoryGroups
from avalanche_mgem.references import ReferenceComputer
from avalanche_mgem.references._rules import linear

CLASSES, TOKENS = 4, 9


class Apply(nn.Module):
    """A function of some layers and an input."""

    def __init__(self, function: Callable[..., Tensor], *layers: nn.Module):
        super().__init__()
        self.layers = nn.ModuleList(layers)
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x, *self.layers)

    def extra_repr(self) -> str:
        return f"function of line {self.function.__code__.co_firstlineno}"


class Own(nn.Module):
    """A layer of a user's own, with a parameter of any shape and any function."""

    def __init__(self, function: Callable[[Tensor, Tensor], Tensor], *shape: int):
        super().__init__()
        self.p = nn.Parameter(torch.randn(shape))
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x, self.p)


class Beside(nn.Module):
    """A parameter outside of layers, in a module with children."""

    def __init__(self, function: Callable[..., Tensor], shape: tuple[int, ...], layer: nn.Module):
        super().__init__()
        self.p = nn.Parameter(torch.randn(shape))
        self.layer, self.function = layer, function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x, self.p, self.layer)


class OwnLinear(nn.Linear):
    """A subclass that computes something else."""

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight.square(), self.bias)


class Switch(nn.Module):
    """Takes another path in each phase."""

    def __init__(self, *paths: nn.Module):
        super().__init__()
        self.paths, self.phase = nn.ModuleList(paths), 0

    def forward(self, x: Tensor) -> Tensor:
        return self.paths[self.phase % len(self.paths)](x)


class Drawer:
    """Draws the layers of one model."""

    def __init__(self, seed: int):
        self.random = random.Random(seed)
        self.linears: list[nn.Linear] = []
        self.depth = 0

    def chance(self, p: float) -> bool:
        return self.random.random() < p

    def pick(self, *values):
        return self.random.choice(values)

    def linear(self, n_in: int, n_out: int | None = None) -> nn.Linear:
        """A new layer, or one that the model has already, or one that shares its parameters."""
        n_out = self.pick(3, 6, 8) if n_out is None else n_out
        same = [layer for layer in self.linears if layer.weight.shape == (n_out, n_in)]
        if same and self.chance(0.3):
            return self.pick(*same)
        layer = nn.Linear(n_in, n_out, bias=self.chance(0.7))
        if same and self.chance(0.3):
            layer.weight = self.pick(*same).weight
        if same and self.chance(0.2) and layer.bias is not None:
            layer.bias = self.pick(*same).bias
        self.linears.append(layer)
        return layer

    def convolution(self, kind: str, channels: int) -> nn.Module:
        groups = self.pick(*(g for g in (1, 1, 2, 3) if channels % g == 0))
        out = groups * self.pick(2, 3)
        common = {"groups": groups, "bias": self.chance(0.5), "dilation": self.pick(1, 1, 2)}
        if kind.startswith("ConvTranspose"):
            return getattr(nn, kind)(channels, out, self.pick(1, 2, 3), stride=self.pick(1, 2), **common)
        mode = self.pick("zeros", "zeros", "reflect", "replicate", "circular")
        if self.chance(0.3):
            return getattr(nn, kind)(channels, out, 3, padding="same", padding_mode=mode, **common)
        size, stride = self.pick(1, 2, 3), self.pick(1, 1, 2)
        return getattr(nn, kind)(
            channels, out, size, stride=stride, padding=self.pick(1, 2), padding_mode=mode, **common
        )

    def mask(self, x: Tensor, function: Callable[[Tensor], Tensor]) -> Tensor:
        """Some of the samples by a function, the others as they are."""
        chosen = x.flatten(1)[:, 0].detach() > 0
        out = x.clone()
        out[chosen] = function(x[chosen])
        return out


def _group_norm(d: Drawer, c: int) -> nn.Module:
    return nn.GroupNorm(d.pick(*(g for g in (1, 2, 3) if c % g == 0)), c, 1e-2, affine=d.chance(0.9))


def _batch_norm(d: Drawer, name: str, c: int) -> nn.Module:
    layer = getattr(nn, name)(
        c, 1e-2, d.pick(0.1, None), affine=d.chance(0.9), track_running_stats=d.chance(0.9)
    )  # a small eps multiplies rounding
    if layer.running_mean is not None:
        layer.running_mean.normal_()
        layer.running_var.uniform_(0.5, 2)
    return layer.train(d.chance(0.7))


def _hooked_layer(d: Drawer, c: int) -> nn.Module:
    layer = nn.Linear(c, c)
    d.pick(
        lambda: layer.register_forward_hook(lambda module, args, out: 2 * out.tanh()),
        lambda: layer.register_forward_pre_hook(lambda module, args: (args[0].square(),)),
        lambda: layer.register_full_backward_pre_hook(lambda module, grads: (grads[0].tanh(),)),
        lambda: layer.register_full_backward_hook(lambda module, before, after: (3 * before[0],)),
        lambda: layer.weight.register_hook(lambda gradient: gradient.tril()),
    )()
    return nn.Sequential(nn.Linear(c, c), layer)


def _hooked_tensor(x: Tensor) -> Tensor:
    if x.requires_grad:
        x.register_hook(lambda gradient: gradient.clamp(-0.1, 0.1))
    return x


def _recurrent(d: Drawer, c: int) -> nn.Module:
    layer = d.pick(nn.LSTM, nn.GRU, nn.RNN)(c, d.pick(3, 4), batch_first=d.chance(0.6))
    if layer.batch_first:
        return Apply(lambda x, rnn: rnn(x)[0], layer)
    return Apply(lambda x, rnn: rnn(x.transpose(0, 1))[0].transpose(0, 1), layer)


def _attention(d: Drawer, c: int) -> nn.Module:
    heads = d.pick(*(h for h in (1, 2) if c % h == 0))
    kind = d.random.random()
    if kind < 0.4:
        layer = nn.MultiheadAttention(c, heads, dropout=0.2, batch_first=True, bias=d.chance(0.7))
        return Apply(lambda x, mha: mha(x, x, x, need_weights=False)[0], layer)
    if kind < 0.7:
        layer = nn.MultiheadAttention(c, heads)
        return Apply(lambda x, mha: mha(*[x.transpose(0, 1)] * 3)[0].transpose(0, 1), layer)
    return nn.TransformerEncoderLayer(c, heads, 5, batch_first=True, norm_first=d.chance(0.5))


def _cell(d: Drawer, c: int) -> nn.Module:
    cell = d.pick(nn.GRUCell, nn.RNNCell)(c, c)
    return Apply(lambda x, cell: cell(x, cell(x)), cell)


def _anywhere(d: Drawer, kind: str, shape: tuple[int, ...]) -> nn.Module:
    """What leaves the shape as it is."""
    functions = {
        "relu": lambda x: x.relu(),
        "tanh": lambda x: x.tanh(),
        "in place": lambda x: (x + 0.0).mul_(2).relu_(),
        "zero": lambda x: 0.0 * x + 1,
        "detached": lambda x: x.detach(),
        "partly detached": lambda x: x - 0.5 * x.detach(),
        "couples samples": lambda x: x - x.mean(dim=0),
        "couples neighbours": lambda x: x + 0.5 * x.roll(1, 0),
        "sorts samples": lambda x: x[torch.argsort(x.flatten(1).sum(1))],
        "turns samples": lambda x: x.flip(0),
        "drops": lambda x: F.dropout(x, 0.2),
        "hook on a tensor": _hooked_tensor,
        "checkpoint": lambda x: torch.utils.checkpoint.checkpoint(torch.tanh, x, use_reentrant=False),
    }
    layers = {
        "inplace relu": lambda: nn.Sequential(Apply(lambda x: 2 * x), nn.ReLU(inplace=True)),
        "dropout": lambda: nn.Dropout(0.3),
        "rrelu": nn.RReLU,
        "prelu": nn.PReLU,
        "own scale": lambda: Own(lambda x, p: x * p.exp(), *shape),
        "own shift of samples": lambda: Own(lambda x, p: x + p, 1, *shape),
        "own scalar": lambda: Own(lambda x, p: x * p),
    }
    safe = ("relu", "tanh", "in place", "inplace relu", "dropout", "prelu", "own scale")
    name = d.pick(*safe) if d.chance(0.75) else d.pick(*functions, *layers)
    return Apply(functions[name]) if name in functions else layers[name]()


def _vector(d: Drawer, shape: tuple[int, ...]) -> tuple[nn.Module, str]:
    (c,) = shape
    layers = {
        "linear": lambda: d.linear(c),
        "norm": lambda: d.pick(nn.LayerNorm, nn.RMSNorm)(c, 1e-2),
        "group norm": lambda: _group_norm(d, c),
        "batch norm": lambda: _batch_norm(d, "BatchNorm1d", c),
        "residual": lambda: Apply(lambda x, a: x + a(x).tanh(), d.linear(c, c)),
        "twice": lambda: Apply(lambda x, a: a(a(x).tanh()), d.linear(c, c)),
        "norm twice": lambda: Apply(lambda x, a: a(2 * a(x).tanh()), _batch_norm(d, "BatchNorm1d", c)),
        "in place": lambda: Apply(lambda x, a: a(x).add_(0.5).mul_(2), d.linear(c)),
        "keyword": lambda: Apply(lambda x, a: a(input=x), d.linear(c, c)),
        "inner": lambda: nn.Sequential(d.linear(c, 7), nn.Tanh(), d.linear(7, c)),
    }
    odd = {
        "bilinear": lambda: Apply(lambda x, a: a(x, x.tanh()), nn.Bilinear(c, c, 3)),
        "own subclass": lambda: OwnLinear(c, c),
        "weight norm": lambda: parametrizations.weight_norm(nn.Linear(c, c)),
        "spectral norm": lambda: parametrizations.spectral_norm(nn.Linear(c, c)),
        "orthogonal": lambda: parametrizations.orthogonal(nn.Linear(c, c)),
        "hooked": lambda: _hooked_layer(d, c),
        "cell": lambda: _cell(d, c),
        "weight outside": lambda: Apply(lambda x, a: a(x) + F.linear(x.tanh(), a.weight), d.linear(c)),
        "only outside": lambda: Apply(lambda x, a: x + x.tanh() @ a.weight, nn.Linear(c, c)),
        "faintly outside": lambda: Apply(lambda x, a: a(x) + 1e-3 * F.linear(x, a.weight), d.linear(c)),
        "through data": lambda: Apply(lambda x, a: a(x) * a.weight.detach().sum(), d.linear(c)),
        "without gradient": lambda: Apply(lambda x, a: a(x.detach()), d.linear(c)),
        "backwards": lambda: Apply(lambda x, a: a(x.flip(0)).flip(0), d.linear(c)),
        "twice as many": lambda: Apply(lambda x, a: sum(a(torch.cat([x, x + 1])).chunk(2)), d.linear(c)),
        "routed": lambda: Apply(lambda x, a: d.mask(x, a), d.linear(c, c)),
        "routed by data": lambda: Apply(
            lambda x, a, b: a(x) if x.detach().sum() > 0 else b(x), d.linear(c, c), d.linear(c, c)
        ),
        "of no sample": lambda: Apply(lambda x, a: x + a(x.new_ones(c)), d.linear(c, c)),
        "of one sample": lambda: Apply(lambda x, a: x + a(x.new_ones(1, c)), d.linear(c, c)),
        "of a mean": lambda: Apply(lambda x, a: x + a(x.mean(0, keepdim=True)), d.linear(c, c)),
        "parameter beside": lambda: Beside(lambda x, p, a: a(x) + p, (1, c), d.linear(c, c)),
        "matrix beside": lambda: Beside(lambda x, p, a: a(x) + x @ p, (c, c), d.linear(c, c)),
        "vector beside": lambda: Beside(lambda x, p, a: a(x) * p, (c,), d.linear(c, c)),
        "einsum": lambda: Own(lambda x, p: torch.einsum("ni,ij->nj", x, p), c, c),
        "unused": lambda: Apply(lambda x, a: x, nn.Linear(2, 2)),
        "called without gradient": lambda: Apply(_called_without_gradient, d.linear(c, c)),
        "gradient reversed": lambda: Apply(lambda x, a: 2 * a(x).detach() - a(x), d.linear(c, c)),
    }
    if d.chance(0.1):
        tokens = Apply(lambda x: x.unsqueeze(1) + torch.arange(3).to(x).view(1, 3, 1))
        return tokens, "tokens"
    if d.chance(0.05) and d.depth == 0:
        d.depth += 1
        paths = [nn.Sequential(_vector_of(d, c), nn.Linear(c, c)) for _ in range(2)]
        return Switch(*paths), "vector"
    chosen = odd if d.chance(0.12) else layers
    return chosen[d.pick(*chosen)](), "vector"


def _vector_of(d: Drawer, c: int) -> nn.Module:
    """A block that leaves a vector's shape as it is."""
    while True:
        module, kind = _vector(d, (c,))
        if kind == "vector" and _shape_after(module, (c,)) == (c,):
            return module


def _called_without_gradient(x: Tensor, layer: nn.Module) -> Tensor:
    with torch.no_grad():
        scale = layer(x).abs().mean(dim=1, keepdim=True)
    return layer(x) + scale


def _tokens(d: Drawer, shape: tuple[int, ...]) -> tuple[nn.Module, str]:
    length, c = shape
    layers = {
        "linear": lambda: d.linear(c),
        "norm": lambda: d.pick(nn.LayerNorm, nn.RMSNorm)(d.pick(c, [length, c]), 1e-2),
        "residual": lambda: Apply(lambda x, a: x + a(x).tanh(), d.linear(c, c)),
        "attention": lambda: _attention(d, c),
        "position": lambda: Beside(lambda x, p, a: a(x + p), (1, length, c), d.linear(c)),
        "class token": lambda: Beside(
            lambda x, p, a: a(torch.cat([p.expand(len(x), -1, -1), x], 1)), (1, 1, c), d.linear(c)
        ),
    }
    odd = {
        "recurrent": lambda: _recurrent(d, c),
        "time first": lambda: Apply(lambda x, a: a(x.transpose(0, 1)).transpose(0, 1), d.linear(c)),
        "positions as samples": lambda: Apply(
            lambda x, a: a(x.flatten(0, 1)).unflatten(0, x.shape[:2]), d.linear(c)
        ),
        "one position": lambda: Apply(
            lambda x, a: torch.cat([a(x[:, 0]).unsqueeze(1), x[:, 1:]], 1), d.linear(c, c)
        ),
        "each position": lambda: Apply(
            lambda x, a: torch.stack([a(part) for part in x.unbind(1)], 1), d.linear(c)
        ),
    }
    if d.chance(0.35):
        return Apply(d.pick(lambda x: x.mean(1), lambda x: x.flatten(1), lambda x: x[:, 0])), "vector"
    if d.chance(0.1):
        return Apply(lambda x: x.mT), "signal"
    chosen = odd if d.chance(0.15) else layers
    return chosen[d.pick(*chosen)](), "tokens"


def _signal(d: Drawer, shape: tuple[int, ...]) -> tuple[nn.Module, str]:
    c, length = shape
    layers = {
        "convolution": lambda: d.convolution("Conv1d", c),
        "same convolution": lambda: d.convolution("Conv1d", c),
        "transposed": lambda: d.convolution("ConvTranspose1d", c),
        "batch norm": lambda: _batch_norm(d, "BatchNorm1d", c),
        "instance norm": lambda: nn.InstanceNorm1d(
            c, eps=1e-2, affine=True, track_running_stats=d.chance(0.5)
        ).train(d.chance(0.7)),
        "group norm": lambda: _group_norm(d, c),
        "pool": lambda: d.pick(nn.MaxPool1d, nn.AvgPool1d)(2, 1),
        "linear": lambda: d.linear(length),
    }
    if length < 3 or d.chance(0.35):
        return nn.Flatten(), "vector"
    if d.chance(0.1):
        return Apply(lambda x: x.mT), "tokens"
    return layers[d.pick(*layers)](), "signal"


def _image(d: Drawer, shape: tuple[int, ...]) -> tuple[nn.Module, str]:
    c, height, width = shape
    layers = {
        "convolution": lambda: d.convolution("Conv2d", c),
        "another convolution": lambda: d.convolution("Conv2d", c),
        "transposed": lambda: d.convolution("ConvTranspose2d", c),
        "batch norm": lambda: _batch_norm(d, "BatchNorm2d", c),
        "instance norm": lambda: nn.InstanceNorm2d(
            c, eps=1e-2, affine=True, track_running_stats=d.chance(0.5)
        ).train(d.chance(0.7)),
        "group norm": lambda: _group_norm(d, c),
        "layer norm": lambda: nn.LayerNorm([c, height, width], 1e-2),
        "pool": lambda: d.pick(nn.MaxPool2d, nn.AvgPool2d)(2, 1),
        "residual": lambda: Apply(lambda x, a: x + a(x), nn.Conv2d(c, c, 3, padding=1)),
        "adaptive": lambda: nn.AdaptiveAvgPool2d(d.pick(2, 3)),
        "volume": lambda: Apply(
            lambda x, a: a(x.unsqueeze(2)).squeeze(2), nn.Conv3d(c, 3, (1, 2, 2), padding=(0, 1, 1))
        ),
        "functional": lambda: Apply(
            lambda x, a: a(x) + F.conv2d(x, a.weight, padding=1), nn.Conv2d(c, 3, 3, padding=1)
        ),
    }
    if min(height, width) < 3 or d.chance(0.3):
        return nn.Flatten(), "vector"
    if d.chance(0.1):
        return nn.Flatten(2), "signal"
    return layers[d.pick(*layers)](), "image"


def _shape_after(module: nn.Module, shape: tuple[int, ...]) -> tuple[int, ...]:
    """By a pass that leaves no trace."""
    modes = [(layer, layer.training) for layer in module.modules()]
    module.eval()
    with torch.no_grad():
        found = tuple(module(torch.zeros(2, *shape))[:1].shape[1:])
    for layer, mode in modes:
        layer.training = mode
    return found


class Drawn(nn.Module):
    """A model of one input tensor; its last layer is called ``classifier``."""

    def __init__(self, d: Drawer):
        super().__init__()
        self.input = d.pick("vector", "vector", "tokens", "signal", "image", "words")
        shape = {"vector": (6,), "tokens": (4, 6), "signal": (3, 8), "image": (3, 6, 6), "words": (4,)}
        self.shape = shape[self.input]
        blocks: list[nn.Module] = []
        kind, at = self.input, self.shape
        if kind == "words":
            blocks, kind, at = self._words(d), d.pick("tokens"), (4, 6)
            if isinstance(blocks[0], nn.EmbeddingBag):
                kind, at = "vector", (6,)
        elif d.chance(0.05):
            blocks.append(Apply(lambda x: x.sub_(0.5)))  # the input itself
        steps = {"vector": _vector, "tokens": _tokens, "signal": _signal, "image": _image}
        wanted = d.random.randint(1, 5)
        while wanted > 0 or kind != "vector":
            module, after = steps[kind](d, at)
            blocks.append(module)
            kind, at, wanted = after, _shape_after(module, at), wanted - 1
            if d.chance(0.5):
                blocks.append(_anywhere(d, kind, at))
        self.blocks = nn.Sequential(*blocks)
        self.classifier = nn.Linear(at[0], CLASSES)
        for p in self.parameters():
            p.requires_grad_(d.chance(0.92))
        for layer in self.children():
            if d.chance(0.05):
                layer.requires_grad_(False)
        if not any(p.requires_grad for p in self.parameters()):
            self.classifier.requires_grad_(True)

    def _words(self, d: Drawer) -> list[nn.Module]:
        if d.chance(0.2):
            return [nn.EmbeddingBag(TOKENS, 6, mode=d.pick("sum", "mean"))]
        layer = nn.Embedding(
            TOKENS,
            6,
            padding_idx=d.pick(None, 0, 3),
            max_norm=d.pick(None, None, None, 1.0),
            **d.pick({}, {}, {}, {}, {"scale_grad_by_freq": True}, {"sparse": True}),
        )
        return [layer]

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.blocks(x))


def drawn_model(d: Drawer) -> tuple[nn.Module, Drawn]:
    """A model in float64, and what takes its input: a fourth of them have a head for each of three tasks."""
    trunk = Drawn(d)
    model: nn.Module = trunk
    if d.chance(0.25):
        model = as_multitask(trunk, "classifier")
        size = model.classifier.classifiers["0"].classifier.in_features
        for task in range(3):
            model.classifier.classifiers[str(task)] = nn.Linear(size, CLASSES)
        model.classifier.masking = False
        model.classifier.max_class_label = CLASSES
        model.max_class_label = d.pick(CLASSES, CLASSES + 1)
        if d.chance(0.2):
            model.classifier.classifiers["1"].weight = model.classifier.classifiers["0"].weight
    return model.double(), trunk


def drawn_groups(d: Drawer, trunk: Drawn, number: int, least: int) -> MemoryGroups:
    sizes = [d.random.randint(least, 6) for _ in range(number)]
    if d.chance(0.5):  # neighbours of equal size go in one call on a GPU
        sizes = [sizes[0]] * (number - 1) + sizes[-1:]
    n = sum(sizes)
    if trunk.input == "words":
        x = torch.randint(0, TOKENS, (n, *trunk.shape))
    else:
        x = torch.randn(n, *trunk.shape, dtype=torch.float64)
    tasks = sorted(d.pick(0, 1, 2) for _ in sizes) if d.chance(0.7) else [d.pick(0, 1, 2) for _ in sizes]
    labels = torch.tensor(tasks).repeat_interleave(torch.tensor(sizes))
    y = torch.randint(0, CLASSES, (n,))
    y[torch.tensor([sum(sizes[:k]) for k in range(number)])] = 0  # not every target is ignored
    origins = tuple((k, 0) for k in range(number))
    return MemoryGroups(x, y, labels, tuple(sizes), origins, tuple(tasks))


def drawn_criterion(d: Drawer) -> Callable[[Tensor, Tensor], Tensor]:
    return d.pick(
        nn.CrossEntropyLoss(),
        nn.CrossEntropyLoss(),
        nn.CrossEntropyLoss(label_smoothing=0.1),
        nn.CrossEntropyLoss(ignore_index=1),
        nn.MultiMarginLoss(),
        lambda output, y: F.cross_entropy(output[:, :CLASSES], y, output.new_tensor([1.0, 2.0, 0.5, 1.0])),
        lambda output, y: F.multi_margin_loss(output, y) + output.square().mean(),
    )


def drawn_blocks(d: Drawer, parameters: list[nn.Parameter]) -> Blocks:
    """One module, one for each tensor, or coordinates at random."""
    P = sum(p.numel() for p in parameters)
    ids = {
        "one": None,
        "tensors": torch.cat([torch.full((p.numel(),), i) for i, p in enumerate(parameters)]),
        "random": torch.cat([torch.arange(min(P, 3)), torch.randint(0, min(P, 3), (max(0, P - 3),))]),
    }
    chosen = ids[d.pick(*ids)]
    return Blocks.from_modules(None if chosen is None else chosen.to(parameters[0].device), P)


@dataclass
class Outcome:
    """What came out for one draw.

    Attributes:
        chosen: the ways that were taken, a word for each experience.
        difference: the largest, relative to the largest entry of the row, product or update.
        of_buffers: likewise of the running statistics.
    """

    chosen: list[str]
    difference: float = 0.0
    of_buffers: float = 0.0


def relative(found: Tensor, expected: Tensor, scale: Tensor | float) -> float:
    """The largest difference; 1 is a whole ``scale``, below which there is only rounding."""
    if not expected.numel():
        return 0.0
    difference = (found - expected).abs()
    assert difference.isfinite().all()
    return float((difference / torch.as_tensor(scale).clamp(min=1e-6)).max())


def _patched(d: Drawer) -> ExitStack:
    """Sizes as small as these would hardly ever go by tiles, by pairs of samples, or past the kept rows."""
    room = "avalanche_mgem.references."
    stack = ExitStack()
    kept = d.pick(0, 2**30)
    for name, value in (
        ("_computer.KEPT_ROWS_BYTES", 0 if d.chance(0.9) else 2**30),  # 0: layer-wise, even where slower
        ("_layerwise.KEPT_ROWS_BYTES", kept),
        ("_factors.TILE_BYTES", d.pick(64, 2**25)),
        ("_rules._FEW_POSITIONS", d.pick(0, 64)),
    ):
        stack.enter_context(patch(room + name, value))
    if d.chance(0.5):
        for file in ("_rules", "_batch_norm"):  # the calls for all groups that a GPU has
            stack.enter_context(patch(f"{room}{file}.is_on_gpu", lambda x: True))
    if d.chance(0.5):
        for file in ("_factors", "_layerwise"):
            stack.enter_context(
                patch(
                    f"{room}{file}.is_cheaper_by_samples",
                    lambda use, *_: use.rule is linear and use.name == "weight",
                )
            )
    return stack


def compare(seed: int, device: str = "cpu") -> Outcome:
    """Draws a model, and compares ``references="auto"`` with the loop over three experiences.

    Raises:
        AssertionError: for a difference beyond 1e-9, with the model in it.
    """
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)  # of what Avalanche's heads make
    try:
        return _compared(Drawer(seed), seed, torch.device(device))
    finally:
        torch.set_default_dtype(before)


def _compared(d: Drawer, seed: int, device: torch.device) -> Outcome:
    torch.manual_seed(seed)
    model, trunk = drawn_model(d)
    model.to(device)
    criterion = drawn_criterion(d)
    options = {"batchnorm": d.pick("update", "batch", "running")}  # two ways of dropout=True draw other noise
    found_by, expected_by = ReferenceComputer("auto", **options), ReferenceComputer("loop", **options)
    norms = (nn.modules.batchnorm._NormBase, nn.GroupNorm)
    least = 2 if any(isinstance(layer, norms) for layer in model.modules()) else 1
    switches = [m for m in model.modules() if isinstance(m, Switch)]
    outcome = Outcome([])
    with _patched(d), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "references='auto' goes on with the loop")
        for _ in range(3):
            found_by.reset()
            for switch in switches:
                switch.phase += d.pick(0, 1)
            groups = drawn_groups(d, trunk, d.pick(1, 2, 3, 5), least).to(device)
            parameters = [p for p in model.parameters() if p.requires_grad]
            blocks = drawn_blocks(d, parameters)
            for step in range(3):
                for switch in switches:
                    switch.phase += d.pick(0, 1) if step == 2 else 0
                _compare_step(outcome, model, criterion, groups, parameters, blocks, found_by, expected_by)
                with torch.no_grad():
                    for p in parameters:
                        p.add_(0.01 * torch.randn_like(p))
            outcome.chosen.append(found_by.chosen)
    return outcome


def _compare_step(outcome, model, criterion, groups, parameters, blocks, found_by, expected_by) -> None:
    before = [buffer.clone() for buffer in model.buffers()]
    x, state = groups.x.clone(), _generators(groups.device)
    expected = expected_by(groups, model, criterion, parameters).dense()
    assert torch.equal(groups.x, x), "the loop has changed the memory"
    of_loop = [buffer.clone() for buffer in model.buffers()]
    with torch.no_grad():
        for buffer, value in zip(model.buffers(), before, strict=True):
            buffer.copy_(value)
    assert torch.equal(_generators(groups.device), state), "the loop has drawn"
    rows = found_by(groups, model, criterion, parameters)
    assert torch.equal(groups.x, x), "the memory has changed"
    assert torch.equal(_generators(groups.device), state), "the references have drawn"
    g = torch.randn(expected.shape[1], dtype=torch.float64).to(expected.device)
    K, b = gram(g, expected, blocks)
    v = torch.rand_like(b) * (torch.rand(len(b), 1) < 0.8).to(b.device)
    found_K, found_b = gram(g, rows, blocks)
    norms = expected.norm(dim=1)
    largest = norms.max().clamp(min=1e-6)
    scale = norms.clamp(min=1e-4 * float(largest))
    differences = (
        relative(rows.dense(), expected, scale.unsqueeze(1)),
        relative(found_K, K, scale.unsqueeze(1) * scale),
        relative(found_b, b, scale * g.norm()),
        relative(combine(g, rows, v, blocks), combine(g, expected, v, blocks), g.norm() + norms.sum()),
    )
    of_buffers = max(
        (
            relative(a.double(), b.double(), b.double().abs().max())
            for a, b in zip(model.buffers(), of_loop, strict=True)
        ),
        default=0.0,
    )
    outcome.difference = max(outcome.difference, *differences)
    outcome.of_buffers = max(outcome.of_buffers, of_buffers)
    what = f"{found_by.chosen} ({found_by.reason}), {groups.sizes}\n{model}"
    assert max(differences) <= 1e-9, f"rows, K, b, update: {differences} by {what}"
    assert of_buffers <= 1e-9, f"running statistics: {of_buffers} by {what}"


def _generators(device: torch.device) -> Tensor:
    """The states of torch's global generators."""
    states = [torch.get_rng_state()]
    return torch.cat(states if device.type == "cpu" else [*states, torch.cuda.get_rng_state(device)])


def main(arguments: list[str] | None = None) -> int:
    """Draws many models and tells how many agree."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--n", type=int, default=100, help="number of models (default: 100)")
    parser.add_argument("--first", type=int, default=0, help="seed of the first one (default: 0)")
    parser.add_argument("--device", default="cpu", help="where the models compute (default: cpu)")
    args = parser.parse_args(arguments)
    torch.set_num_threads(1)
    ways: Counter[str] = Counter()
    worst, failed = (0.0, 0.0), 0
    for seed in range(args.first, args.first + args.n):
        try:
            outcome = compare(seed, args.device)
        except Exception as error:
            failed += 1
            sys.stdout.write(f"seed {seed}: {type(error).__name__}: {error}\n")
            continue
        ways.update(
            {
                "always layer-wise"
                if set(outcome.chosen) == {"layerwise"}
                else "always in the loop"
                if set(outcome.chosen) == {"loop"}
                else "both ways"
            }
        )
        worst = max(worst[0], outcome.difference), max(worst[1], outcome.of_buffers)
    counted = ", ".join(f"{n} {way}" for way, n in sorted(ways.items()))
    sys.stdout.write(
        f"{args.n - failed} of {args.n} models agree ({counted}); largest relative difference "
        f"{worst[0]:.1e}, of running statistics {worst[1]:.1e}\n"
    )
    return int(failed > 0)


if __name__ == "__main__":
    raise SystemExit(main())
