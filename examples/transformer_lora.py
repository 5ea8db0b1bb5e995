"""d-mGEM on a transformer with a frozen base and LoRA adapters, task by task, in a plain PyTorch loop.

A text is one of scikit-learn's digits: its tokens are the places of the bright pixels, so texts differ in
length. Each task brings two new digits, and asks which one is odd. Batches are dictionaries with
``input_ids`` and ``attention_mask``, and the model returns an object with ``logits``. The models of Hugging
Face do the same. With one of theirs, only ``make_model`` changes.

The base first learns which tokens a text has, and is then frozen. The tasks train the classifier and the
adapters, which are low-rank matrices beside the projections of the attention. So the gradients that are
projected have few coordinates, and constraints cost little.

Run it with ``python examples/transformer_lora.py``. It needs no download and takes under a minute.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn.functional import (
    binary_cross_entropy_with_logits,
    cross_entropy,
    scaled_dot_product_attention,
)
from torch.utils.data import DataLoader

from avalanche_mgem import Projector

Text = dict[str, Tensor]
Batch = dict[str, Tensor]


@dataclass
class Output:
    """What the model returns."""

    logits: Tensor


class LoRALinear(nn.Module):
    """A linear layer, and a low-rank one beside it that adds nothing at first."""

    def __init__(self, width: int, rank: int = 4):
        super().__init__()
        self.base = nn.Linear(width, width)
        self.down = nn.Linear(width, rank, bias=False)
        self.up = nn.Linear(rank, width, bias=False)
        nn.init.zeros_(self.up.weight)

    def forward(self, x: Tensor) -> Tensor:
        """The sum of the two."""
        y: Tensor = self.base(x) + self.up(self.down(x))
        return y


class Block(nn.Module):
    """Attention and a layer of neurons, each beside a shortcut."""

    def __init__(self, width: int, heads: int = 2):
        super().__init__()
        self.heads = heads
        self.query, self.key, self.value = (LoRALinear(width) for _ in range(3))
        self.out = nn.Linear(width, width)
        self.norm, self.norm_after = nn.LayerNorm(width), nn.LayerNorm(width)
        self.neurons = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))

    def forward(self, x: Tensor, attention_mask: Tensor) -> Tensor:
        """From ``[n, tokens, width]`` to the same; the mask ``[n, tokens]`` is 0 where there is no token."""
        normed = self.norm(x)
        q, k, v = (
            layer(normed).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for layer in (self.query, self.key, self.value)
        )
        attended = scaled_dot_product_attention(q, k, v, attn_mask=attention_mask[:, None, None].bool())
        x = x + self.out(attended.transpose(1, 2).flatten(2))
        y: Tensor = x + self.neurons(self.norm_after(x))
        return y


class Transformer(nn.Module):
    """A small encoder with a class for each text."""

    def __init__(self, n_tokens: int, n_classes: int, width: int = 32, depth: int = 2, longest: int = 64):
        super().__init__()
        self.tokens, self.places = nn.Embedding(n_tokens, width), nn.Embedding(longest, width)
        self.blocks = nn.ModuleList(Block(width) for _ in range(depth))
        self.norm = nn.LayerNorm(width)
        self.classifier = nn.Linear(width, n_classes)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Output:
        """The classes' scores for tokens and their mask, both ``[n, tokens]``."""
        x = self.tokens(input_ids) + self.places(torch.arange(input_ids.shape[1], device=input_ids.device))
        for block in self.blocks:
            x = block(x, attention_mask)
        mask = attention_mask.unsqueeze(-1).to(x.dtype)
        mean = (self.norm(x) * mask).sum(dim=1) / mask.sum(dim=1)
        return Output(self.classifier(mean))

    def freeze_base(self) -> None:
        """Leaves the adapters and the classifier to train."""
        for name, p in self.named_parameters():
            p.requires_grad_(".up." in name or ".down." in name or name.startswith("classifier"))


def texts() -> list[tuple[Text, int]]:
    """Every digit as the places of its bright pixels, with its number."""
    images, classes = load_digits(return_X_y=True)
    found = []
    for image, label in zip(images, classes, strict=True):
        ids = torch.tensor([place + 1 for place, light in enumerate(image) if light >= 8])
        found.append(({"input_ids": ids, "attention_mask": torch.ones_like(ids)}, int(label)))
    return found


def tasks_of(samples: list[tuple[Text, int]], n_tasks: int = 5) -> list[list[tuple[Text, int]]]:
    """A task for each pair of digits, whose classes are even and odd."""
    return [
        [(text, digit % 2) for text, digit in samples if digit // 2 == number] for number in range(n_tasks)
    ]


def collate(samples: list[tuple[Text, int]]) -> tuple[Batch, Tensor]:
    """Inputs and targets of a batch, as long as its longest text."""
    batch = {
        key: nn.utils.rnn.pad_sequence([text[key] for text, _ in samples], batch_first=True)
        for key in ("input_ids", "attention_mask")
    }
    return batch, torch.tensor([label for _, label in samples])


def criterion(output: Output, y: Tensor) -> Tensor:
    """The cross-entropy of what the model returns."""
    return cross_entropy(output.logits, y)


def batches(samples: list[tuple[Text, int]], seed: int) -> Iterable[tuple[Batch, Tensor]]:
    """Minibatches in random order."""
    shuffle = torch.Generator().manual_seed(seed)
    return DataLoader(samples, batch_size=16, shuffle=True, generator=shuffle, collate_fn=collate)


def make_model(samples: list[tuple[Text, int]], epochs: int = 4) -> Transformer:
    """A model whose base has learnt which tokens a text has, and is frozen."""
    torch.manual_seed(0)
    model = Transformer(n_tokens=65, n_classes=65)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.003)
    for epoch in range(epochs):
        for x, _ in batches(samples, seed=epoch):
            optimizer.zero_grad()
            present = torch.zeros(len(x["input_ids"]), 65).scatter(1, x["input_ids"], 1.0)
            binary_cross_entropy_with_logits(model(**x).logits, present).backward()
            optimizer.step()
    model.classifier = nn.Linear(model.classifier.in_features, 2)
    model.freeze_base()
    return model


def train(
    model: Transformer, tasks: list[list[tuple[Text, int]]], *, epochs: int = 2, patterns_per_task: int = 48
) -> tuple[list[list[float]], list[float]]:
    """Trains on one task after another.

    Returns:
        the accuracies on all tasks after each one, and of each constrained step the worst cosine of the
        update with the gradient of a past group, which is zero or more up to rounding.
    """
    trainable = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(trainable, lr=0.1)
    mgem = Projector(
        model,
        criterion,
        patterns_per_task=patterns_per_task,
        memory_strength=0.1,
        num_groups=2,
        seed=0,
        forward=lambda x, task_labels: model(**x),
        collate_fn=collate,
    )
    mgem.check(tasks[0])  # says now what would stop the second task
    mgem.keeps_last_step = True
    accuracies, cosines = [], []
    for task in tasks:
        for epoch in range(epochs):
            for x, y in batches(task, seed=epoch):
                optimizer.zero_grad()
                criterion(model(**x), y).backward()
                mgem.project()  # reference gradients at these weights, then the update into .grad
                optimizer.step()
                if mgem.last_step is not None:
                    cosines.append(float(mgem.last_step.report.cosine_worst))
        mgem.remember(task)
        accuracies.append([accuracy(model, one) for one in tasks])
    return accuracies, cosines


@torch.no_grad()
def accuracy(model: Transformer, samples: list[tuple[Text, int]]) -> float:
    """Share of the texts that the model gets right."""
    x, y = collate(samples)
    return float((model(**x).logits.argmax(dim=1) == y).float().mean())


def main() -> None:
    """Prints a row of accuracies for each trained task, and the worst conflict of all steps."""
    samples = texts()
    model = make_model(samples)
    accuracies, cosines = train(model, tasks_of(samples))
    for number, row in enumerate(accuracies):
        print(f"after task {number}: " + " ".join(f"{value:.3f}" for value in row))
    print(f"worst cosine of an update with a past group's gradient: {min(cosines):.1e}")


if __name__ == "__main__":
    main()
