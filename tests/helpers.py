"""Problems, benchmarks and models that several tests use."""

import re
import shlex
from collections import UserDict
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

import avalanche.benchmarks as ab
import torch
from avalanche.benchmarks.utils import _make_taskaware_tensor_classification_dataset as tensor_dataset
from avalanche.models import as_multitask
from avalanche.training.plugins import SupervisedPlugin
from sklearn.datasets import load_digits
from torch import Tensor, nn

from avalanche_mgem.data import LabelledTensors, preload
from avalanche_mgem.memory import MemoryGroups


def gradients(
    seed: int, K: int = 6, P: int = 40, *, conflict: float = 0.5, scale: float = 1.0
) -> tuple[Tensor, Tensor]:
    """A gradient g [P] and references G [K, P] in float64, of which some conflict with it."""
    generator = torch.Generator().manual_seed(seed)
    g = torch.randn(P, generator=generator, dtype=torch.float64)
    G = torch.randn(K, P, generator=generator, dtype=torch.float64) - conflict * g
    return scale * g, scale * G


def degenerate_duals(num_problems: int, seed: int) -> Iterator[tuple[Tensor, Tensor, float]]:
    """Gram matrices [m, K, K], products b [m, K] and gamma, of all the kinds that break solvers."""
    generator = torch.Generator().manual_seed(seed)

    def draw(low: float, high: float) -> float:
        return low + (high - low) * torch.rand((), generator=generator, dtype=torch.float64).item()

    for i in range(num_problems):
        K, m = (round(high ** draw(0, 1)) for high in (100, 64))  # log-uniform: the large ones are slow
        P = (1, 2, 5, 20, 100)[int(draw(0, 5))]
        G = torch.randn(m, K, P, generator=generator, dtype=torch.float64)
        half = K // 2
        kind = ("random", "duplicated", "zero", "opposite", "huge", "tiny", "mixed", "parallel")[i % 8]
        if kind == "duplicated" and half:
            G[:, half : 2 * half] = G[:, :half]
        elif kind == "zero":
            G[:, torch.rand(K, generator=generator) < 0.5] = 0
        elif kind == "opposite" and half:
            G[:, half : 2 * half] = -G[:, :half]
        elif kind == "huge":
            G *= 1e15
        elif kind == "tiny":
            G *= 1e-12
        elif kind == "mixed":
            G *= 10.0 ** (27 * torch.rand(m, K, 1, generator=generator, dtype=torch.float64) - 12)
        elif kind == "parallel":
            G = G[:, :1] + 10 ** draw(-12, 0) * G
        g = 10 ** draw(-3, 3) * torch.randn(m, P, 1, generator=generator, dtype=torch.float64)
        yield G @ G.mT, (G @ g).squeeze(-1), (0.0, 0.1, 0.5, 1.0)[int(draw(0, 4))]


def kkt_residual(K: Tensor, b: Tensor, gamma: float, v: Tensor) -> float:
    """Largest relative violation of the optimality conditions of the dual, without any ridge.

    The slope <g_k, z> and the length (v_k - gamma) ||g_k|| are measured against the lengths of the terms of
    z = g + sum_j v_j g_j: s = max_j |<g_j, g>| / ||g_j|| + sum_j v_j ||g_j||.
    """
    norms = K.diagonal(dim1=-2, dim2=-1).sqrt()
    nonzero = norms > 0  # a zero row constrains nothing
    lengths = torch.where(nonzero, b.abs() / norms.clamp(min=1e-300), 0.0)
    s = (lengths.amax(dim=-1, keepdim=True) + (norms * v).sum(dim=-1, keepdim=True)).clamp(min=1e-300)
    slope = ((K @ v.unsqueeze(-1)).squeeze(-1) + b) / (norms * s).clamp(min=1e-300)
    excess = (v - gamma) * norms / s
    slope, excess = slope[nonzero], excess[nonzero]
    if slope.numel() == 0:
        return 0.0
    infeasible = torch.maximum(-slope, -excess).max()
    return max(infeasible.item(), torch.minimum(slope, excess).abs().max().item())


_load_digits = cache(load_digits)  # it reads text, which takes longer than many a test


def digits(n_train: int = 500, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    """Real images of digits [n, 64] in 0..1 and their classes [n]."""
    data = _load_digits()
    order = torch.randperm(len(data.target), generator=torch.Generator().manual_seed(0))[:n_train]
    return torch.tensor(data.data, dtype=dtype)[order] / 16, torch.tensor(data.target)[order]


def split_digits(n_experiences: int = 5, *, task_labels: bool = False, n: int = 500, dtype=torch.float32):
    """An Avalanche benchmark with whole classes in each experience."""
    dataset = tensor_dataset(*digits(n, dtype))
    return ab.nc_benchmark(dataset, dataset, n_experiences, task_labels=task_labels, seed=0)


def labelled_digits(*, task_labels: bool = False, dtype=torch.float32):
    """That of ``split_digits(5)``, of a data set that ``preload`` knows."""
    dataset = LabelledTensors(*digits(dtype=dtype))
    return ab.nc_benchmark(dataset, dataset, 5, task_labels=task_labels, seed=0)


@cache
def fast_digits(*, task_labels: bool = False):
    """The same, preloaded: the minibatches are the same, and take a tenth of the time."""
    return preload(labelled_digits(task_labels=task_labels))


class MLP(nn.Module):
    """Two layers; the last is called ``classifier``."""

    def __init__(self, n_in: int = 64, n_hidden: int = 32, n_classes: int = 10):
        super().__init__()
        self.features = nn.Sequential(nn.Linear(n_in, n_hidden), nn.ReLU())
        self.classifier = nn.Linear(n_hidden, n_classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.features(x))


def mlp(seed: int = 0, *, multi_head: bool = False) -> nn.Module:
    """A small network with weights of its seed."""
    torch.manual_seed(seed)
    return as_multitask(MLP(n_classes=2), "classifier") if multi_head else MLP()


def strategy_arguments(model: nn.Module, lr: float = 0.1, **kwargs) -> dict:
    """What every strategy needs; no output and no metrics."""
    return {
        "model": model,
        "optimizer": torch.optim.SGD(model.parameters(), lr=lr),
        "criterion": nn.CrossEntropyLoss(),
        "train_mb_size": 10,
        "evaluator": None,
        **kwargs,
    }


def is_equal(a: object, b: object) -> bool:
    """Equality of large lists. Without it pytest explains thousands of differences, for minutes."""
    return a == b


def parameters_of(model: nn.Module) -> Tensor:
    """All parameters in one vector."""
    return torch.cat([p.detach().flatten() for p in model.parameters()])


class Probe(SupervisedPlugin):
    """Calls a function with the strategy in a hook of one's choice, and keeps what it returns."""

    def __init__(self, hook: str, function):
        super().__init__()
        self.seen: list = []
        setattr(self, hook, lambda strategy, **kwargs: self.seen.append(function(strategy)))


@dataclass
class Output:
    """What a model of Hugging Face returns: a dataclass of tensors, of which some are missing."""

    loss: Tensor | None = None
    logits: Tensor | None = None


class Tagger(nn.Module):
    """Called as a model of Hugging Face: by keywords, with its loss where labels are given."""

    def __init__(self, n_tokens: int = 12, n_classes: int = 3):
        super().__init__()
        self.tokens = nn.Embedding(n_tokens, 8)
        self.hidden = nn.Linear(8, 8)
        self.classifier = nn.Linear(8, n_classes)

    def forward(self, input_ids, attention_mask, labels=None) -> Output:
        mask = attention_mask.unsqueeze(-1).to(self.hidden.weight.dtype)
        hidden = torch.tanh(self.hidden(self.tokens(input_ids))) * mask
        logits = self.classifier(hidden.sum(dim=1) / mask.sum(dim=1))
        return Output(None if labels is None else nn.functional.cross_entropy(logits, labels), logits)


def padded(samples: list[dict]) -> UserDict:
    """A batch as Hugging Face's collators make it, as long as its longest sample."""
    ids = [sample["input_ids"] for sample in samples]
    mask = [torch.ones_like(one) for one in ids]
    return UserDict(
        input_ids=nn.utils.rnn.pad_sequence(ids, batch_first=True),
        attention_mask=nn.utils.rnn.pad_sequence(mask, batch_first=True),
        labels=torch.tensor([sample["labels"] for sample in samples]),
    )


def sentences(n: int, longest: int, seed: int = 0) -> list[dict]:
    """Samples of tokens and a class, of 2 to ``longest`` tokens."""
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(2, longest + 1, (n,), generator=generator).tolist()
    ids = [torch.randint(1, 12, (length,), generator=generator) for length in lengths]
    return [{"input_ids": one, "labels": int(one.sum()) % 3} for one in ids]


def memory_groups(x: Tensor, y: Tensor, sizes, task_labels: Tensor | None = None) -> MemoryGroups:
    """Memory groups of these sizes, each of an experience of its own."""
    tasks: tuple[int | None, ...] = (None,) * len(sizes)
    if task_labels is not None:
        found = [part.unique().tolist() for part in task_labels.split(list(sizes))]
        tasks = tuple(labels[0] if len(labels) == 1 else None for labels in found)
    origins = tuple((k, 0) for k in range(len(sizes)))
    return MemoryGroups(x, y, task_labels, tuple(sizes), origins, tasks)


def help_examples(out: str, end: str) -> list[list[str]]:
    """The words of each example of a ``--help``, with the name of the program, up to the words of the end."""
    block = out.partition("Examples:\n")[2].partition(end)[0].replace("\\\n", " ")
    lines = [line for line in block.splitlines() if line.strip().startswith("mgem")]
    return [shlex.split(re.split(r"\s{3,}(?=[^\s=]+ )", line.strip())[0]) for line in lines]
