"""A preloaded benchmark is the same benchmark: every minibatch, bit for bit, and every draw."""

import gc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import avalanche.benchmarks as ab
import numpy as np
import pytest
import torch
from avalanche.benchmarks import CLScenario
from avalanche.benchmarks.classic.ccifar100 import (
    _default_cifar100_eval_transform,
    _default_cifar100_train_transform,
)
from avalanche.benchmarks.classic.cmnist import PixelsPermutation
from avalanche.benchmarks.utils import make_avalanche_dataset
from avalanche.benchmarks.utils.transform_groups import TransformGroups
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils.data import DataLoader, default_collate
from torchvision import transforms as T  # noqa: N812
from torchvision.datasets import CIFAR100, MNIST

from avalanche_mgem.benchmarks import PermutedDigits, PermutedMNIST, RotatedMNIST, SplitDigits
from avalanche_mgem.data import RGBImages, preload, subsample

NORMALIZE = T.Compose([T.Normalize((0.1307,), (0.3081,)), T.Compose([T.Normalize([0.2], [3.0])])])
SHIFT = T.Normalize((0.25,), (2.0,))
PERMUTATION = PixelsPermutation(torch.randperm(784, generator=torch.Generator().manual_seed(0)))
PIL_CHAINS = {
    "to tensor": T.ToTensor(),
    "normalize": T.Compose([T.ToTensor(), NORMALIZE]),
    "permute PIL": T.Compose([PERMUTATION, T.ToTensor(), NORMALIZE]),
    "permute tensor": T.Compose([T.ToTensor(), PERMUTATION, PERMUTATION, NORMALIZE]),
    "rotate PIL": T.Compose([T.RandomRotation((33, 33)), T.ToTensor(), NORMALIZE]),
    "rotate tensor": T.Compose([T.ToTensor(), T.RandomRotation((-100.5, -100.5))]),
    "permute, rotate": T.Compose([PERMUTATION, T.RandomRotation((20, 20)), T.ToTensor(), NORMALIZE]),
    "rotate, permute": T.Compose([T.RandomRotation((70, 70), center=(3, 9)), PERMUTATION, T.ToTensor()]),
    "rotate twice": T.Compose([T.RandomRotation((20, 20)), T.ToTensor(), T.RandomRotation((50, 50))]),
    "quarter": T.Compose([T.RandomRotation((90, 90)), T.ToTensor()]),
}


def stock(dataset: Any, indices: list[int] | range) -> list[Tensor]:
    """What Avalanche makes of the samples; a rotation draws, but nothing depends on it."""
    return default_collate([dataset[i] for i in indices])


def fast(dataset: Any, indices: list[int] | range) -> list[Tensor]:
    """The same of a preloaded dataset, of whose samples none may be read."""
    samples = [dataset[i] for i in indices]
    assert all(type(sample) is not list and sample.read is None for sample in samples)
    batch = dataset.collate_fn(samples)
    assert all(sample.read is None for sample in samples)
    return batch


def assert_same(a: list[Tensor], b: list[Tensor]) -> None:
    assert type(a) is type(b) is list
    assert len(a) == len(b) > 0
    for x, y in zip(a, b, strict=True):
        assert (x.dtype, x.shape, x.is_contiguous()) == (y.dtype, y.shape, y.is_contiguous())
        assert torch.equal(x, y)


def assert_equal(benchmark: CLScenario, preloaded: CLScenario, *groups: str) -> None:
    """All of both benchmarks, sample by sample."""
    assert list(benchmark.streams) == list(preloaded.streams)
    for name in benchmark.streams:
        assert len(benchmark.streams[name]) == len(preloaded.streams[name])
        for a, b in zip(benchmark.streams[name], preloaded.streams[name], strict=True):
            assert b.origin_stream.benchmark is preloaded or b.origin_stream.benchmark is None
            for what in ("current_experience", "task_labels", "classes_in_this_experience", "future_classes"):
                assert getattr(a, what, None) == getattr(b, what, None)
            for what in ("targets", "targets_task_labels"):
                assert list(getattr(a.dataset, what)) == list(getattr(b.dataset, what))
            n = len(a.dataset)
            assert len(b.dataset) == n
            assert_same(stock(a.dataset, range(n)), fast(b.dataset, range(n)))
            for group in groups:
                x, y = a.dataset.with_transforms(group), b.dataset.with_transforms(group)
                for indices in (range(n), torch.randint(n, (n + 3,)).tolist()):
                    assert_same(stock(x, indices), fast(y, indices))


def single(train: Any, test: Any, transform: Any = None, **options: Any) -> CLScenario:
    return ab.nc_benchmark(
        train,
        test,
        2,
        task_labels=True,
        seed=1,
        train_transform=transform,
        eval_transform=transform,
        **options,
    )


BENCHMARKS: dict[str, Callable[[Path], CLScenario]] = {
    "permuted digits": lambda _: subsample(PermutedDigits(3, seed=0, return_task_id=True), 99, 50),
    "split digits": lambda _: subsample(
        SplitDigits(5, seed=0, train_transform=NORMALIZE, eval_transform=NORMALIZE), 60, 30
    ),
    "digits from zero": lambda _: SplitDigits(
        5, seed=0, return_task_id=True, class_ids_from_zero_in_each_exp=True
    ),
    "permuted": lambda root: PermutedMNIST(3, seed=0, return_task_id=True, dataset_root=root),
    "rotated": lambda root: RotatedMNIST(3, rotations_list=[-17.3, 90, 200], dataset_root=root),
    "avalanche permuted": lambda root: ab.PermutedMNIST(3, seed=0, dataset_root=root),
    "avalanche rotated": lambda root: ab.RotatedMNIST(2, seed=0, return_task_id=True, dataset_root=root),
    "split": lambda root: ab.SplitMNIST(
        5, seed=0, return_task_id=True, class_ids_from_zero_in_each_exp=True, dataset_root=root
    ),
    "instances": lambda root: ab.ni_benchmark(
        *(e.dataset for s in ab.SplitMNIST(1, dataset_root=root).streams.values() for e in s), n_experiences=3
    ),
    "validation": lambda root: ab.benchmark_with_validation_stream(
        ab.SplitMNIST(5, seed=0, dataset_root=root), 0.5, seed=0
    ),
}


@pytest.mark.filterwarnings(
    "ignore:stream generator will be converted to a list"
)  # Avalanche, of its own stream
@pytest.mark.parametrize("name", BENCHMARKS)
def test_every_minibatch_is_equal(mnist_root: Path, name: str) -> None:
    benchmark = BENCHMARKS[name](mnist_root)
    preloaded = preload(benchmark)  # without a warning, which is an error here
    assert_equal(benchmark, preloaded, "train", "eval")
    assert_equal(benchmark, preload(preloaded), "train", "eval")


@pytest.mark.parametrize("name", PIL_CHAINS)
def test_every_known_chain_on_pil_images(pil_mnist: MNIST, name: str) -> None:
    benchmark = single(pil_mnist, pil_mnist, PIL_CHAINS[name])
    assert_equal(benchmark, preload(benchmark), "train", "eval")
    pil_mnist.transform = PIL_CHAINS[name]  # and as the data set's own
    benchmark = single(pil_mnist, pil_mnist)
    assert_equal(benchmark, preload(benchmark), "train", "eval")


@pytest.mark.parametrize("name", ["to tensor", "rotate PIL", "rotate tensor", "quarter"])
def test_every_known_chain_on_colours(cifar: CIFAR100, name: str) -> None:
    benchmark = single(cifar, cifar, PIL_CHAINS[name], class_ids_from_zero_from_first_exp=True)
    assert_equal(benchmark, preload(benchmark), "train", "eval")


def images_in_memory(n: int) -> set[int]:
    """Where tensors of at least n bytes are held."""
    tensors = [x for x in gc.get_objects() if type(x) is Tensor and x.dtype == torch.uint8 and x.numel() >= n]
    return {x.untyped_storage().data_ptr() for x in tensors}


def test_images_are_held_once(mnist_root: Path) -> None:
    benchmark = PermutedMNIST(3, seed=0, dataset_root=mnist_root)
    before = images_in_memory(30 * 784)
    preloaded = preload(benchmark)
    fast(preloaded.train_stream[0].dataset, range(10))
    assert len(before) >= 2  # training and test images
    assert images_in_memory(30 * 784) == before


def test_images_of_one_data_set_are_decoded_into_one_place() -> None:
    pixels = np.zeros((20, 4, 4), dtype=np.uint8)
    train, test = (RGBImages(list(pixels), [i % 4 for i in range(20)], image_size=6) for _ in range(2))
    benchmark = single(train, test, T.ToTensor())
    before = images_in_memory(20 * 3 * 6 * 6)
    preloaded = preload(benchmark)
    assert len(preloaded.train_stream) == 2
    assert len(images_in_memory(20 * 3 * 6 * 6) - before) == 2  # of training and of test


def test_the_benchmark_itself_stays_as_it_is(mnist_root: Path) -> None:
    benchmark = PermutedMNIST(2, seed=0, dataset_root=mnist_root)
    datasets = [e.dataset for e in benchmark.train_stream]
    before = [(type(d), dict(vars(d)), d._flat_data._datasets[0]) for d in datasets]
    preload(benchmark)
    assert [e.dataset for e in benchmark.train_stream] == datasets
    assert [(type(d), dict(vars(d)), d._flat_data._datasets[0]) for d in datasets] == before
    assert benchmark.train_stream.benchmark is benchmark


def cifar_benchmark(cifar: CIFAR100) -> CLScenario:
    options = {
        "train_transform": _default_cifar100_train_transform,
        "eval_transform": _default_cifar100_eval_transform,
    }
    return ab.nc_benchmark(cifar, cifar, 2, task_labels=True, seed=0, **options)


def test_random_transforms_are_avalanches_and_named(cifar: CIFAR100) -> None:
    benchmark = cifar_benchmark(cifar)
    with pytest.warns(UserWarning, match=r"^preload: [^\n]*RandomCrop \(train\)$") as record:
        preloaded = preload(benchmark)
    assert len(record) == 1
    for a, b in zip(benchmark.train_stream, preloaded.train_stream, strict=True):
        assert_same(stock(a.dataset.eval(), range(20)), fast(b.dataset.eval(), range(20)))
        torch.manual_seed(0)
        expected = stock(a.dataset, range(20))
        after = torch.get_rng_state()
        torch.manual_seed(0)
        assert_same(expected, stock(b.dataset, range(20)))
        assert torch.equal(torch.get_rng_state(), after)


def test_what_is_random_is_read_once(cifar: CIFAR100) -> None:
    benchmark = cifar_benchmark(cifar)
    with pytest.warns(UserWarning, match=r"RandomCrop \(train\)$"):
        dataset = preload(benchmark).train_stream[0].dataset

    def twice(samples: Any) -> tuple[Tensor, Tensor]:
        first, second = (torch.stack([sample[0] for sample in samples]) for _ in range(2))
        return first, second

    first, second = next(iter(DataLoader(dataset, batch_size=20, collate_fn=twice)))
    assert torch.equal(first, second)
    assert not torch.equal(first, next(iter(DataLoader(dataset, batch_size=20, collate_fn=twice)))[0])


class OwnNormalize(T.Normalize):  # type: ignore[misc]
    """A subclass, which might do anything."""


UNKNOWN = [
    (T.Compose([T.ToTensor(), OwnNormalize((0.5,), (0.5,))]), "OwnNormalize"),
    (T.Compose([T.ToTensor(), T.Lambda(lambda x: x + 1)]), "Lambda"),
    (lambda image: T.functional.to_tensor(image), "<lambda>"),
    (T.Compose([T.RandomRotation((0, 1)), T.ToTensor()]), "RandomRotation"),
    (T.Compose([T.RandomRotation((9, 9), fill=7), T.ToTensor()]), "RandomRotation"),
    (T.Compose([T.RandomRotation((9, 9), expand=True), T.Resize(28), T.ToTensor()]), "RandomRotation"),
    (T.Compose([T.RandomRotation((9, 9), T.InterpolationMode.BILINEAR), T.ToTensor()]), "RandomRotation"),
    (T.Compose([T.ToTensor(), NORMALIZE, PERMUTATION]), "PixelsPermutation"),
    (T.Compose([T.ToTensor(), T.Normalize((0.5,), (0.5,), inplace=True)]), "Normalize"),
    (T.PILToTensor(), "PILToTensor"),
    (None, "PIL images"),
]


@pytest.mark.parametrize(("transform", "name"), UNKNOWN)
def test_unknown_transforms_are_left_alone(pil_mnist: MNIST, transform: Any, name: str) -> None:
    benchmark = single(pil_mnist, pil_mnist, transform)
    with pytest.warns(UserWarning, match=rf": {name} \(train, eval\)$"):
        preloaded = preload(benchmark)
    for a, b in zip(benchmark.train_stream, preloaded.train_stream, strict=True):
        assert b.dataset is a.dataset


def test_a_data_set_of_another_type_is_left_alone(pil_mnist: MNIST) -> None:
    class Brighter(MNIST):  # type: ignore[misc]
        def __getitem__(self, index: int) -> Any:
            image, target = super().__getitem__(index)
            return image.point(lambda value: value // 2), target

    pil_mnist.__class__ = Brighter
    with pytest.warns(UserWarning, match=r"data set Brighter \(train, eval\)"):
        preload(single(pil_mnist, pil_mnist, T.ToTensor()))


# What a transform of a known type makes of the right result for the image of this number.
WRONG: dict[str, Callable[[Tensor, int], Tensor]] = {
    "first": lambda x, number: x + (number == 0),
    "middle": lambda x, number: x + (number == 20),
    "last": lambda x, number: x + (number == 39),
    "dtype": lambda x, _: x.double(),
    "shape": lambda x, _: x.expand(3, -1, -1),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_a_result_that_differs_is_noticed(pil_mnist: MNIST, wrong: str) -> None:
    bytes_ = [image.tobytes() for image, _ in pil_mnist]
    normalize = T.Normalize((0.5,), (2.0,))
    right = normalize.forward
    normalize.forward = lambda x: WRONG[wrong](
        right(x), bytes_.index((x * 255).round().byte().numpy().tobytes())
    )
    transforms = {"train": T.Compose([T.ToTensor(), normalize]), "eval": T.ToTensor()}
    dataset = make_avalanche_dataset(pil_mnist, transform_groups=TransformGroups(transforms))
    with pytest.warns(UserWarning, match="a result that differs"):
        assert preload(ab.benchmark_from_datasets(train=[dataset])).train_stream[0].dataset is dataset


def test_further_groups_of_transforms(pil_mnist: MNIST) -> None:
    groups = {
        "train": T.ToTensor(),
        "eval": T.ToTensor(),
        "rotated": PIL_CHAINS["rotate PIL"],
        "odd": T.Grayscale(),
    }
    part = make_avalanche_dataset(pil_mnist, transform_groups=TransformGroups(groups))
    whole = make_avalanche_dataset(part, transform_groups=TransformGroups({"train": SHIFT, "eval": None}))
    with pytest.warns(UserWarning, match=r": Grayscale \(odd\)$"):
        first, second = preload(ab.benchmark_from_datasets(train=[part, whole])).train_stream
    views = [(part, first, group) for group in ("train", "eval", "rotated")]
    views += [(whole, second, group) for group in ("train", "eval")]
    for dataset, experience, group in views:
        expected = stock(dataset.with_transforms(group), range(40))
        assert_same(expected, fast(experience.dataset.with_transforms(group), range(40)))


def test_nothing_is_drawn(mnist_root: Path) -> None:
    benchmark = RotatedMNIST(2, seed=0, dataset_root=mnist_root)
    before = torch.get_rng_state()
    fast(preload(benchmark).train_stream[0].dataset, range(10))
    assert torch.equal(torch.get_rng_state(), before)


# Subsets and concatenations of the datasets of three experiences, as buffers make them.
Operation = tuple[str, int, int]
KINDS = st.sampled_from(["subset", "concat", "eval", "freeze", "keep"])
TREES = st.lists(st.tuples(KINDS, st.integers(0, 8), st.integers(0, 99)), min_size=1, max_size=8)


def grown(experiences: Any, operations: list[Operation]) -> list[Any]:
    """Datasets made of an experience's, step by step, each step from the last or from an earlier one."""
    made = [experience.dataset for experience in experiences]
    for kind, other, seed in operations:
        dataset = made[-1]
        indices = torch.randint(len(dataset), (7,), generator=torch.Generator().manual_seed(seed)).tolist()
        made.append(
            {
                "subset": lambda: dataset.subset(indices),  # noqa: B023
                "concat": lambda: dataset.concat(made[other % len(made)]),  # noqa: B023
                "eval": lambda: dataset.eval(),  # noqa: B023
                "freeze": lambda: dataset.freeze_transforms(),  # noqa: B023
                "keep": lambda: made[other % len(made)],  # noqa: B023
            }[kind]()
        )
    return made


GROWING = SplitDigits(5, seed=0, return_task_id=True, train_transform=NORMALIZE, eval_transform=SHIFT)
GROWN = preload(GROWING)


@pytest.mark.filterwarnings("ignore:Concatenated datasets have different transformation groups")
@settings(max_examples=60)
@given(operations=TREES)
def test_whatever_is_made_of_the_datasets_is_equal(operations: list[Operation]) -> None:
    pairs = zip(grown(GROWING.train_stream, operations), grown(GROWN.train_stream, operations), strict=True)
    for a, b in list(pairs)[5:]:
        assert len(a) == len(b)
        assert list(a.targets) == list(b.targets)
        indices = torch.randperm(len(a))[:50].tolist()
        assert_same(stock(a, indices), fast(b, indices))
