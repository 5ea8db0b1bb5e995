"""Small trees of image files, in the layouts of docs/benchmarks.md."""

from collections.abc import Iterable
from pathlib import Path

from PIL import Image
from torch import Tensor

DIGITS = [str(digit) for digit in range(10)]


def colour(experience: int, class_: int, number: int) -> tuple[int, int, int]:
    """What an image shows; the test images have the numbers from 100."""
    return 40 * experience, 20 * class_, number


def read_colours(images: Iterable[Tensor]) -> list[tuple[int, ...]]:
    """Colours of images [3, h, w] whose pixels 0..255 have become -1..1; each has one colour only."""
    bytes_ = [((image + 1) * 127.5).round().long() for image in images]
    assert all((image == image[:, :1, :1]).all() for image in bytes_)
    return [tuple(image[:, 0, 0].tolist()) for image in bytes_]


def write_image(path: Path, pixel: tuple[int, int, int] = (1, 2, 3), size: tuple[int, int] = (7, 5)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, pixel).save(path)


def write_classes(folder: Path, experience: int, classes: Iterable[str], n_train: int = 3, n_test: int = 2):
    """``folder/{train,test}/<class>/<images>``, of classes that are a digit or a letter from a to j each."""
    for class_ in classes:
        number = int(class_, 20) % 10
        for split, first, n in (("train", 0, n_train), ("test", 100, n_test)):
            for i in range(first, first + n):
                write_image(folder / split / class_ / f"{i:03}.png", colour(experience, number, i))


def write_digit_five(root: Path, domains: Iterable[str], n_train: int = 3) -> None:
    for number, domain in enumerate(domains):
        write_classes(root / "digit_five" / domain, number, DIGITS, n_train=n_train)


def write_domain_net(root: Path, domains: Iterable[str], classes: Iterable[str] = ("axe", "bee")) -> None:
    """JPEG files, and the lists: of each class two images for training and one for testing."""
    for experience, domain in enumerate(domains):
        lines: dict[str, list[str]] = {"train": [], "test": []}
        for class_id, name in enumerate(classes):
            for i in range(3):
                path = f"{domain}/{name}/{domain}_{class_id:03}_{i:06}.jpg"
                write_image(root / "domainnet" / path, colour(experience, class_id, i), size=(30, 20))
                lines["train" if i < 2 else "test"].append(f"{path} {class_id}\n")
        for split, some in lines.items():
            (root / "domainnet" / f"{domain}_{split}.txt").write_text("".join(some))
