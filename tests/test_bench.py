"""The harness of ``make bench`` works at tiny sizes; what it measures is not judged here."""

import json
import re
from pathlib import Path

import pytest
import torch
from torch import nn

from avalanche_mgem.functional import project
from avalanche_mgem.memory import MemoryGroups
from avalanche_mgem.references._loop import loop
from bench import cli, record, report
from bench.bare import bare_step
from bench.row import Agreement, Measured, Row

ROW = Row("made_up", "this", "that", at_least=True, floor=2.0, goal=4.0, measure=lambda options: MEASURED[-1])
MEASURED: list[Measured] = []


@pytest.fixture
def page(tmp_path, monkeypatch):
    """A page with one made-up row, apart from the real one."""
    monkeypatch.setattr(record, "FOLDER", tmp_path / "performance")
    monkeypatch.setattr(report, "PAGE", tmp_path / "performance.md")
    for module in (cli, record):
        monkeypatch.setattr(module, "ROWS", (ROW,), raising=False)
    report.PAGE.write_text(f"by hand\n{report.BEGIN}\nold\n{report.END}\nafterwards\n")
    return report.PAGE


def test_rows_of_the_real_harness_run_and_agree_with_stock(capsys):
    names = ("experiment_permuted_mnist", "experiment_split_cifar100", "references", "g_to_z")
    before = sorted(record.FOLDER.glob("*"))
    assert cli.main(["--quick", "--threads", "1", "--only", *names]) == 0
    shown = capsys.readouterr()
    assert all(name in shown.out for name in names)
    assert shown.err.count("differ by") == 4  # each has been compared with stock
    assert sorted(record.FOLDER.glob("*")) == before


@pytest.mark.parametrize(
    ("seconds", "agrees", "status", "words"),
    [(1.0, True, 0, "goal met"), (2.0, True, 0, "floor met"), (5.0, True, 1, "floor missed"),
     (1.0, False, 1, "results disagree")],
)  # fmt: skip
def test_floors_and_agreement_decide_the_status_and_stand_on_the_page(page, seconds, agrees, status, words):
    MEASURED.append(Measured([seconds] * 3, [5.0, 5.0, 5.0], Agreement(agrees, "they were compared"), {}))
    assert cli.main(["--threads", "1"]) == status
    text = page.read_text()
    assert words in text
    assert text.startswith("by hand\n")
    assert text.endswith("afterwards\n")
    assert "old" not in text
    kept = json.loads((record.FOLDER / "made_up.json").read_text())
    assert kept["ratio"] == pytest.approx(5.0 / seconds)


def test_a_misspelt_row_is_named_with_the_right_one(capsys):
    assert cli.main(["--only", "g_to_x"]) == 2
    assert re.search(r"no row 'g_to_x'; did you mean 'g_to_z'", capsys.readouterr().err)


def test_missing_data_is_an_error_that_names_the_file(tmp_path, capsys):
    assert cli.main(["--threads", "1", "--only", "references", "--dataset-root", str(tmp_path)]) == 2
    assert str(Path("MNIST", "raw")) in capsys.readouterr().err


def test_the_bare_step_computes_the_update():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3))
    x, y = torch.randn(12, 8), torch.randint(3, (12,))
    whole = MemoryGroups(x, y, None, (3, 4, 5), ((0, 0), (1, 0), (2, 0)), (None,) * 3)
    parameters = list(model.parameters())
    G = loop(whole, model, lambda x, _: model(x), nn.CrossEntropyLoss(), parameters)
    g = -G.sum(dim=0)
    z = bare_step(model, whole, g, memory_strength=0.5)()
    torch.testing.assert_close(z, project(g, G, memory_strength=0.5), rtol=1e-4, atol=1e-5)
