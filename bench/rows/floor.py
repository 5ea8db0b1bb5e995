"""Rows for the parts of a whole experiment beside the arithmetic alone, on one thread each."""

import gc
import time
from dataclasses import asdict, dataclass
from functools import cache

import torch

from avalanche_mgem.benchmarks import PermutedDigits, PermutedMNIST
from avalanche_mgem.data import preload, subsample
from avalanche_mgem.experiment import Result
from bench.floor import Floor, Images, Sizes, build, read_mnist, run
from bench.row import Measured, Options, Row
from bench.rows.experiments import EVAL_MB_SIZE, MB_SIZE, gem_run, permuted_mnist
from bench.timing import in_turns

_LR = 0.1
"""That of the GEM paper. Here rounding may grow, because the results of two methods are not compared."""


@dataclass(frozen=True)
class _Turns:
    """Whole runs of both sides in turns.

    Attributes:
        ours: what ``mgem`` measured.
        floor: the same of the arithmetic alone.
        busy: seconds of the processor in a second of each side. On an idle machine and one thread it is 1.
    """

    ours: list[Result]
    floor: list[Floor]
    busy: dict[str, float]


def _floor_train(options: Options) -> Measured:
    turns = _turns(options)
    ours, floor = [r.seconds_train for r in turns.ours], [r.train.wall for r in turns.floor]
    return Measured(ours, floor, None, _settings(options), turns.busy)


def _floor_test(options: Options) -> Measured:
    turns = _turns(options)
    ours, floor = [r.seconds_eval for r in turns.ours], [r.test.wall for r in turns.floor]
    return Measured(ours, floor, None, _settings(options), turns.busy)


@cache
def _turns(options: Options) -> _Turns:
    """The runs, which take minutes. Both rows have their numbers from them."""
    experiment, sizes, n = permuted_mnist(options), _sizes(options), options.size(3, 1)
    ours, floor = [], []
    cpu = wall = 0.0
    options.report.phase("ours / the arithmetic alone", 2 * n)
    for _ in range(n):
        gc.collect()  # each side pays for its own garbage only
        start = time.process_time(), time.perf_counter()
        ours.append(gem_run(options, experiment, {"optimizer.lr": _LR, "progress": False}))
        cpu, wall = cpu + time.process_time() - start[0], wall + time.perf_counter() - start[1]
        options.report.advance()
        gc.collect()
        floor.append(run(lambda: _images(options), sizes, lr=_LR, seed=options.seed))
        options.report.advance()
    parts = [part for result in floor for part in (result.build, result.train, result.test)]
    busy = {
        "seconds of the processor / seconds of the whole run, ours": cpu / wall,
        "the same, the arithmetic alone": sum(part.cpu for part in parts) / sum(part.wall for part in parts),
    }
    return _Turns(ours, floor, busy)


def _build(options: Options) -> Measured:
    sizes = _sizes(options)

    def ours() -> object:
        benchmark = (
            PermutedDigits(sizes.n_experiences, seed=options.seed)
            if options.quick
            else PermutedMNIST(sizes.n_experiences, seed=options.seed, dataset_root=options.dataset_root)
        )
        return preload(subsample(benchmark, sizes.samples_per_experience, seed=options.seed))

    seconds = in_turns(
        {"ours": ours, "plain torch": lambda: build(_images(options), sizes, seed=options.seed)},
        repetitions=options.size(7, 1),
        warm_up=1,
        clock=time.process_time,
        report=options.report,
    )
    settings = {
        "n_experiences": sizes.n_experiences,
        "samples_per_experience": sizes.samples_per_experience,
    }
    return Measured(seconds["ours"], seconds["plain torch"], None, settings)


def _sizes(options: Options) -> Sizes:
    experiment = permuted_mnist(options)
    n_experiences = experiment.overrides["benchmark.n_experiences"]
    assert isinstance(n_experiences, int)
    return Sizes(n_experiences, experiment.samples, experiment.patterns_per_exp, MB_SIZE, EVAL_MB_SIZE)


def _settings(options: Options) -> dict[str, object]:
    return {**asdict(_sizes(options)), "lr": _LR}


def _images(options: Options) -> Images:
    if not options.quick:
        return read_mnist(options.dataset_root)
    x = torch.randint(256, (1000, 64), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    y = torch.arange(1000) % 10
    return Images((x, y), (x[:300], y[:300]))


FLOOR = (
    Row(
        "floor_train",
        "training in the whole experiment on permuted MNIST (mgem strategy=gem), one thread",
        "the arithmetic alone in plain torch: a step replays as many samples in one batch, with SGD; "
        "another method, so results are not compared",
        at_least=False,
        floor=2.0,
        goal=1.1,
        measure=_floor_train,
        threads=1,
    ),
    Row(
        "floor_test",
        "testing in the same runs, one thread: all 10,000 images of each experience, 21 times",
        "the network alone on images that are permuted once",
        at_least=False,
        floor=1.8,
        goal=1.05,
        measure=_floor_test,
        threads=1,
    ),
    Row(
        "build",
        "building, subsampling and preloading that benchmark, seconds of the processor, one thread",
        "reading the files and permuting the test images once in plain torch",
        at_least=False,
        floor=0.8,
        goal=0.8,
        measure=_build,
        threads=1,
    ),
)
