"""The arithmetic alone of GEM's experiment on permuted MNIST: a bound on its time, not a method.

A step is a replay: one forward and one backward over the minibatch and all memories in one batch, and SGD.
So each sample that GEM looks at is looked at once, and nothing is projected. There is no strategy, plugin,
loader, metric or check. The file knows torch alone: nothing of Avalanche or of this package is in its time.

Accuracies are those of replay. They are not to be compared with GEM's.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Generator, Tensor, nn
from torch.nn.functional import cross_entropy

MEAN, STD = 0.1307, 0.3081
"""Of MNIST's pixels in 0..1: Avalanche normalises with them."""

Samples = tuple[Tensor, Tensor]
"""Images ``[n, pixels]`` and their classes ``[n]``."""


@dataclass(frozen=True)
class Sizes:
    """The sizes of the experiment. The defaults are those of the GEM paper, but for the test minibatch.

    Attributes:
        n_experiences: number of permutations.
        samples_per_experience: random training images of each experience. All test images are used.
        patterns_per_exp: samples kept of each past experience. Every step looks at all of them.
        train_mb_size: samples of a minibatch in training.
        eval_mb_size: the same in tests. 512 is the default of ``mgem``.
        hidden_size: units of each of the two hidden layers.
    """

    n_experiences: int = 20
    samples_per_experience: int = 1000
    patterns_per_exp: int = 256
    train_mb_size: int = 10
    eval_mb_size: int = 512
    hidden_size: int = 100


@dataclass(frozen=True)
class Images:
    """A data set as its files hold it: images are bytes ``[n, pixels]``, classes are integers ``[n]``."""

    train: Samples
    test: Samples


@dataclass(frozen=True)
class Experiences:
    """The training and test samples of every experience, permuted and normalised to float32.

    All test images of twenty experiences of MNIST take 627 MB. So no test computes them again.
    """

    train: list[Samples]
    test: list[Samples]


@dataclass
class Seconds:
    """Seconds of one part of the experiment, added up: of the processor, and of the clock on the wall."""

    cpu: float = 0.0
    wall: float = 0.0

    @contextmanager
    def measured(self) -> Iterator[None]:
        """Adds what a ``with`` block takes."""
        cpu, wall = time.process_time(), time.perf_counter()
        yield
        self.cpu += time.process_time() - cpu
        self.wall += time.perf_counter() - wall


@dataclass(frozen=True)
class Floor:
    """What one run took.

    Attributes:
        matrix: accuracies of replay; row 0 is the untrained model, row i follows experience i - 1.
        build: reading the files and making the experiences.
        train: training on all experiences.
        test: testing on all experiences, before the first training and after each.
    """

    matrix: list[list[float]]
    build: Seconds
    train: Seconds
    test: Seconds


def run(read: Callable[[], Images], sizes: Sizes, *, lr: float, seed: int) -> Floor:
    """The whole experiment, with the threads that torch has.

    Args:
        read: gives the data set, such as :func:`read_mnist` with a folder. It is a part of ``build``.
        sizes: of the experiment.
        lr: learning rate of SGD.
        seed: of permutations, subsets, weights, minibatches and memories.
    """
    parts = Seconds(), Seconds(), Seconds()
    building, training, testing = parts
    with building.measured():
        experiences = build(read(), sizes, seed=seed)
    generator = Generator().manual_seed(seed)
    torch.manual_seed(seed)
    (images, classes), hidden = experiences.test[0], sizes.hidden_size
    model = nn.Sequential(
        nn.Linear(images.shape[1], hidden),
        nn.ReLU(),
        nn.Linear(hidden, hidden),
        nn.ReLU(),
        nn.Linear(hidden, int(classes.max()) + 1),
    )
    optimizer = torch.optim.SGD(model.parameters(), lr=lr)
    memory: list[Samples] = []
    with testing.measured():
        matrix = [accuracies(model, experiences.test, sizes.eval_mb_size)]
    for samples in experiences.train:
        with training.measured():
            train(model, optimizer, samples, memory, sizes.train_mb_size, generator)
            memory.append(chosen(samples, sizes.patterns_per_exp, generator))
        with testing.measured():
            matrix.append(accuracies(model, experiences.test, sizes.eval_mb_size))
    return Floor(matrix, *parts)


def read_mnist(root: Path) -> Images:
    """MNIST from its four files, which lie where torchvision puts them."""

    def samples(name: str) -> Samples:
        files = [root / "MNIST" / "raw" / f"{name}-{what}-ubyte" for what in ("images-idx3", "labels-idx1")]
        x, y = (torch.frombuffer(bytearray(file.read_bytes()), dtype=torch.uint8) for file in files)
        return x[16:].view(-1, 28 * 28), y[8:].long()  # behind the headers

    return Images(samples("train"), samples("t10k"))


def build(images: Images, sizes: Sizes, *, seed: int) -> Experiences:
    """Permutes the pixels of a random subset of the training images, and of all test images, once each."""
    generator = Generator().manual_seed(seed)
    trained, tested = [], []
    for _ in range(sizes.n_experiences):
        permutation = torch.randperm(images.test[0].shape[1], generator=generator)
        x, y = chosen(images.train, sizes.samples_per_experience, generator)
        trained.append((_pixels(x, permutation), y))
        tested.append((_pixels(images.test[0], permutation), images.test[1]))
    return Experiences(trained, tested)


def train(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    samples: Samples,
    memory: Sequence[Samples],
    mb_size: int,
    generator: Generator,
) -> None:
    """One pass over the samples in random minibatches, each with all of the memory in one batch."""
    x, y = samples
    # The memory lies in front and does not change; a minibatch is written behind it.
    xs, ys = (torch.cat([*(past[i] for past in memory), samples[i][:mb_size]]) for i in range(2))
    n_past = len(xs) - len(x[:mb_size])
    for drawn in torch.split(torch.randperm(len(x), generator=generator), mb_size):
        end = n_past + len(drawn)
        xs[n_past:end], ys[n_past:end] = x[drawn], y[drawn]
        optimizer.zero_grad()
        cross_entropy(model(xs[:end]), ys[:end]).backward()  # type: ignore[no-untyped-call]
        optimizer.step()


@torch.no_grad()
def accuracies(model: nn.Module, tests: Sequence[Samples], mb_size: int) -> list[float]:
    """The accuracy on each experience."""
    found = []
    for x, y in tests:
        pairs = zip(torch.split(x, mb_size), torch.split(y, mb_size), strict=True)
        right = sum(int((model(part).argmax(dim=1) == classes).sum()) for part, classes in pairs)
        found.append(right / len(y))
    return found


def chosen(samples: Samples, n: int, generator: Generator) -> Samples:
    """``n`` random samples; all if there are no more."""
    x, y = samples
    drawn = torch.randperm(len(y), generator=generator)[:n]
    return x[drawn], y[drawn]


def _pixels(x: Tensor, permutation: Tensor) -> Tensor:
    """Bytes to permuted, normalised pixels."""
    return x[:, permutation].float().div_(255).sub_(MEAN).div_(STD)
