"""The blocks of the documentation run."""

import re
from pathlib import Path

import avalanche.benchmarks as ab
import torch
from avalanche.benchmarks.utils import AvalancheDataset
from avalanche.training import Naive
from helpers import MLP, Tagger, digits, sentences, split_digits
from torch.utils.data import DataLoader, TensorDataset

from avalanche_mgem import DMGEMPlugin, Projector

DOCS = Path(__file__).parents[1] / "docs"


def recipes() -> list[str]:
    return re.findall(r"```python\n(.*?)```", (DOCS / "training.md").read_text(), flags=re.DOTALL)


def test_the_recipes_of_the_training_page_for_batches_run():
    plain, avalanche, *_ = recipes()
    model = Tagger()
    names = {
        "torch": torch, "DataLoader": DataLoader, "Naive": Naive,
        "Projector": Projector, "DMGEMPlugin": DMGEMPlugin,
        "pad_sequence": torch.nn.utils.rnn.pad_sequence, "cross_entropy": torch.nn.functional.cross_entropy,
        "model": model, "optimizer": torch.optim.SGD(model.parameters(), lr=0.1),
        "tasks": [sentences(12, 5), sentences(12, 7, seed=1)],
    }  # fmt: skip
    exec(plain, names)
    assert len(names["mgem"].memory) == 2
    exec(avalanche, names)
    datasets = [AvalancheDataset([sentences(12, longest)]) for longest in (5, 7)]
    for experience in ab.benchmark_from_datasets(train=datasets).train_stream:
        names["strategy"].train(experience)
    assert len(DMGEMPlugin.of(names["strategy"]).memory) == 2
    assert all(torch.isfinite(p).all() for p in model.parameters())


def test_the_recipes_of_the_training_page_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    _, _, plain, avalanche, goes_on = recipes()
    x, y = digits(60)
    model = MLP()
    names = {
        "torch": torch, "DataLoader": DataLoader, "Naive": Naive,
        "Projector": Projector, "DMGEMPlugin": DMGEMPlugin,
        "model": model, "optimizer": torch.optim.SGD(model.parameters(), lr=0.1),
        "criterion": torch.nn.CrossEntropyLoss(), "device": "cpu",
        "tasks": [TensorDataset(x[:30], y[:30]), TensorDataset(x[30:], y[30:])],
    }  # fmt: skip
    exec(plain, names)
    assert len(names["mgem"].memory) == 2
    exec(avalanche, names)
    for experience in list(split_digits(5).train_stream)[:2]:
        names["strategy"].train(experience)
    assert len(DMGEMPlugin.of(names["strategy"]).memory) == 2
    assert all(torch.isfinite(p).all() for p in model.parameters())
    names["benchmark"] = split_digits(5)
    for _ in range(2):  # the second time there is nothing left to do
        exec(goes_on, names)
        assert names["strategy"].clock.train_exp_counter == 2 + 5


def test_every_test_that_the_page_on_reliability_names_is_there():
    faults = (DOCS / "reliability.md").read_text().partition("\n## Long checks")[0]
    rows = re.findall(r"^\| (?!fault|---)(.*) \|$", faults, flags=re.MULTILINE)
    assert len(rows) > 30
    for row in rows:
        fault, _, test = row.rsplit(" | ", maxsplit=2)
        file, name = re.fullmatch(r"`(tests/[\w/]+\.py)::(test_\w+)`", test).groups()
        assert re.search(rf"^def {name}\(", (DOCS.parent / file).read_text(), flags=re.MULTILINE), fault


def test_no_shell_takes_a_word_of_the_pages_for_a_pattern():
    """zsh refuses an unquoted ``logger=[a,b]``, which it takes for names of files."""
    pages = [DOCS.parent / "README.md", *DOCS.rglob("*.md"), *(DOCS.parent / "configs").rglob("*.yaml")]
    found = []
    for page in pages:
        text = re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)
        shown = re.findall(r"^ {4,}(?:.*\bmgem|\w\S*=).*", text, flags=re.MULTILINE)
        shown += re.findall(r"`([^`\n]*=[^`\n]*)`", text)
        for line in shown:
            bare = re.sub(r"'[^']*'|\"[^\"]*\"|\s#.*", "", line)
            found += re.findall(r"(?:^|\s)(?:[+\w.]+=\S*[\[({*?]\S*|~\w\S*)", bare)
    assert found == []
