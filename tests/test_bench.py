"""The harness of ``make bench`` works at tiny sizes; what it measures is not judged here."""

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn
from torchvision.datasets import MNIST

from avalanche_mgem.functional import project
from avalanche_mgem.memory import MemoryGroups
from avalanche_mgem.references._loop import loop
from bench import cli, floor, record, report
from bench.bare import bare_step
from bench.progress import Reporter
from bench.row import Agreement, Measured, Options, Row
from bench.rows import ROWS, experiments

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


@pytest.mark.slow
def test_rows_of_the_real_harness_run_and_agree_with_stock(capsys):
    compared = ("experiment_permuted_mnist", "experiment_split_cifar100", "references", "g_to_z")
    others = ("drop_in", "floor_train", "floor_test", "build", "small_step")
    before = sorted(record.FOLDER.glob("*"))
    assert cli.main(["--quick", "--threads", "1", "--only", *compared, *others]) == 0
    shown = capsys.readouterr()
    assert all(name in shown.out for name in (*compared, *others))
    assert all(f"{name}: " in shown.err for name in (*compared, *others))
    for name in compared:
        assert re.search(rf"^{name}: .*differ by", shown.err, flags=re.MULTILINE)
    assert sorted(record.FOLDER.glob("*")) == before


@pytest.mark.slow
def test_rows_that_share_a_run_of_stock_or_start_processes(capsys, monkeypatch):
    runs_of_stock = []
    train_and_test = experiments._train_and_test
    monkeypatch.setattr(
        experiments, "_train_and_test", lambda *args: runs_of_stock.append(0) or train_and_test(*args)
    )
    names = ("experiment_permuted_mnist", "experiment_permuted_mnist_64", "sweep_throughput")
    assert cli.main(["--quick", "--only", *names]) == 0
    assert "2 of 2 accuracy matrices are equal" in capsys.readouterr().err
    assert len(runs_of_stock) == 1


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


def test_a_record_is_judged_by_the_goal_that_its_row_has_today(page, monkeypatch):
    MEASURED.append(Measured([1.0], [5.0], None, {}))
    assert cli.main([]) == 0
    assert "goal met" in page.read_text()
    monkeypatch.setattr(cli, "ROWS", (replace(ROW, goal=6.0),))
    assert cli.main(["--tables"]) == 0
    assert "floor met" in page.read_text()
    assert "goal met" not in page.read_text()


def test_a_row_has_its_own_threads_or_those_of_the_command_line(page, monkeypatch):
    seen = {}

    def measure(name):
        def measured(options: Options) -> Measured:
            seen[name] = torch.get_num_threads()
            return Measured([1.0], [5.0], None, {})

        return measured

    rows = [replace(ROW, name=name, measure=measure(name)) for name in ("first", "alone", "last")]
    rows[1] = replace(rows[1], threads=1)
    monkeypatch.setattr(cli, "ROWS", rows)
    assert cli.main(["--threads", "3"]) == 0
    assert seen == {"first": 3, "alone": 1, "last": 3}
    kept = {row.name: json.loads((record.FOLDER / f"{row.name}.json").read_text()) for row in rows}
    assert {name: found["threads"]["torch"] for name, found in kept.items()} == seen
    assert "- `alone`: " in page.read_text()  # with its machine and threads, apart from the others


def test_rows_of_a_gpu_are_left_out_where_there_is_none(page, monkeypatch, capsys):
    MEASURED.append(Measured([1.0], [5.0], None, {}))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(cli, "ROWS", (ROW, replace(ROW, name="on_gpu", device="cuda")))
    assert cli.main([]) == 0
    assert [path.name for path in record.FOLDER.glob("*")] == ["made_up.json"]
    assert cli.main(["--only", "on_gpu"]) == 2
    assert "the row on_gpu needs a GPU with CUDA" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("row", [row for row in ROWS if row.device != "cpu" and not row.name.endswith("_99")])
def test_rows_of_a_gpu_run_on_a_cpu_too(row):
    with Reporter() as progress:
        measured = row.measure(Options(Path(), 0, True, progress))
    assert measured.agreement is None or measured.agreement.ok


def test_who_reaches_a_goal_is_on_the_right_side_of_the_floor():
    assert [row.name for row in ROWS if not row.meets(row.goal, row.floor)] == []


def test_rows_with_one_thread_say_so():
    assert {row.name for row in ROWS if row.threads} == {
        "floor_train", "floor_test", "build", "small_step", "sweep_throughput"
    }  # fmt: skip
    assert all("one thread" in row.what for row in ROWS if row.threads)


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


def test_the_floor_reads_mnist_and_permutes_it_once_an_experience(mnist_root):
    sizes = floor.Sizes(n_experiences=2, samples_per_experience=7)
    images = floor.read_mnist(mnist_root)
    for (x, y), train in ((images.train, True), (images.test, False)):
        expected = MNIST(mnist_root, train=train)
        assert torch.equal(x, expected.data.flatten(1))
        assert torch.equal(y, expected.targets)
    found = floor.build(images, sizes, seed=0)
    assert [x.shape for x, _ in found.train] == [(7, 784)] * 2
    plain = images.test[0] / 255
    for x, y in found.test:
        assert not torch.equal(x, (plain - floor.MEAN) / floor.STD)
        assert torch.equal(y, images.test[1])
        restored = x * floor.STD + floor.MEAN  # the pixels of an image, in another order
        torch.testing.assert_close(restored.sort(dim=1).values, plain.sort(dim=1).values)
    assert not torch.equal(found.test[0][0], found.test[1][0])


def test_a_step_of_the_floor_sees_the_minibatch_and_all_memories():
    seen = []
    model = nn.Linear(4, 3)
    model.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].clone()))
    x, past = torch.randn(7, 4), [(torch.randn(n, 4), torch.zeros(n, dtype=torch.long)) for n in (5, 2)]
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    before = model.weight.clone()
    generator = torch.Generator().manual_seed(0)
    floor.train(model, optimizer, (x, torch.ones(7, dtype=torch.long)), past, 3, generator)
    assert not torch.equal(model.weight, before)
    assert [len(batch) for batch in seen] == [7 + 3, 7 + 3, 7 + 1]
    memory = torch.cat([kept for kept, _ in past])
    assert all(torch.equal(batch[:7], memory) for batch in seen)
    trained = torch.cat([batch[7:] for batch in seen])
    assert torch.equal(trained.sort(dim=0).values, x.sort(dim=0).values)  # each sample once


def test_the_floor_learns_what_it_is_given_and_adds_up_its_seconds():
    y = torch.arange(40) % 2
    x = torch.where(y[:, None] == 1, 255, 0).to(torch.uint8).expand(-1, 6)
    x = torch.cat([x[:, :3], 255 - x[:, 3:]], dim=1)
    sizes = floor.Sizes(3, 40, 10, train_mb_size=4, eval_mb_size=16, hidden_size=20)
    found = floor.run(lambda: floor.Images((x, y), (x, y)), sizes, lr=0.1, seed=0)
    assert [len(row) for row in found.matrix] == [3] * 4
    assert found.matrix[-1] == [1.0] * 3
    assert all(part.cpu > 0 and part.wall > 0 for part in (found.build, found.train, found.test))
