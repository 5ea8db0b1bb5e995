import bz2
import hashlib
from pathlib import Path

import numpy as np
import pytest
import scipy.io
import torch
from image_trees import DIGITS, colour, read_colours, write_digit_five, write_image
from PIL import Image
from torch.utils.data import default_collate
from torchvision.datasets import SVHN

from avalanche_mgem.benchmarks import DigitFive
from avalanche_mgem.data import preload

FIVE = ["mnist", "mnist_m", "svhn", "usps", "synth_digits"]


def batch(dataset) -> list[torch.Tensor]:  # type: ignore[no-untyped-def]
    return default_collate([list(sample) for sample in dataset])


def test_each_domain_is_an_experience(tmp_path: Path) -> None:
    write_digit_five(tmp_path, FIVE)
    benchmark = DigitFive(tmp_path)
    for stream, numbers in ((benchmark.train_stream, range(3)), (benchmark.test_stream, range(100, 102))):
        assert len(stream) == 5
        for number, experience in enumerate(stream):
            x, y, t = batch(experience.dataset)
            assert x.shape == (10 * len(numbers), 3, 32, 32)
            assert y.tolist() == [digit for digit in range(10) for _ in numbers]
            assert read_colours(x) == [colour(number, digit, n) for digit in range(10) for n in numbers]
            assert set(t.tolist()) == {0}
            assert set(experience.classes_in_this_experience) == set(range(10))


def test_domains_are_chosen_and_ordered(tmp_path: Path) -> None:
    write_digit_five(tmp_path, FIVE)
    benchmark = DigitFive(tmp_path, domains=["usps", "mnist"], return_task_id=True)
    assert [e.task_labels for e in benchmark.train_stream] == [[0], [1]]
    assert read_colours(batch(benchmark.test_stream[0].dataset)[0])[0] == colour(3, 0, 100)
    assert read_colours(batch(benchmark.test_stream[1].dataset)[0])[0] == colour(0, 0, 100)


def write_usps(path: Path, images: np.ndarray, digits: list[int]) -> None:
    """libsvm's text: the digit plus one, and pixels in -1..1, whose fraction of 255 torchvision cuts off."""
    values = np.minimum((images.reshape(len(images), -1) + 0.5) / 255, 1) * 2 - 1
    rows = [
        " ".join([str(digit + 1), *(f"{place}:{v:.6f}" for place, v in enumerate(row, 1))])
        for row, digit in zip(values, digits, strict=True)
    ]
    path.write_bytes(bz2.compress("\n".join(rows).encode()))


def write_svhn(path: Path, images: np.ndarray, digits: list[int]) -> None:
    """MATLAB's file: the image comes last, and the digit 0 is called 10."""
    labels = np.array([[digit or 10] for digit in digits], dtype=np.uint8)
    scipy.io.savemat(path, {"X": images.transpose(1, 2, 3, 0), "y": labels})


def test_torchvisions_files_are_the_same_images_as_folders(
    tmp_path: Path, mnist_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    draw = np.random.default_rng(0)
    root, trees = tmp_path / "files", tmp_path / "trees"
    root.mkdir()
    (root / "MNIST").symlink_to(mnist_root / "MNIST")
    images = {
        "svhn": draw.integers(0, 256, (20, 32, 32, 3), dtype=np.uint8),
        "usps": draw.integers(0, 256, (20, 16, 16), dtype=np.uint8),
    }
    digits = [digit for digit in range(10) for _ in range(2)]
    for split, usps in (("train", "usps.bz2"), ("test", "usps.t.bz2")):
        write_usps(root / usps, images["usps"], digits)
        write_svhn(root / f"{split}_32x32.mat", images["svhn"], digits)
        md5 = hashlib.md5((root / f"{split}_32x32.mat").read_bytes()).hexdigest()
        monkeypatch.setitem(SVHN.split_list, split, ["", f"{split}_32x32.mat", md5])
        for domain, pixels in images.items():
            for i, (image, digit) in enumerate(zip(pixels, digits, strict=True)):
                path = trees / "digit_five" / domain / split / str(digit) / f"{i:02}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(image).save(path)
    read = DigitFive(root, domains=["svhn", "usps", "mnist"])
    from_folders = DigitFive(trees, domains=["svhn", "usps"])
    for name in ("train", "test"):
        for a, b in zip(from_folders.streams[name], read.streams[name][:2], strict=True):
            xs, ys = batch(a.dataset), batch(b.dataset)
            assert ys[1].tolist() == digits == xs[1].tolist()
            assert torch.equal(xs[0], ys[0])
    assert [len(e.dataset) for e in (read.train_stream[2], read.test_stream[2])] == [60, 30]
    assert read.train_stream[2].dataset[0][0].shape == (3, 32, 32)


def test_folders_come_before_torchvisions_files(tmp_path: Path, mnist_root: Path) -> None:
    write_digit_five(tmp_path, ["mnist"])
    (tmp_path / "MNIST").symlink_to(mnist_root / "MNIST")
    assert len(DigitFive(tmp_path, domains=["mnist"]).train_stream[0].dataset) == 30


def test_preloaded_it_is_the_same_bit_for_bit(tmp_path: Path, mnist_root: Path) -> None:
    write_digit_five(tmp_path, ["mnist_m"])
    (tmp_path / "MNIST").symlink_to(mnist_root / "MNIST")
    benchmark = DigitFive(tmp_path, domains=["mnist", "mnist_m"])
    fast = preload(benchmark)  # and no warning: nothing is read one by one
    for stream in ("train", "test"):
        for a, b in zip(fast.streams[stream], benchmark.streams[stream], strict=True):
            found = a.dataset.plan(range(len(a.dataset)))
            assert all(torch.equal(x, y) for x, y in zip(found, batch(b.dataset), strict=True))


def test_errors_name_what_is_missing(tmp_path: Path, mnist_root: Path) -> None:
    def error(**given: object) -> str:
        with pytest.raises(ValueError, match=r".") as caught:
            DigitFive(tmp_path, **given)
        assert "\n" not in str(caught.value)
        return str(caught.value)

    folder = tmp_path / "digit_five" / "mnist"
    assert error() == (
        f"domain 'mnist' is missing: there is no folder {folder}, and no file "
        f"{tmp_path}/MNIST/raw/train-images-idx3-ubyte, which torchvision would read."
    )
    assert error(domains=["mnist_m"]).endswith(f"is missing: there is no folder {folder}_m.")
    assert error(domains=["cifar"]).startswith(
        "domains=[cifar]: there is no 'cifar'; allowed are mnist, mnist_m"
    )
    for name in ("usps.bz2", "usps.t.bz2", "train_32x32.mat", "test_32x32.mat"):
        (tmp_path / name).write_bytes(b"no data")
    assert error(domains=["usps"]).startswith(
        f"torchvision cannot read usps.bz2 and usps.t.bz2 in {tmp_path}: "
    )
    assert error(domains=["svhn"]).startswith(
        "torchvision cannot read train_32x32.mat and test_32x32.mat in "
    )

    write_digit_five(tmp_path, ["mnist"])
    assert len(DigitFive(tmp_path, domains=["mnist"]).train_stream) == 1
    write_image(folder / "test/ten/1.png")
    listed = ", ".join([*DIGITS, "ten"])
    assert error() == f"the folder {folder}/test must hold the ten folders 0 to 9; it has {listed}."
