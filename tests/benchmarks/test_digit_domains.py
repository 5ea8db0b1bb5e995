from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.lib.stride_tricks import sliding_window_view
from sklearn.datasets import load_digits, load_sample_image
from torch import Tensor
from torch.utils.data import default_collate
from torchvision.datasets import MNIST

from avalanche_mgem.benchmarks import DigitDomains, digit_domains
from avalanche_mgem.data import preload


def batch(dataset, indices) -> tuple[Tensor, Tensor]:  # type: ignore[no-untyped-def]
    x, y, _ = default_collate([list(dataset[index]) for index in indices])
    return x, y


def test_each_domain_is_an_experience_with_ten_digits(mnist_root: Path) -> None:
    benchmark = DigitDomains(mnist_root, seed=0)
    sizes = [[len(e.dataset) for e in benchmark.streams[name]] for name in ("train", "test")]
    assert sizes == [[60, 60, 1437, 20000, 20000], [30, 30, 360, 5000, 5000]]
    for stream in benchmark.streams.values():
        for experience in stream:
            assert set(experience.classes_in_this_experience) == set(range(10))
            x, _ = batch(experience.dataset, range(3))
            assert (x.shape, x.dtype) == ((3, 3, 32, 32), torch.float32)
            assert -1 <= float(x.min()) < float(x.max()) <= 1


def test_domains_are_chosen_and_need_no_mnist(tmp_path: Path) -> None:
    benchmark = DigitDomains(tmp_path, domains=["printed", "optical"], return_task_id=True, seed=0)
    assert [(len(e.dataset), e.task_labels) for e in benchmark.train_stream] == [(20000, [0]), (1437, [1])]
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(
        ValueError, match=r"domains=\[svhn\]: there is no 'svhn'; allowed are mnist, mnist_m, opt"
    ):
        DigitDomains(tmp_path, domains=["svhn"])


def test_the_seed_determines_every_image(mnist_root: Path) -> None:
    def images(seed: int | None) -> list[Tensor]:
        benchmark = DigitDomains(mnist_root, seed=seed)
        # In another order the second time: an image depends on its number and not on what was read before it.
        order = [0, 7, 19] if seed == 1 else [19, 7, 0]
        return [batch(e.dataset, order)[0].sort(dim=0).values for s in benchmark.streams.values() for e in s]

    before = torch.get_rng_state(), np.random.get_state()[1].copy()
    first = images(1)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert np.array_equal(np.random.get_state()[1], before[1])
    assert all(map(torch.equal, first, (x.sort(dim=0).values for x in images(1))))
    for other in (images(2), images(None)):
        is_made = [not torch.equal(a, b) for a, b in zip(first, other, strict=True)]
        assert is_made == [False, True, False, True, True] * 2


def test_mnist_m_is_the_absolute_difference_of_digit_and_photograph(mnist_root: Path) -> None:
    parts = digit_domains._domain("mnist_m", mnist(mnist_root), [3, 1])
    photos = [load_sample_image(name) for name in ("china.jpg", "flower.jpg")]
    for number, part in enumerate(parts):
        digit = MNIST(mnist_root, train=number == 0).data.numpy()
        for index in (0, 5, 11):
            found = part.images[index]
            assert (found.shape, found.dtype) == ((28, 28, 3), np.uint8)
            (place,) = {column for photo in photos for column in blended_at(found, digit[index], photo)}
            in_test = [128 <= column < 192 or 448 <= column < 512 for column in (place, place + 27)]
            assert in_test == [number == 1] * 2


def mnist(root: Path) -> tuple[MNIST, MNIST]:
    return MNIST(root), MNIST(root, train=False)


def blended_at(found: np.ndarray, digit: np.ndarray, photo: np.ndarray) -> list[int]:
    """The left columns of the patches of the photograph whose difference to the digit this is."""
    windows = sliding_window_view(photo.astype(int), (28, 28, 3)).squeeze(2)
    candidates = np.ones(windows.shape[:2], dtype=bool)
    for row, column in ((0, 0), (13, 14), (27, 27)):  # these three leave few
        difference = np.abs(windows[:, :, row, column] - int(digit[row, column]))
        candidates &= (difference == found[row, column]).all(axis=2)
    return [
        place[1]
        for place in np.argwhere(candidates).tolist()
        if np.array_equal(np.abs(windows[tuple(place)] - digit[:, :, None]), found)
    ]


def test_optical_digits_are_scikit_learns() -> None:
    stored = {image.tobytes(): target for image, target in zip(*load_digits(return_X_y=True), strict=True)}
    number = 0
    for dataset in digit_domains._domain("optical", (), [0, 2]):
        for image, target in zip(dataset.images, dataset.targets, strict=True):
            assert stored[(np.rint(image / (255 / 16))).astype(float).flatten().tobytes()] == target
            number += 1
    assert number == 1797


@pytest.mark.parametrize(("domain", "share"), [("printed", 0.4), ("printed_on_photos", 0.2)])
def test_printed_digits_can_be_told_apart(domain: str, share: float) -> None:
    """By their ink alone: nearest mean of each digit, where chance is 0.1."""
    benchmark = DigitDomains(domains=[domain], seed=0)
    (x, y), (test_x, test_y) = (
        batch(stream[0].dataset, range(n))
        for stream, n in zip(benchmark.streams.values(), (600, 200), strict=True)
    )
    x, test_x = (ink(values) for values in (x, test_x))
    means = torch.stack([x[y == digit].mean(dim=0) for digit in range(10)])
    assert (torch.cdist(test_x, means).argmin(dim=1) == test_y).float().mean() > share


def ink(images: Tensor) -> Tensor:
    """How far each pixel is from the median colour of its image."""
    median = images.flatten(2).median(dim=2).values[:, :, None, None]
    return (images - median).abs().sum(dim=1).flatten(1)


def test_printed_is_dark_on_light_and_every_font_has_the_digits() -> None:
    x, _ = batch(DigitDomains(domains=["printed"], seed=0).train_stream[0].dataset, range(50))
    pixels = (x + 1) / 2 * 255
    assert (pixels[:, :, 0, 0] > 190).all()
    assert (pixels.flatten(1).min(dim=1).values < 100).all()
    for name in digit_domains._FONTS:
        shapes = {bytes(digit_domains._font(name, 24).getmask(str(digit))) for digit in range(10)}
        assert len(shapes) == 10


def test_preloaded_it_is_the_same_bit_for_bit(mnist_root: Path) -> None:
    benchmark = DigitDomains(mnist_root, seed=0)
    fast = preload(benchmark)  # and no warning: nothing is read one by one
    for stream in ("train", "test"):
        for a, b in zip(fast.streams[stream], benchmark.streams[stream], strict=True):
            x, y, _ = a.dataset.plan(range(20))
            for found, expected in zip((x, y), batch(b.dataset, range(20)), strict=True):
                assert torch.equal(found, expected)
