"""Evaluations of preloaded benchmarks: every minibatch as Avalanche makes it, and kept where that is safe."""

import copy
import gc
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from avalanche.benchmarks import CLScenario, benchmark_from_datasets
from avalanche.benchmarks.utils import AvalancheDataset
from avalanche.training import Naive
from helpers import MLP, Probe, strategy_arguments
from torch import Tensor, nn
from torch.utils.data import DataLoader
from torchvision import transforms as T  # noqa: N812

from avalanche_mgem.benchmarks import PermutedDigits
from avalanche_mgem.data import BatchedEvaluation, preload, subsample
from avalanche_mgem.data._plans import Plan

SHIFT = T.Normalize((0.25,), (2.0,))
DIGITS = subsample(PermutedDigits(3, seed=0, eval_transform=SHIFT), 20, 40)
BYTES = 40 * (64 * 4 + 2 * 8)  # of the minibatches of one experience: images, classes and task labels


class InPlace(nn.Module):
    """Doubles its input in place."""

    def forward(self, x: Tensor) -> Tensor:
        return x.mul_(2).flatten(1)


@pytest.fixture
def preloaded() -> CLScenario:
    return preload(DIGITS)


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The size of each minibatch that is made."""
    sizes: list[int] = []
    make = Plan.__call__

    def counted(plan: Plan, indices: Any) -> Any:
        sizes.append(len(indices))
        return make(plan, indices)

    monkeypatch.setattr(Plan, "__call__", counted)
    return sizes


Evaluate = Callable[..., list[Tensor]]


def evaluating(
    *plugins: Any, first: nn.Module | None = None, seen: Callable[[Any], Any] | None = None
) -> tuple[Any, Evaluate]:
    """A strategy, and what evaluates with it and returns what the model and the loss got."""
    torch.manual_seed(0)
    probe = Probe("before_eval_forward", lambda strategy: [values.clone() for values in strategy.mbatch])
    loss = Probe("after_eval_iteration", lambda strategy: strategy.loss)
    model = nn.Sequential(first or nn.Flatten(), MLP())
    strategy = Naive(**strategy_arguments(model, eval_mb_size=16), plugins=[*plugins, probe, loss])

    def evaluate(stream: Any, **options: Any) -> list[Tensor]:
        probe.seen.clear()
        loss.seen.clear()
        strategy.eval(stream, **options)
        return [*(values for minibatch in probe.seen for values in minibatch), *loss.seen]

    return strategy, evaluate


def assert_same(a: list[Tensor], b: list[Tensor]) -> None:
    assert len(a) == len(b) > 0
    for x, y in zip(a, b, strict=True):
        assert x.dtype == y.dtype
        assert torch.equal(x, y)


@pytest.mark.parametrize("first", [nn.Flatten(), InPlace()])
def test_every_evaluation_sees_what_avalanche_makes(preloaded: CLScenario, first: nn.Module) -> None:
    expected = evaluating(first=first)[1](DIGITS.test_stream)
    evaluate = evaluating(BatchedEvaluation(), first=first)[1]
    for _ in range(3):
        assert_same(evaluate(preloaded.test_stream), expected)


def test_minibatches_are_made_once(preloaded: CLScenario, made: list[int]) -> None:
    evaluate = evaluating(BatchedEvaluation())[1]
    for _ in range(3):
        evaluate(preloaded.test_stream)
    assert made == [16, 16, 8] * 3


def test_a_changed_minibatch_is_made_anew(preloaded: CLScenario, made: list[int]) -> None:
    evaluate = evaluating(BatchedEvaluation(), first=InPlace())[1]
    for _ in range(2):
        evaluate(preloaded.test_stream)
    assert made == [16, 16, 8] * 6


def test_what_a_plugin_puts_in_place_of_a_minibatch_is_not_kept(preloaded: CLScenario) -> None:
    def hide(strategy: Any) -> None:
        hidden = torch.zeros_like(strategy.mbatch[0])
        for _ in range(strategy.mbatch[0]._version):  # so that it looks unchanged
            hidden.zero_()
        strategy.mbatch[0] = hidden

    expected = evaluating(BatchedEvaluation(0))[1](preloaded.test_stream)
    plugin = BatchedEvaluation()
    evaluating(plugin, Probe("before_eval_iteration", hide))[1](preloaded.test_stream)
    assert_same(evaluating(plugin)[1](preloaded.test_stream), expected)


@pytest.mark.parametrize("room", [0, 1, 2])
def test_no_more_bytes_are_kept_than_allowed(preloaded: CLScenario, made: list[int], room: int) -> None:
    plugin = BatchedEvaluation(room * BYTES + BYTES // 2)
    evaluate = evaluating(plugin)[1]
    results = [evaluate(preloaded.test_stream) for _ in range(3)]
    assert_same(*results[:2])
    assert_same(*results[1:])
    assert made == [16, 16, 8] * (3 + 2 * (3 - room))
    assert sum(kept.nbytes for kept in plugin._kept.values()) == room * BYTES


def test_another_size_of_minibatches_replaces_those_that_are_kept(
    preloaded: CLScenario, made: list[int]
) -> None:
    plugin = BatchedEvaluation(3 * BYTES)
    strategy, evaluate = evaluating(plugin)
    evaluate(preloaded.test_stream)
    strategy.eval_mb_size = 25
    evaluate(preloaded.test_stream)
    evaluate(preloaded.test_stream)
    assert made == [16, 16, 8] * 3 + [25, 15] * 3


def test_an_order_that_is_drawn_is_drawn_each_time(preloaded: CLScenario) -> None:
    evaluate = evaluating(BatchedEvaluation())[1]
    torch.manual_seed(0)
    first, second = (evaluate(preloaded.test_stream, shuffle=True)[0] for _ in range(2))
    assert not torch.equal(first, second)


def test_what_a_process_of_a_loader_makes_is_not_kept(preloaded: CLScenario) -> None:
    plugin = BatchedEvaluation()
    strategy, _ = evaluating(plugin)
    strategy.experience = preloaded.test_stream[0]
    strategy.eval_dataset_adaptation()
    strategy.make_eval_dataloader(num_workers=1)
    plugin.before_eval_exp(strategy)
    assert type(strategy.dataloader) is DataLoader
    assert not plugin._kept


def test_the_global_generator_is_where_avalanche_leaves_it(preloaded: CLScenario) -> None:
    states = []
    for benchmark, plugins in ((DIGITS, ()), (preloaded, (BatchedEvaluation(),))):
        evaluate = evaluating(*plugins)[1]
        torch.manual_seed(0)
        for _ in range(2):
            evaluate(benchmark.test_stream)
            states.append(torch.get_rng_state())
    assert_same(states[:2], states[2:])


def test_random_transforms_are_drawn_each_time() -> None:
    noisy = PermutedDigits(1, seed=0, eval_transform=T.RandomHorizontalFlip())
    with pytest.warns(UserWarning, match="RandomHorizontalFlip"):
        benchmark = preload(subsample(noisy, 20, 40))
    evaluate = evaluating(BatchedEvaluation())[1]
    first, second = (evaluate(benchmark.test_stream)[0] for _ in range(2))
    assert not torch.equal(first, second)


def test_a_dataset_of_avalanches_around_a_preloaded_one(preloaded: CLScenario) -> None:
    def wrapped(benchmark: CLScenario) -> Any:
        datasets = [AvalancheDataset([experience.dataset]) for experience in benchmark.test_stream]
        return benchmark_from_datasets(test=datasets).test_stream

    expected = evaluating()[1](wrapped(DIGITS))
    evaluate = evaluating(BatchedEvaluation())[1]
    for _ in range(2):
        assert_same(evaluate(wrapped(preloaded)), expected)


def test_inference_mode(preloaded: CLScenario) -> None:
    expected = evaluating()[1](DIGITS.test_stream)
    evaluate = evaluating(BatchedEvaluation())[1]
    for is_on in (True, False, True):
        with torch.inference_mode(is_on):
            found = evaluate(preloaded.test_stream)
        assert_same(found, expected)


def test_a_checkpoint_has_no_minibatches(preloaded: CLScenario) -> None:
    plugin = BatchedEvaluation(3 * BYTES)
    evaluating(plugin)[1](preloaded.test_stream)
    loaded = pickle.loads(pickle.dumps(plugin))
    assert loaded.keep_bytes == copy.deepcopy(plugin).keep_bytes == 3 * BYTES
    assert len(plugin._kept) == 3
    assert len(loaded._kept) == 0


def test_minibatches_go_with_their_benchmark() -> None:
    plugin = BatchedEvaluation()
    benchmark = preload(DIGITS)
    strategy, evaluate = evaluating(plugin)
    evaluate(benchmark.test_stream)
    assert len(plugin._kept) == 3
    del benchmark
    strategy.experience = strategy.current_eval_stream = None
    gc.collect()
    assert len(plugin._kept) == 0


def test_copies_in_another_mode_share_their_plan(preloaded: CLScenario) -> None:
    dataset = preloaded.test_stream[0].dataset
    assert dataset.eval().plan is dataset.train().eval().plan
    assert dataset.train().plan is not dataset.plan
    changed = dataset.eval().replace_current_transform_group((T.Normalize((1.0,), (1.0,)), None))
    assert changed.plan is not dataset.plan
    assert dataset.subset([0, 2]).plan is not dataset.plan
    assert pickle.loads(pickle.dumps(dataset)).plan is not dataset.plan
