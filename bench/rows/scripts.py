"""Rows for what a user starts: a script with three lines changed, and a sweep."""

import subprocess
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from avalanche.benchmarks import PermutedMNIST
from avalanche.evaluation.metrics import accuracy_metrics
from avalanche.models import SimpleMLP
from avalanche.training import GEM
from torch import nn

from avalanche_mgem import MGEM
from avalanche_mgem.benchmarks import PermutedDigits
from avalanche_mgem.data import BatchedEvaluation, preload
from avalanche_mgem.experiment.evaluator import accuracies
from avalanche_mgem.runs import acc, read_result
from avalanche_mgem.timing import now
from bench.command import MGEM as COMMAND
from bench.command import one_thread
from bench.data import check
from bench.midstream import GAMMA, silent
from bench.row import Agreement, Measured, Options, Row

_TOLERANCE = 0.01
"""Largest difference in ACC of the two scripts, which see other minibatches and keep other memories.

Stock GEM draws its memories from the generator of the minibatches.
"""


def _script(
    options: Options, faster: Callable[[Any], Any], strategy_class: type[Any], plugins: Sequence[Any]
) -> list[float]:
    """A user's script. The last three arguments are the three lines that change.

    Returns:
        The accuracies at the end.
    """
    benchmark = faster(_benchmark(options))
    torch.manual_seed(options.seed)
    model = SimpleMLP(input_size=options.size(28 * 28, 64), hidden_size=100, hidden_layers=2, drop_rate=0)
    strategy = strategy_class(
        model=model,
        optimizer=torch.optim.SGD(model.parameters(), lr=0.1),
        criterion=nn.CrossEntropyLoss(),
        patterns_per_exp=options.size(256, 20),
        memory_strength=GAMMA,
        train_mb_size=100,
        eval_mb_size=100,
        plugins=[*plugins],
        evaluator=silent(accuracy_metrics(epoch=True, experience=True, stream=True)),
    )
    for experience in benchmark.train_stream:
        strategy.train(experience)
        found = accuracies(strategy.eval(benchmark.test_stream))
        options.report.advance()
    return found


def _benchmark(options: Options) -> Any:
    if options.quick:
        return PermutedDigits(2, seed=options.seed)
    return PermutedMNIST(5, seed=options.seed, dataset_root=options.dataset_root)


def _drop_in(options: Options) -> Measured:
    if not options.quick:
        check("PermutedMNIST", options.dataset_root)
    options.report.phase("reading the data set once")
    n = len(_benchmark(options).train_stream)
    options.report.phase("ours", n)
    start = now("cpu")
    mine = _script(options, preload, MGEM, [BatchedEvaluation()])
    ours = now("cpu") - start
    options.report.phase("stock", n)
    start = now("cpu")
    stock = _script(options, lambda benchmark: benchmark, GEM, [])
    other = now("cpu") - start
    here, there = acc([mine]), acc([stock])
    agreement = Agreement(
        abs(here - there) <= _TOLERANCE,
        f"ACC {here:.4f} and {there:.4f} (ours, stock; within {_TOLERANCE:g})",
    )
    return Measured(
        [ours],
        [other],
        None if options.quick else agreement,  # after so few steps the memories decide
        {
            "n_experiences": n,
            "patterns_per_exp": options.size(256, 20),
            "train_mb_size": 100,
            "eval_mb_size": 100,
            "lr": 0.1,
            "memory_strength": GAMMA,
        },
    )


_SHORT_RUN = (
    "strategy=gem",
    "benchmark=permuted_digits",
    "benchmark.n_experiences=3",
    "samples_per_experience=100",
    "test_samples_per_experience=100",
    "progress=false",
)
_AT_ONCE = 2


def _sweep_throughput(options: Options) -> Measured:
    n = options.size(40, 2)
    with TemporaryDirectory(prefix="mgem-bench-") as name:
        sweep, apart = Path(name, "sweep"), Path(name, "apart")
        options.report.phase("one sweep")
        start = now("cpu")
        launcher = ["hydra/launcher=parallel", f"hydra.launcher.n_jobs={_AT_ONCE}"]
        _mgem("-m", *launcher, *_SHORT_RUN, f"seed=range({n})", f"hydra.sweep.dir={sweep}")
        ours = now("cpu") - start

        def one(seed: int) -> None:
            _mgem(*_SHORT_RUN, f"seed={seed}", f"hydra.run.dir={apart / str(seed)}")
            options.report.advance()

        options.report.phase(f"{n} processes", n)
        start = now("cpu")
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            list(pool.map(one, range(n)))
        other = now("cpu") - start
        mine, expected = _matrices(sweep), _matrices(apart)
    agreement = Agreement(
        len(expected) == n and mine == expected,
        f"{sum(mine.get(seed) == R for seed, R in expected.items())} of {n} accuracy matrices are equal",
    )
    return Measured([ours], [other], agreement, {"runs": n, "at_once": _AT_ONCE, "run": " ".join(_SHORT_RUN)})


def _mgem(*words: str) -> None:
    subprocess.run([*COMMAND, *words], check=True, env=one_thread(), stdout=subprocess.DEVNULL)


def _matrices(folder: Path) -> dict[int, list[list[float]]]:
    """The accuracy matrix of each run in a folder, by its seed."""
    results = [read_result(path.parent) for path in folder.glob("*/summary.json")]
    return {result.seed: result.matrix for result in results}


SCRIPTS = (
    Row(
        "drop_in",
        "a user's own script with three lines changed (preload, MGEM, BatchedEvaluation): permuted MNIST, "
        "5 x 60,000 samples, batches of 100, 256 memories, MLP 2 x 100, tested on all experiences after each",
        "the same script with stock GEM",
        at_least=True,
        floor=2.5,
        goal=4.0,
        measure=_drop_in,
    ),
    Row(
        "sweep_throughput",
        "40 short runs in one sweep with hydra/launcher=parallel, 2 at a time, one thread each",
        "the same runs as 40 processes of mgem, 2 at a time",
        at_least=True,
        floor=3.0,
        goal=3.0,
        measure=_sweep_throughput,
        threads=1,
    ),
)
