"""A user's own script: a strategy that goes on with a checkpoint is the one that never stopped."""

import random
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from avalanche.benchmarks import nc_benchmark
from avalanche.evaluation.metrics import accuracy_metrics, forgetting_metrics, ram_usage_metrics
from avalanche.logging import TextLogger
from avalanche.training import AGEM, EWC, Naive, Replay
from avalanche.training.plugins import EvaluationPlugin, LRSchedulerPlugin, SupervisedPlugin
from helpers import parameters_of
from torch import nn

from avalanche_mgem import DMGEM, MGEM, load_checkpoint, save_checkpoint
from avalanche_mgem.benchmarks import SplitDigits
from avalanche_mgem.checkpoint import CheckpointError
from avalanche_mgem.data import preload, subsample
from avalanche_mgem.loggers import CSVLogger

OPTIONS: dict[Any, dict[str, Any]] = {
    MGEM: {"patterns_per_exp": 10},
    DMGEM: {"patterns_per_exp": 10, "patterns_per_step": 4, "memory_strength": lambda clock: 0.5},
    Replay: {"mem_size": 20},
    EWC: {"ewc_lambda": 1.0},
    AGEM: {"patterns_per_exp": 10, "sample_size": 10},
}


def benchmark(seed: int = 0, fast: bool = True) -> Any:
    small = subsample(SplitDigits(5, seed=seed), 20, 10)
    return preload(small) if fast else small


def build(kind: Any, **more: Any) -> Any:
    """What a script does at its start."""
    torch.manual_seed(0)
    random.seed(0)
    np.random.seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.Dropout(0.1), nn.Linear(8, 10))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    fixed = {"model": model, "optimizer": optimizer, "train_mb_size": 5, "criterion": nn.CrossEntropyLoss()}
    return kind(**fixed, **{"evaluator": None, **OPTIONS.get(kind, {}), **more})


def train(
    strategy: Any, data: Any, first: int = 0, last: int = 3, path: Path | None = None, **options: Any
) -> None:
    for experience in data.train_stream[first:last]:
        strategy.train(experience)
        strategy.eval(data.test_stream)
        if path is not None:
            save_checkpoint(strategy, path, **options)


def state(strategy: Any) -> list[Any]:
    """All that must be equal: weights, momentum, and the random generators."""
    momentum = [part["momentum_buffer"] for part in strategy.optimizer.state.values()]
    drawn = torch.rand(1).item(), random.random(), np.random.rand()
    return [parameters_of(strategy.model), torch.cat([part.flatten() for part in momentum]), drawn]


def equal(one: list[Any], other: list[Any]) -> bool:
    return torch.equal(one[0], other[0]) and torch.equal(one[1], other[1]) and one[2] == other[2]


def cut_and_load(kind: Any, path: Path, with_benchmark: bool) -> Any:
    """Trains two experiences, leaves the third in the middle, and loads into a new strategy."""
    cut, data = build(kind), benchmark()
    train(cut, data, last=2, path=path, **({"benchmark": data} if with_benchmark else {}))
    cut.train(data.train_stream[2])  # lost
    again, data = build(kind), benchmark()
    assert load_checkpoint(again, path, **({"benchmark": data} if with_benchmark else {})) == 2
    return again, data


@pytest.mark.filterwarnings("ignore:Call to deprecated function")
@pytest.mark.parametrize("with_benchmark", [True, False])
@pytest.mark.parametrize("kind", OPTIONS)
def test_a_loaded_strategy_goes_on_bit_for_bit(tmp_path: Path, kind: Any, with_benchmark: bool) -> None:
    whole = build(kind)
    train(whole, benchmark())
    expected = state(whole)
    again, data = cut_and_load(kind, tmp_path / "checkpoint.pt", with_benchmark)
    train(again, data, 2)
    assert equal(state(again), expected)


def test_the_objects_of_the_script_stay(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.pt"
    saved = build(Replay)
    train(saved, benchmark(), last=1, path=path)
    strategy = build(Replay)
    model, optimizer, plugins = strategy.model, strategy.optimizer, list(strategy.plugins)
    load_checkpoint(strategy, path)
    assert strategy.model is model
    assert strategy.optimizer is optimizer
    assert all(one is other for one, other in zip(strategy.plugins, plugins, strict=True))
    assert torch.equal(parameters_of(model), parameters_of(saved.model))
    held = {id(p) for group in optimizer.param_groups for p in group["params"]}
    assert held == {id(p) for p in model.parameters()}


def test_data_sets_are_named_and_not_written(tmp_path: Path) -> None:
    data = preload(subsample(SplitDigits(5, seed=0), 100))
    strategy = build(Replay)
    strategy.train(data.train_stream[0])
    for name, options in (("named", {"benchmark": data}), ("whole", {})):
        save_checkpoint(strategy, tmp_path / name, **options)
    named, whole = ((tmp_path / name).stat().st_size for name in ("named", "whole"))
    assert named < 60_000  # the images alone are 1437 x 64 x 4 bytes
    assert whole > 360_000


class Counting(SupervisedPlugin):  # type: ignore[misc]
    """A user's plugin that refers to its strategy, and to a function without a name."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[int] = []
        self.owner: Any = None
        step = 2
        self.function = lambda x: x + step

    def after_training_exp(self, strategy: Any, **_: Any) -> None:
        self.owner = strategy
        self.seen.append(self.function(strategy.clock.train_exp_counter))


def test_plugins_schedules_metrics_and_loggers_come_back(tmp_path: Path) -> None:
    def built(folder: Path) -> Any:
        metrics = accuracy_metrics(experience=True), forgetting_metrics(stream=True, experience=True)
        loggers = [TextLogger(), CSVLogger(str(folder))]
        evaluator = EvaluationPlugin(*metrics, ram_usage_metrics(every=0.01, epoch=True), loggers=loggers)
        strategy = build(Naive, evaluator=evaluator, plugins=[Counting()])
        schedule = torch.optim.lr_scheduler.StepLR(strategy.optimizer, 1)
        strategy.plugins.append(LRSchedulerPlugin(schedule, reset_scheduler=False, reset_lr=False))
        return strategy

    whole = built(tmp_path / "whole")
    data = benchmark()
    train(whole, data)
    cut = built(tmp_path / "cut")
    train(cut, data, last=2, path=tmp_path / "c.pt")
    cut.train(data.train_stream[2])
    again = built(tmp_path / "cut")
    counting = next(plugin for plugin in again.plugins if isinstance(plugin, Counting))
    train(again, data, load_checkpoint(again, tmp_path / "c.pt"))
    assert counting.seen == [2, 3, 4]
    assert counting.owner is again
    assert again.optimizer.param_groups[0]["lr"] == whole.optimizer.param_groups[0]["lr"] < 0.001
    for file in ("training_results.csv", "eval_results.csv"):
        assert (tmp_path / "cut" / file).read_text() == (tmp_path / "whole" / file).read_text()
    for one, other in zip(
        whole.evaluator.all_metric_results.items(), again.evaluator.all_metric_results.items(), strict=True
    ):
        assert one == other or "RAM" in one[0]
    for strategy in (whole, cut, again):
        strategy.evaluator.loggers[1].close()


@pytest.mark.slow
def test_a_new_process_goes_on(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        f"""
import sys
sys.path[:0] = {[str(Path(__file__).parents[1]), str(Path(__file__).parent)]}
import test_checkpoint as t
from avalanche_mgem import DMGEM, load_checkpoint
strategy, data = t.build(DMGEM), t.benchmark()
first = load_checkpoint(strategy, "checkpoint.pt", benchmark=data)
t.train(strategy, data, first)
print(first, t.state(strategy)[0].sum().item().hex(), t.state(strategy)[1].sum().item().hex())
"""
    )
    whole, data = build(DMGEM), benchmark()
    train(whole, data)
    numbers = [part.sum().item().hex() for part in state(whole)[:2]]
    cut = build(DMGEM)
    train(cut, data, last=2, path=tmp_path / "checkpoint.pt", benchmark=data)
    done = subprocess.run([sys.executable, script], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.stdout.split() == ["2", *numbers], done.stderr


@pytest.mark.parametrize(("mode", "text"), [("w", "before\nafter\n"), ("a", "before\nlost\nafter\n")])
def test_a_file_that_a_plugin_writes_goes_on(tmp_path: Path, mode: str, text: str) -> None:
    file = tmp_path / "log.txt"
    strategy, again = build(Naive, plugins=[Counting()]), build(Naive, plugins=[Counting()])
    with file.open(mode) as strategy.plugins[0].file:
        print("before", file=strategy.plugins[0].file)
        save_checkpoint(strategy, tmp_path / "checkpoint.pt")
        print("lost", file=strategy.plugins[0].file)
    load_checkpoint(again, tmp_path / "checkpoint.pt")
    with again.plugins[0].file:
        print("after", file=again.plugins[0].file)
    assert file.read_text() == text


def test_without_a_file_a_script_begins(tmp_path: Path) -> None:
    assert load_checkpoint(build(Naive), tmp_path / "checkpoint.pt") == 0


def saved(path: Path, n: int = 2) -> Any:
    strategy, data = build(Replay), benchmark()
    train(strategy, data, last=n, path=path, benchmark=data)
    return data


DAMAGES: dict[str, Any] = {
    "empty": lambda data: b"",
    "in the magic word": lambda data: data[:10],
    "in the checksum": lambda data: data[:40],
    "in the header": lambda data: data[:100],
    "in the pickles": lambda data: data[: len(data) // 2],
    "the last byte": lambda data: data[:-1],
    "longer": lambda data: data + b"x",
    "a bit of the header": lambda data: data[:90] + bytes([data[90] ^ 1]) + data[91:],
    "a bit of the pickles": lambda data: data[:-1000] + bytes([data[-1000] ^ 16]) + data[-999:],
    "foreign": lambda data: b"\x80\x04cos\nsystem\n(S'touch harmed'\ntR.",
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_file_is_refused_and_the_one_before_is_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damage: str
) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "checkpoint.pt"
    data = saved(path)
    path.write_bytes(DAMAGES[damage](path.read_bytes()))
    strategy = build(Replay)
    with pytest.warns(UserWarning, match=r"checkpoint.pt is [^\n]+; going on with the one before\.$"):
        assert load_checkpoint(strategy, path, benchmark=data) == 1
    (tmp_path / "checkpoint.pt.previous").unlink()
    before = parameters_of(strategy.model)
    with pytest.raises(CheckpointError, match=r"checkpoint.pt is [^\n]+; delete it to begin anew\.$"):
        load_checkpoint(strategy, path, benchmark=data)
    assert torch.equal(parameters_of(strategy.model), before)
    assert not (tmp_path / "harmed").exists()


def test_where_only_the_one_before_is_left_it_is_taken(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.pt"
    data = saved(path)
    path.unlink()  # cut between the two names
    assert load_checkpoint(build(Replay), path, benchmark=data) == 1


def test_another_format_or_version_is_refused_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "checkpoint.pt"
    data = saved(path)
    with monkeypatch.context() as patch:
        patch.setattr("avalanche_mgem.checkpoint._file.FORMAT", 3)
        with pytest.raises(CheckpointError, match=r"has the format 2, and this version .* reads 3"):
            load_checkpoint(build(Replay), path, benchmark=data)
    here = torch.__version__.partition("+")[0]
    monkeypatch.setattr(
        "avalanche_mgem.checkpoint._strategy.version", lambda name: "9.9" if name == "torch" else "1"
    )
    saved(tmp_path / "other.pt")
    monkeypatch.undo()
    with pytest.raises(
        CheckpointError, match=f"was made with avalanche-mgem 1, and this is|torch 9.9.*{here}"
    ):
        load_checkpoint(build(Replay), tmp_path / "other.pt", benchmark=data)


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        (Naive, {}, r"is of another strategy: its strategy is Replay, and here it is Naive\.$"),
        (Replay, {"plugins": [Counting()]}, "its plugin 0 is ReplayPlugin, and here it is Counting"),
        (Replay, {"evaluator": EvaluationPlugin(*accuracy_metrics(epoch=True))}, "its metric 0 is missing"),
    ],
)
def test_another_strategy_is_refused_by_name(
    tmp_path: Path, kind: Any, options: dict[str, Any], message: str
) -> None:
    data = saved(tmp_path / "checkpoint.pt")
    strategy = build(kind, **options)
    before = parameters_of(strategy.model)
    with pytest.raises(CheckpointError, match=message):
        load_checkpoint(strategy, tmp_path / "checkpoint.pt", benchmark=data)
    assert torch.equal(parameters_of(strategy.model), before)


def test_another_benchmark_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.pt"
    saved(path)
    with pytest.raises(CheckpointError, match="is of another benchmark"):
        load_checkpoint(build(Replay), path, benchmark=benchmark(seed=1))
    with pytest.raises(CheckpointError, match="saved with its benchmark; give the benchmark here too"):
        load_checkpoint(build(Replay), path)
    with pytest.raises(CheckpointError, match="benchmark is a list; it must be one of Avalanche's"):
        load_checkpoint(build(Replay), path, benchmark=[])


def test_another_device_is_refused(tmp_path: Path) -> None:
    data = saved(tmp_path / "checkpoint.pt")
    strategy = build(Replay, device="meta")
    with pytest.raises(CheckpointError, match="was made on cpu, and this strategy is on meta"):
        load_checkpoint(strategy, tmp_path / "checkpoint.pt", benchmark=data)


def cycle(values: list[int], *, start: int) -> Iterator[int]:
    while True:
        yield from values[start:]


def test_a_generator_that_has_not_begun_is_made_again(tmp_path: Path) -> None:
    strategy, again = build(Naive, plugins=[Counting()]), build(Naive, plugins=[Counting()])
    strategy.plugins[0].loader = cycle([1, 2, 3], start=1)
    save_checkpoint(strategy, tmp_path / "checkpoint.pt")
    load_checkpoint(again, tmp_path / "checkpoint.pt")
    assert [next(again.plugins[0].loader) for _ in range(3)] == [2, 3, 2]
    next(strategy.plugins[0].loader)
    with pytest.raises(CheckpointError, match="cannot be saved: the generator cycle has begun"):
        save_checkpoint(strategy, tmp_path / "checkpoint.pt")


def test_a_part_that_cannot_be_saved_is_named(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.pt"
    data = saved(path)
    strategy = build(Replay, plugins=[Counting()])
    strategy.plugins[0].iterator = iter(x for x in [1])  # a generator of no method
    before = path.read_bytes()
    with pytest.raises(
        CheckpointError, match=r"the strategy's plugin 0 \(Counting\) cannot be saved: the gen"
    ):
        save_checkpoint(strategy, path, benchmark=data)
    assert path.read_bytes() == before


def test_notes_are_plain_values(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="the notes cannot be saved: Object of type Linear"):
        save_checkpoint(build(Naive), tmp_path / "checkpoint.pt", notes={"model": nn.Linear(1, 1)})
    assert list(tmp_path.iterdir()) == []


def test_in_the_middle_of_training_nothing_is_saved(tmp_path: Path) -> None:
    class Early(SupervisedPlugin):  # type: ignore[misc]
        def after_training_exp(self, strategy: Any, **_: Any) -> None:
            save_checkpoint(strategy, tmp_path / "checkpoint.pt")

    with pytest.raises(CheckpointError, match="is saved after train or eval"):
        train(build(Naive, plugins=[Early()]), benchmark())


def test_a_file_that_is_no_checkpoint_is_not_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "thesis.tex"
    path.write_text("x")
    with pytest.raises(
        CheckpointError, match=r"thesis.tex is no checkpoint of avalanche-mgem; nothing is ov"
    ):
        save_checkpoint(build(Naive), path)
    assert path.read_text() == "x"


def test_a_full_disk_leaves_the_checkpoints_that_were_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "checkpoint.pt"
    data = saved(path)
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir()}

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("avalanche_mgem.runs._whole.os.fsync", full)
    with pytest.raises(OSError, match=r"No space left on device: '.*checkpoint.pt'"):
        save_checkpoint(build(Replay), path, benchmark=data)
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == before


def test_a_data_set_of_ones_own_is_found_too(tmp_path: Path) -> None:
    """One that this package does not know, with a lambda as its transform."""
    torch.manual_seed(1)
    data_set = torch.utils.data.TensorDataset(torch.randn(40, 1, 8, 8), torch.arange(40) % 10)
    data_set.targets = (torch.arange(40) % 10).tolist()

    def data() -> Any:
        return nc_benchmark(data_set, data_set, 5, False, seed=0, train_transform=lambda x: x * 2)

    path = tmp_path / "checkpoint.pt"
    whole, cut, again = build(Replay), build(Replay), build(Replay)
    torch.manual_seed(3)
    train(whole, data())
    torch.manual_seed(3)
    train(cut, (made := data()), last=2, path=path, benchmark=made)
    train(again, (made := data()), load_checkpoint(again, path, benchmark=made))
    assert torch.equal(parameters_of(again.model), parameters_of(whole.model))
