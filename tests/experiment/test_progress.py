"""What a run shows while it goes on: a bar on a terminal, and lines elsewhere."""

import io
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console

from avalanche_mgem.experiment import compose, run
from avalanche_mgem.experiment._loading import loading
from avalanche_mgem.experiment._sweep import Place
from avalanche_mgem.experiment.progress import ProgressBar
from avalanche_mgem.runs import ending_with_its_reader

Mgem = Callable[..., Any]
SMALL = ("benchmark.n_experiences=2", "samples_per_experience=40", "test_samples_per_experience=40")
COMMAND = [sys.executable, "-c", "from avalanche_mgem.experiment.main import main; main()"]
LINE = r"mgem: {}: mean accuracy 0\.\d\d\d after \d+:\d\d{}\n"


def terminal(clock: list[float] | None = None, width: int = 100) -> Console:
    """A terminal whose time is what the test says."""
    get_time = None if clock is None else lambda: clock[0]
    return Console(file=io.StringIO(), force_terminal=True, width=width, get_time=get_time, color_system=None)


def shown(bar: ProgressBar, console: Console) -> list[str]:
    """The rows of the bar as they are now."""
    with console.capture() as capture:
        console.print(bar._progress.get_renderable())
    return [" ".join(line.split()) for line in capture.get().splitlines()]


def strategy(minibatches: int, epoch: int, iteration: int) -> Any:
    clock = SimpleNamespace(train_exp_epochs=epoch, train_epoch_iterations=iteration)
    return SimpleNamespace(clock=clock, dataloader=range(minibatches), train_epochs=2)


def test_the_bar_of_a_run_has_experience_time_and_accuracy() -> None:
    clock = [100.0]
    console = terminal(clock)
    bar = ProgressBar(is_on=True, console=console)
    assert re.fullmatch(r"building the benchmark (\S+ )?0:00 ETA -:--", shown(bar, console)[0])
    clock[0] += 10
    bar.begin(parts=4, experiences=4)
    assert re.fullmatch(r"testing (\S+ )?0:10 ETA -:--", shown(bar, console)[0])
    bar.train(0)
    bar.before_training_epoch(strategy(8, 1, 0))
    clock[0] += 30
    bar.after_training_iteration(strategy(8, 1, 4))  # one and a half of two epochs
    line = shown(bar, console)[0]
    assert re.fullmatch(r"training experience 0 of 0\.\.3 (\S+ )?0:40 ETA 2:10", line)  # 30 s for 3/4 of one
    bar.before_eval()
    bar.tested([0.75, 0.25, 0.25, 0.25])
    assert re.fullmatch(r"testing (\S+ )?0:40 ETA 1:30 mean accuracy 0\.750", shown(bar, console)[0])
    bar.train(1)
    bar.tested([0.5, 0.75, 0.25, 0.25])  # of those trained so far
    line = shown(bar, console)[0]
    assert re.fullmatch(r"training experience 1 of 0\.\.3 (\S+ )?0:40 ETA 0:30 mean accuracy 0\.625", line)


def test_a_run_that_goes_on_reckons_with_what_it_does_itself() -> None:
    clock = [0.0]
    console = terminal(clock)
    bar = ProgressBar(is_on=True, console=console)
    clock[0] += 5
    bar.begin(parts=10, experiences=10, trained=8)
    bar.train(8)
    clock[0] += 20
    bar.tested([0.5] * 10)
    assert "0:25 ETA 0:20 mean" in shown(bar, console)[0]


def test_parts_that_grow_are_reckoned_to_grow_on() -> None:
    clock = [0.0]
    console = terminal(clock)
    bar = ProgressBar(is_on=True, console=console)
    bar.begin(parts=10, experiences=10, trained=2)
    for number, seconds in enumerate((10, 20, 30), start=2):
        bar.train(number)
        clock[0] += seconds
        bar.tested([0.5] * 10)
    assert "1:00 ETA 5:00 mean" in shown(bar, console)[0]  # 40 + 50 + 60 + 70 + 80
    bar.begin(parts=10, experiences=10)
    for number in range(4):
        clock[0] += 20 - number
        bar.train(number)
        bar.tested([0.5] * 10)
    assert "ETA 1:51 mean" in shown(bar, console)[0]  # 18.5 s for each of six: no part is shorter than none


def test_joint_training_is_of_all_experiences_at_once(capsys: pytest.CaptureFixture[str]) -> None:
    bar = ProgressBar(is_on=True, console=Console(file=io.StringIO()))
    bar.begin(parts=1, experiences=4)
    bar.train(0)
    bar.tested([0.5, 0.75, 0.25, 0.5])
    assert capsys.readouterr().err == "mgem: all 4 experiences at once: mean accuracy 0.500 after 0:00\n"


def test_the_bar_of_a_sweep_has_the_number_of_the_run_and_the_sweeps_end() -> None:
    clock = [0.0]
    console = terminal(clock)
    place = Place(number=7, total=15, complete=6, made=4, seconds=100.0)  # two were there before
    bar = ProgressBar(is_on=True, place=place, console=console)
    assert re.fullmatch(r"run 7/15 (\S+ )?1:40 ETA 3:45", shown(bar, console)[0])  # 25 s a run, nine runs
    bar.begin(parts=2, experiences=2)
    bar.train(0)
    clock[0] += 12.5
    bar.tested([0.5, 0.5])
    sweep, one = shown(bar, console)
    assert re.fullmatch(r"run 7/15 (\S+ )?1:52 ETA 3:32", sweep)  # 112.5 s for 4.5 runs
    assert one.startswith("training experience 0 of 0..1 ")


def test_runs_side_by_side_show_nothing_of_their_own(capsys: pytest.CaptureFixture[str]) -> None:
    place = Place(number=7, total=15, is_side_by_side=True)
    console = terminal()
    for console in (terminal(), Console(file=io.StringIO())):
        with ProgressBar(is_on=True, place=place, console=console) as bar:
            bar.begin(parts=1, experiences=1)
            bar.tested([0.5])
        assert console.file.getvalue() == ""
    assert capsys.readouterr().err == ""


def test_a_terminal_says_that_it_loads_and_then_is_as_before(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "avalanche")
    console = terminal()
    with loading(console):
        assert console.file.getvalue() == "loading torch and Avalanche ...\r"
    assert console.file.getvalue().endswith("\r\x1b[2K")  # the line is erased
    for other in (terminal(), Console(file=io.StringIO())):
        with loading(other, is_on=not other.is_terminal):
            pass
        assert other.file.getvalue() == ""


def test_a_line_for_each_experience_off_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["strategy=naive", *SMALL]
    result = run(words)
    err = capsys.readouterr().err
    first, last = err.splitlines(keepends=True)
    assert re.fullmatch(LINE.format(r"experience 0 of 0\.\.1", r", about \d+:\d\d left"), first)
    assert re.fullmatch(LINE.format(r"experience 1 of 0\.\.1", ""), last)
    assert f"mean accuracy {result.summary['acc']:.3f} " in last
    assert f"mean accuracy {result.matrix[1][0]:.3f} " in first
    quiet = run([*words, "progress=false"])
    assert capsys.readouterr().err == ""
    assert quiet.matrix == result.matrix
    with pytest.raises(ValueError, match="progress=1: it must be true or false"):
        run([*words, "progress=1"])


def test_a_sweep_says_which_run_it_is(mgem: Mgem, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Place | None] = []
    begun = ProgressBar.__init__

    def begin(self: ProgressBar, *, place: Place | None = None, **options: Any) -> None:
        seen.append(place)
        begun(self, place=place, **options)

    monkeypatch.setattr(ProgressBar, "__init__", begin)
    monkeypatch.setenv("MGEM_DEBUG", "1")  # in this process
    result = mgem("-m", "strategy=naive", "seed=0,1", *SMALL, "hydra.sweep.dir=sweep")
    assert result.status == 0
    places = [place for place in seen if place is not None]
    assert [str(place) for place in places] == ["run 1/2", "run 2/2"]
    assert [(place.complete, place.made) for place in places] == [(0, 0), (1, 1)]
    assert places[1].seconds > places[0].seconds >= 0
    assert [line[:9] for line in result.out.splitlines()[:2]] == ["run 1/2: ", "run 2/2: "]
    assert "MGEM_NUMBER_OF_RUNS" not in os.environ


@pytest.mark.slow
def test_on_a_terminal_the_command_leaves_its_table_alone(tmp_path: Path) -> None:
    controller, its_end = os.openpty()
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "TERM": "xterm", "COLUMNS": "120"}
    process = subprocess.Popen(
        [*COMMAND, "strategy=naive", *SMALL, "hydra.run.dir=run"],
        cwd=tmp_path, env=environment, stdout=subprocess.PIPE, stderr=its_end, stdin=its_end, text=True,
    )  # fmt: skip
    os.close(its_end)
    said = b""
    try:
        while part := os.read(controller, 10_000):
            said += part
    except OSError:  # Linux says the end of a terminal so
        pass
    out, _ = process.communicate()
    assert process.returncode == 0
    os.close(controller)
    bar = said.decode()
    assert bar.index("loading torch and Avalanche") < bar.index("mean accuracy 0.")
    assert "mgem:" not in bar  # no lines beside the bar
    assert "\x1b" not in out
    assert "naive on permuted_digits, seed 0" in out


@pytest.mark.slow
def test_a_reader_that_goes_ends_a_run_without_a_word(tmp_path: Path) -> None:
    words = ["strategy=naive", "benchmark.n_experiences=4", *SMALL[1:], "hydra.run.dir=run"]
    read, write = os.pipe()
    process = subprocess.Popen([*COMMAND, *words], cwd=tmp_path, stdout=write, stderr=write)
    os.close(write)
    with os.fdopen(read, "rb") as lines:
        first = lines.readline()
    assert first.startswith(b"mgem: experience 0 of 0..3: ")
    assert process.wait() == 141
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == [".unfinished", "checkpoint.pt"]
    config = compose(*words[:-1])
    config.progress = False
    assert len(run(config, tmp_path / "run").matrix) == 5  # it goes on


SCRIPT = """
from avalanche_mgem.runs import ending_with_its_reader
with ending_with_its_reader():
    print("x" * 100_000)
    print("y", flush=True)
"""


@pytest.mark.slow
def test_a_reader_that_goes_ends_any_command() -> None:
    """Each command of the package is under it."""
    from avalanche_mgem.experiment.main import main
    from avalanche_mgem.report.main import main as report

    assert main.__wrapped__.__name__ == report.__wrapped__.__name__ == "main"
    process = subprocess.Popen([sys.executable, "-c", SCRIPT], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()
    assert process.stderr.read() == b""
    process.stderr.close()
    assert process.wait() == 128 + signal.SIGPIPE
    with pytest.raises(ValueError, match="of the body"), ending_with_its_reader():
        raise ValueError("of the body")
