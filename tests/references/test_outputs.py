"""Inputs and outputs of every form, and models that run as a whole: the gradients are those of the loop."""

from collections import UserDict, namedtuple
from dataclasses import dataclass

import pytest
import torch
from helpers import Output, Tagger, padded, sentences
from torch import nn
from torch.utils.checkpoint import checkpoint

from avalanche_mgem.memory import EpisodicMemory, MemoryGroups
from avalanche_mgem.references import ReferenceComputer

Two = namedtuple("Two", ["a", "b"])
SIZES = (5, 4, 3)
ORIGINS = ((0, 0), (1, 0), (2, 0))
N = sum(SIZES)


@dataclass
class Inputs:
    a: torch.Tensor
    b: torch.Tensor


class Double(nn.Module):
    """Double precision, two inputs, and an output of any form."""

    def __init__(self, unpack=None, wrap=lambda z: z):
        super().__init__()
        self.unpack, self.wrap = unpack, wrap
        self.hidden, self.last = nn.Linear(6, 5), nn.Linear(5, 3)
        self.double()

    def forward(self, x):
        x = torch.cat(self.unpack(x), dim=1) if self.unpack else x
        return self.wrap(self.last(torch.tanh(self.hidden(x))))


def samples():
    x, y = torch.randn(N, 6, dtype=torch.float64), torch.randint(0, 3, (N,))
    return x, y


def groups(x, y):
    return MemoryGroups(x, y, None, SIZES, ORIGINS, (None,) * 3)


def rows(backend, of, model, criterion, forward=None):
    computer = ReferenceComputer(backend)
    found = computer(of, model, criterion, list(model.parameters()), forward).dense()
    return found, computer


INPUTS = {
    "dict": (lambda a, b: {"a": a, "b": b}, lambda x: (x["a"], x["b"])),
    "user dict": (lambda a, b: UserDict(a=a, b=b), lambda x: (x["a"], x["b"])),
    "tuple": (lambda a, b: (a, b), tuple),
    "list": (lambda a, b: [a, [b, None]], lambda x: (x[0], x[1][0])),
    "named tuple": (Two, lambda x: (x.a, x.b)),
    "dataclass": (Inputs, lambda x: (x.a, x.b)),
}


@pytest.mark.parametrize("backend", ["loop", "layerwise", "auto"])
@pytest.mark.parametrize("form", INPUTS)
def test_inputs_of_any_form_have_the_gradients_of_one_tensor(form, backend):
    pack, unpack = INPUTS[form]
    model, (x, y) = Double(), samples()
    expected, _ = rows("loop", groups(x, y), model, nn.CrossEntropyLoss())
    model.unpack = unpack
    found, _ = rows(backend, groups(pack(x[:, :2], x[:, 2:]), y), model, nn.CrossEntropyLoss())
    torch.testing.assert_close(found, expected)


OUTPUTS = {
    "tuple": (lambda z: (z, None), lambda out, y: nn.functional.cross_entropy(out[0], y)),
    "dict": (lambda z: {"logits": z}, lambda out, y: nn.functional.cross_entropy(out["logits"], y)),
    "dataclass": (
        lambda z: Output(z.mean(), z),
        lambda out, y: nn.functional.cross_entropy(out.logits, y),
    ),
    "named tuple": (Two, None),
}
OUTPUTS["named tuple"] = (
    lambda z: Two(z, {"scale": torch.tensor(2.0)}),
    lambda out, y: out.b["scale"] * nn.functional.cross_entropy(out.a, y),
)


@pytest.mark.parametrize("form", OUTPUTS)
def test_outputs_of_any_form_go_layer_by_layer(form):
    wrap, criterion = OUTPUTS[form]
    model, (x, y) = Double(wrap=wrap), samples()
    expected, _ = rows("loop", groups(x, y), model, criterion)
    found, computer = rows("auto", groups(x, y), model, criterion)
    assert computer.chosen == "layerwise", computer.reason
    torch.testing.assert_close(found, expected)


def test_targets_of_any_form():
    model, (x, y) = Double(), samples()
    weights = torch.rand(N, dtype=torch.float64)

    def weighted(output, targets):
        losses = nn.functional.cross_entropy(output, targets["y"], reduction="none")
        return (losses * targets["weight"]).mean()

    targets = {"y": y, "weight": weights}
    expected, _ = rows("loop", groups(x, targets), model, weighted)
    found, computer = rows("auto", groups(x, targets), model, weighted)
    assert computer.chosen == "layerwise", computer.reason
    torch.testing.assert_close(found, expected)


class Custom:
    """An output of which nobody knows what it holds."""

    def __init__(self, logits):
        self.logits = logits


@pytest.mark.parametrize("sizes", [SIZES, (4, 4, 4)])
@pytest.mark.parametrize("weight", [1.0, 1e-4])
def test_a_loss_of_all_samples_at_once_takes_the_loop(sizes, weight):
    # The mean over equal groups is the mean of their means, so only the gradient of NaN tells.
    model, (x, y) = Double(wrap=lambda z: Output(z.square().mean(), z)), samples()
    criterion = lambda out, y: nn.functional.cross_entropy(out.logits, y) + weight * out.loss  # noqa: E731
    of = MemoryGroups(x, y, None, sizes, ORIGINS, (None,) * 3)
    expected, _ = rows("loop", of, model, criterion)
    found, computer = rows("auto", of, model, criterion)
    assert computer.chosen == "loop"
    assert computer.reason
    torch.testing.assert_close(found, expected)
    with pytest.raises(ValueError, match="references='layerwise' does not fit this model: the gradients of"):
        rows("layerwise", of, model, criterion)


def test_an_output_that_nobody_knows_takes_the_loop_with_its_reason():
    model, (x, y) = Double(wrap=Custom), samples()
    criterion = lambda out, y: nn.functional.cross_entropy(out.logits, y)  # noqa: E731
    expected, _ = rows("loop", groups(x, y), model, criterion)
    found, computer = rows("auto", groups(x, y), model, criterion)
    assert computer.reason == "the model's output is a Custom"
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("backend", ["loop", "layerwise", "auto"])
def test_samples_that_differ_in_length_from_experience_to_experience(backend):
    def collate(samples):
        batch = padded(samples)
        return batch, batch.pop("labels")

    model = Tagger().double()
    memory = EpisodicMemory(6, 2, seed=0, collate_fn=collate)
    for number, longest in enumerate((4, 9, 9, 3)):
        memory.remember(sentences(20, longest, seed=number))
    of = memory.groups()
    lengths = [group.x["input_ids"].shape[1] for group in of]
    assert len(set(lengths)) == 3
    forward = lambda x, task_labels: model(**x)  # noqa: E731
    criterion = lambda out, y: nn.functional.cross_entropy(out.logits, y)  # noqa: E731
    found, computer = rows(backend, of, model, criterion, forward)
    assert computer.chosen in (backend, "layerwise")
    for row, group in zip(found, of, strict=True):
        model.zero_grad()
        criterion(model(**group.x), group.y).backward()
        own = torch.cat([p.grad.flatten() for p in model.parameters()])
        torch.testing.assert_close(row, own)


class Unrolled(nn.Module):
    """A recurrent cell, step by step."""

    def __init__(self, cell):
        super().__init__()
        self.cell, self.last = cell(3, 5), nn.Linear(5, 3)

    def forward(self, x):
        state = None
        for step in x.unflatten(1, (2, 3)).unbind(dim=1):
            state = self.cell(step, state)
        return self.last(state[0] if isinstance(state, tuple) else state)


class Checkpointed(nn.Module):
    """Recomputes its second layer in the backward pass."""

    def __init__(self, use_reentrant):
        super().__init__()
        self.use_reentrant = use_reentrant
        self.first, self.second, self.last = nn.Linear(6, 5), nn.Linear(5, 5), nn.Linear(5, 3)

    def block(self, x):
        return torch.tanh(self.second(x))

    def forward(self, x):
        x = checkpoint(self.block, torch.tanh(self.first(x)), use_reentrant=self.use_reentrant)
        return self.last(x)


def sequential():
    return nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Dropout(0.5), nn.BatchNorm1d(5), nn.Linear(5, 3))


WHOLE = {
    "LSTMCell": lambda: Unrolled(nn.LSTMCell),
    "GRUCell": lambda: Unrolled(nn.GRUCell),
    "RNNCell": lambda: Unrolled(nn.RNNCell),
    "checkpoint": lambda: Checkpointed(False),
    "re-entrant checkpoint": lambda: Checkpointed(True),
}


@pytest.mark.parametrize("backend", ["loop", "auto"])
@pytest.mark.parametrize("name", WHOLE)
def test_models_that_run_as_a_whole(name, backend):
    model, (x, y) = WHOLE[name]().double(), samples()
    criterion = nn.CrossEntropyLoss()
    for p in model.parameters():
        p.grad = torch.ones_like(p)
    found, computer = rows(backend, groups(x, y), model, criterion)
    again, _ = rows(backend, groups(x, y), model, criterion)
    assert torch.equal(found, again)
    assert all((p.grad == 1).all() for p in model.parameters())  # the user's stay
    if name == "re-entrant checkpoint" or "Cell" in name:
        assert computer.chosen == "loop"
    for row, group in zip(found, groups(x, y), strict=True):
        model.zero_grad()
        criterion(model(group.x), group.y).backward()
        torch.testing.assert_close(row, torch.cat([p.grad.flatten() for p in model.parameters()]))


def test_a_hook_that_may_change_the_model_is_refused_where_backward_has_to_run():
    model, (x, y) = Checkpointed(True).double(), samples()
    model.last.weight.register_post_accumulate_grad_hook(lambda p: None)
    with pytest.raises(ValueError, match="set use_reentrant=False"):
        rows("loop", groups(x, y), model, nn.CrossEntropyLoss())


@pytest.mark.filterwarnings("ignore:.torch.jit:FutureWarning")
@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")  # BatchNorm looks at the size of its batch
@pytest.mark.parametrize("backend", ["loop", "auto"])
@pytest.mark.parametrize("compiled", ["script", "trace"])
def test_torchscript_models(compiled, backend):
    model, (x, y) = sequential().double(), samples()
    model[2].p = 0.0
    expected, _ = rows("loop", groups(x, y), model, nn.CrossEntropyLoss())
    made = torch.jit.script(model) if compiled == "script" else torch.jit.trace(model, x)
    found, computer = rows(backend, groups(x, y), made, nn.CrossEntropyLoss())
    assert computer.chosen == "loop"
    torch.testing.assert_close(found, expected)


@pytest.mark.filterwarnings("ignore:.torch.jit:FutureWarning")
def test_layers_of_a_scripted_model_follow_the_policies():
    model, (x, y) = sequential().double(), samples()
    made = torch.jit.script(model)
    for policy in ("update", "running"):
        results = []
        for one in (model, made):
            computer = ReferenceComputer("loop", batchnorm=policy)
            results.append(computer(groups(x, y), one, nn.CrossEntropyLoss(), list(one.parameters())).dense())
        torch.testing.assert_close(*results)
        assert made.training
        assert all(layer.training for layer in made.modules())
