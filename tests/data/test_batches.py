"""Preloaded datasets in use: single samples, loaders, buffers, whole training runs."""

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from avalanche.benchmarks import CLScenario, benchmark_from_datasets, nc_benchmark, split_online_stream
from avalanche.benchmarks.datasets.external_datasets.mnist import TensorMNIST
from avalanche.benchmarks.utils import AvalancheDataset, DataAttribute, concat_datasets
from avalanche.benchmarks.utils.data_loader import SingleDatasetDataLoader, TaskBalancedDataLoader
from avalanche.evaluation.metrics import accuracy_metrics
from avalanche.logging import BaseLogger
from avalanche.training import DER, GEM, Cumulative, JointTraining, Naive, Replay
from avalanche.training.plugins import EvaluationPlugin
from avalanche.training.storage_policy import ReservoirSamplingBuffer
from helpers import MLP, Probe, parameters_of, strategy_arguments
from torch.utils.data import DataLoader, Subset, TensorDataset, default_collate
from torchvision import transforms as T  # noqa: N812
from torchvision.datasets import CIFAR100

from avalanche_mgem import DMGEM
from avalanche_mgem.benchmarks import PermutedDigits, PermutedMNIST, SplitDigits
from avalanche_mgem.data import BatchedEvaluation, preload, subsample
from avalanche_mgem.experiment._quiet import quiet
from avalanche_mgem.memory import EpisodicMemory

DIGITS = subsample(PermutedDigits(3, seed=0), 60, 40)
SPLIT = subsample(SplitDigits(5, seed=0, return_task_id=True), 40, 20)
PRELOADED = preload(DIGITS)
REPLAY = (
    "ignore:Call to deprecated function update:DeprecationWarning"  # Avalanche's, of its own storage policy
)
SHIFT = [T.Normalize((0.5,), (2.0,)), None]


def data(benchmark: CLScenario, number: int = 0) -> Any:
    return benchmark.train_stream[number].dataset


def is_unread(sample: Any) -> bool:
    """Whether it is not yet the list that Avalanche makes of a sample."""
    return type(sample) is not list and sample.read is None


def assert_same(a: Any, b: Any) -> None:
    assert len(a) == len(b) > 0
    for x, y in zip(a, b, strict=True):
        assert x.dtype == y.dtype
        assert torch.equal(x, y)


def test_a_sample_is_avalanches_list() -> None:
    for benchmark in (DIGITS, SPLIT):
        expected, sample = data(benchmark)[3], data(preload(benchmark))[np.int64(3)]
        assert is_unread(sample)
        x, y, t = sample
        assert not is_unread(sample)
        assert torch.equal(x, expected[0])
        assert ([y, t], type(y), type(t)) == (expected[1:], type(expected[1]), type(expected[2]))
        assert len(sample) == len(expected) == 3
        assert torch.equal(sample[0], sample[-3])


@pytest.mark.parametrize("index", [60, 1000])
def test_there_is_an_end(index: int) -> None:
    for benchmark in (DIGITS, PRELOADED):
        with pytest.raises(IndexError):  # Avalanche's has no text
            data(benchmark)[index]
    assert len(list(data(PRELOADED))) == 60


def test_a_changed_sample_keeps_its_change() -> None:
    dataset = data(PRELOADED)
    samples = [dataset[i] for i in range(4)]
    samples[1][0] = samples[1][0] + 1
    del samples[2][2]
    samples[2].append(7)
    batch = dataset.collate_fn(samples)
    expected = default_collate([data(DIGITS)[i] for i in range(4)])
    expected[0][1] += 1
    assert torch.equal(batch[0], expected[0])
    assert batch[2].tolist() == [0, 0, 7, 0]
    assert default_collate(samples)[2].tolist() == [0, 0, 7, 0]
    assert samples[3].read is not None
    assert torch.equal(samples[3][0], data(DIGITS)[3][0])  # collating has not changed it


def test_samples_of_several_datasets_in_one_minibatch() -> None:
    places = [(0, 5), (1, 5), (None, 2), (0, 1), (1, 7), (2, 0), (None, 9), (0, 5)]

    def minibatch(benchmark: CLScenario) -> Any:
        samples = [data(DIGITS if n is None else benchmark, n or 0)[i] for n, i in places]
        return data(benchmark).collate_fn(samples)

    assert_same(minibatch(PRELOADED), minibatch(DIGITS))


def test_samples_that_do_not_fit_are_default_collates_error() -> None:
    samples = [data(PRELOADED)[0], [torch.zeros(1, 9, 9), torch.tensor(1), 0]]
    with pytest.raises(RuntimeError, match="equal size"):
        data(PRELOADED).collate_fn(samples)


def test_no_sample_is_read(mnist_root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    benchmark = preload(PermutedMNIST(3, seed=0, dataset_root=mnist_root))
    monkeypatch.setattr(TensorMNIST, "__getitem__", lambda *_: pytest.fail("read"))
    model = MLP(784)
    strategy = Replay(mem_size=20, **strategy_arguments(torch.nn.Sequential(torch.nn.Flatten(), model)))
    trained(strategy, benchmark)
    memory = EpisodicMemory(10)
    memory.remember(benchmark.train_stream[0].dataset.eval())
    assert len(memory) == 1


@pytest.mark.parametrize("workers", [0, 1])
def test_loaders(workers: int) -> None:
    def minibatches(benchmark: CLScenario) -> list[Any]:
        torch.manual_seed(3)
        dataset = concat_datasets([e.dataset for e in benchmark.train_stream])
        options = {"batch_size": 7, "shuffle": True, "num_workers": workers, "collate_fn": dataset.collate_fn}
        by_task = TaskBalancedDataLoader(dataset, **options)
        subset = DataLoader(Subset(dataset, range(50)), **options)
        plain = DataLoader(dataset, batch_size=7, num_workers=workers)  # with torch's default_collate
        batches = [*by_task, *DataLoader(dataset, **options), *subset, *plain]
        return [*batches, [torch.get_rng_state()]]

    for benchmark in (DIGITS, SPLIT):
        for a, b in zip(minibatches(benchmark), minibatches(preload(benchmark)), strict=True):
            assert_same(a, b)


def test_pickled_datasets() -> None:
    train = pickle.loads(pickle.dumps([e.dataset for e in PRELOADED.train_stream]))
    for number, dataset in enumerate(train):
        samples = [dataset[i] for i in range(20)]
        assert all(map(is_unread, samples))
        assert_same(
            dataset.collate_fn(samples), default_collate([data(DIGITS, number)[i] for i in range(20)])
        )
    assert type(pickle.loads(pickle.dumps(data(PRELOADED)[0]))) is list


def test_images_are_pickled_once(cifar: CIFAR100) -> None:
    transforms = {"train_transform": T.ToTensor(), "eval_transform": T.ToTensor()}
    benchmark = nc_benchmark(cifar, cifar, 1, task_labels=False, **transforms)
    dataset = data(preload(benchmark))
    before = len(pickle.dumps(dataset))
    dataset.collate_fn([dataset[i] for i in range(10)])
    after = len(pickle.dumps(dataset))
    assert abs(after - before) < 100
    assert after < 1.2 * len(pickle.dumps(data(benchmark)))


def test_images_of_another_type_in_one_dataset() -> None:
    def joined(is_preloaded: bool) -> Any:
        parts = []
        for dtype in (torch.float32, torch.float64):
            images = torch.arange(64.0).view(16, 1, 2, 2).to(dtype) / 3
            dataset = TensorDataset(images, torch.arange(16) % 2)
            dataset.targets = dataset.tensors[1].tolist()  # where Avalanche looks for the classes
            benchmark = nc_benchmark(dataset, dataset, 1, task_labels=False)
            parts.append(data(preload(benchmark) if is_preloaded else benchmark))
        return concat_datasets(parts)

    stock, preloaded = joined(False), joined(True)
    for indices in (range(16), range(16, 32), range(8, 24)):
        samples = [preloaded[i] for i in indices]
        assert is_unread(samples[0]) == (indices[0] < 16)
        assert_same(preloaded.collate_fn(samples), default_collate([stock[i] for i in indices]))


def test_wrapped_by_avalanches_own_datasets() -> None:
    for wrap in (
        lambda d: AvalancheDataset([d]),
        lambda d: AvalancheDataset([d, d]).subset(range(50, 70)),
        lambda d: AvalancheDataset([d], transform_groups={"train": SHIFT, "eval": SHIFT}),
        lambda d: d.update_data_attribute("logits", DataAttribute([torch.ones(2)] * 60, "logits", True)),
        lambda d: d.replace_current_transform_group(SHIFT),
        lambda d: d.remove_current_transform_group(),
        lambda d: AvalancheDataset([]).concat(d),
    ):
        a, b = wrap(data(DIGITS)), wrap(data(PRELOADED))
        assert_same(
            a.collate_fn([a[i] for i in range(len(a))]),
            b.collate_fn([b[i] for i in range(len(b))]),
        )


def test_a_buffer_of_all_experiences() -> None:
    buffers = []
    for benchmark in (DIGITS, PRELOADED):
        torch.manual_seed(0)
        buffer = ReservoirSamplingBuffer(25)
        for experience in benchmark.train_stream:
            buffer.update_from_dataset(experience.dataset)
        samples = [buffer.buffer[i] for i in range(25)]
        buffers.append(buffer.buffer.collate_fn(samples))
    assert all(map(is_unread, samples))
    assert_same(*buffers)


def test_online_streams() -> None:
    streams = [split_online_stream(b.train_stream, 25, seed=0) for b in (DIGITS, PRELOADED)]
    for a, b in zip(*streams, strict=True):
        n = len(a.dataset)
        samples = [b.dataset[i] for i in range(n)]
        assert all(map(is_unread, samples))
        assert_same(b.dataset.collate_fn(samples), default_collate([a.dataset[i] for i in range(n)]))


def test_a_stream_that_is_no_list_is_an_error() -> None:
    online = CLScenario([split_online_stream(DIGITS.train_stream, 25)])
    with pytest.raises(
        ValueError, match=r"stream 'train_online' is a CLStream, .*; preload the benchmark first"
    ):
        preload(online)


def test_a_collate_function_of_its_own_is_left_alone() -> None:
    dataset = AvalancheDataset([data(DIGITS)], collate_fn=len)
    with pytest.warns(UserWarning, match=r"collate_fn len \(train, eval\)"):
        benchmark = preload(benchmark_from_datasets(train=[dataset]))
    assert benchmark.train_stream[0].dataset is dataset


def trained(strategy: Any, benchmark: CLScenario) -> list[Any]:
    """Weights after training, accuracies, and the state of the generator."""
    parts = [benchmark.train_stream] if isinstance(strategy, JointTraining) else benchmark.train_stream
    results = []
    with quiet():
        for part in parts:
            strategy.train(part, eval_streams=[])
            metrics = strategy.eval(benchmark.test_stream).items()
            results += [value for name, value in metrics if "Acc_Exp" in name]
    return [parameters_of(strategy.model), torch.tensor(results), torch.get_rng_state()]


STRATEGIES: dict[str, Any] = {
    "naive": (Naive, {}),
    "cumulative": (Cumulative, {}),
    "joint": (JointTraining, {}),
    "replay": (Replay, {"mem_size": 30}),
    "der": (DER, {"mem_size": 30, "batch_size_mem": 5}),
    "gem": (GEM, {"patterns_per_exp": 10, "memory_strength": 0.5}),
    "dmgem": (DMGEM, {"patterns_per_exp": 10, "num_groups": 2}),
    "dmgem on transforms": (DMGEM, {"patterns_per_exp": 10, "memory_transform": "train"}),
}


@pytest.mark.parametrize("task_labels", [False, True])
@pytest.mark.parametrize("name", STRATEGIES)
def test_whole_runs_are_equal(name: str, task_labels: bool) -> None:
    make, options = STRATEGIES[name]
    results = []
    for is_preloaded in (False, True):
        benchmark = SPLIT if task_labels else DIGITS
        torch.manual_seed(0)
        arguments = strategy_arguments(torch.nn.Sequential(torch.nn.Flatten(), MLP()), **options)
        arguments["evaluator"] = EvaluationPlugin(accuracy_metrics(experience=True), loggers=[BaseLogger()])
        arguments["plugins"] = [BatchedEvaluation()] if is_preloaded else []
        strategy = make(eval_mb_size=16, **arguments)
        results.append(trained(strategy, preload(benchmark) if is_preloaded else benchmark))
    assert_same(*results)


def test_only_preloaded_benchmarks_are_evaluated_with_torchs_loader() -> None:
    probe = Probe("after_eval_iteration", lambda strategy: (type(strategy.dataloader), len(strategy.mb_x)))
    model = torch.nn.Sequential(torch.nn.Flatten(), MLP())
    strategy = Naive(**strategy_arguments(model), plugins=[BatchedEvaluation(0), probe], eval_mb_size=25)
    for benchmark in (DIGITS, PRELOADED):
        strategy.eval(benchmark.test_stream)
    loaders, sizes = zip(*probe.seen, strict=True)
    assert loaders == (SingleDatasetDataLoader,) * 6 + (DataLoader,) * 6
    assert sizes == (25, 15) * 6  # of 40 images
