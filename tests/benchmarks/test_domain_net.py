from pathlib import Path

import pytest
import torch
from image_trees import colour, read_colours, write_domain_net
from torch.utils.data import default_collate

from avalanche_mgem.benchmarks import DomainNet
from avalanche_mgem.data import preload

SIX = ["clipart", "infograph", "painting", "quickdraw", "real", "sketch"]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    write_domain_net(tmp_path, SIX)
    return tmp_path


def batch(dataset) -> list[torch.Tensor]:  # type: ignore[no-untyped-def]
    return default_collate([list(sample) for sample in dataset])


def is_close(found: list[tuple[int, ...]], wanted: list[tuple[int, ...]]) -> bool:
    """Up to the loss of JPEG."""
    return len(found) == len(wanted) and (torch.tensor(found) - torch.tensor(wanted)).abs().max() <= 3


def test_each_domain_is_an_experience_split_as_its_lists_say(root: Path) -> None:
    benchmark = DomainNet(root)
    for stream, numbers in ((benchmark.train_stream, (0, 1)), (benchmark.test_stream, (2,))):
        assert len(stream) == 6
        for number, experience in enumerate(stream):
            x, y, t = batch(experience.dataset)
            assert x.shape[1:] == (3, 64, 64)
            assert y.tolist() == [c for c in (0, 1) for _ in numbers]
            assert is_close(read_colours(x), [colour(number, c, n) for c in (0, 1) for n in numbers])
            assert set(t.tolist()) == {0}
            assert set(experience.classes_in_this_experience) == {0, 1}


def test_domains_and_size_are_chosen(root: Path) -> None:
    benchmark = DomainNet(root, domains=["real", "clipart"], image_size=5, return_task_id=True)
    assert [e.task_labels for e in benchmark.test_stream] == [[0], [1]]
    x = batch(benchmark.train_stream[0].dataset)[0]
    assert x.shape == (4, 3, 5, 5)
    assert is_close(read_colours(x)[:1], [colour(4, 0, 0)])


def test_the_classes_are_those_of_the_lists(root: Path) -> None:
    path = root / "domainnet/real_train.txt"
    path.write_text(path.read_text().replace(" 1\n", " 344\n"))
    benchmark = DomainNet(root)
    assert set(benchmark.train_stream[4].classes_in_this_experience) == {0, 344}


def test_a_domain_may_test_a_class_that_another_trains(root: Path) -> None:
    path = root / "domainnet/painting_train.txt"  # as the published one, which has no t-shirt
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:2]))
    benchmark = DomainNet(root)
    assert set(benchmark.train_stream[2].classes_in_this_experience) == {0}
    assert set(benchmark.test_stream[2].classes_in_this_experience) == {0, 1}
    with pytest.raises(
        ValueError, match=r"painting_test.txt has class 1, which no training list of the chosen"
    ):
        DomainNet(root, domains=["painting"])


def test_nothing_is_read_before_it_is_needed(root: Path) -> None:
    for path in sorted((root / "domainnet").rglob("*.jpg"))[1:]:
        path.write_bytes(b"no image")
    dataset = DomainNet(root).train_stream[0].dataset
    assert dataset[0][0].shape == (3, 64, 64)
    with pytest.raises(ValueError, match=r"clipart_000_000001\.jpg cannot be read as an image"):
        dataset[1]


def test_preloaded_it_is_the_same_bit_for_bit(root: Path) -> None:
    benchmark = DomainNet(root, domains=["sketch", "real"], image_size=16)
    fast = preload(benchmark)  # and no warning: nothing is read one by one
    for a, b in zip(fast.test_stream, benchmark.test_stream, strict=True):
        found = a.dataset.plan(range(len(a.dataset)))
        assert all(torch.equal(x, y) for x, y in zip(found, batch(b.dataset), strict=True))


def test_errors_name_what_is_missing(root: Path) -> None:
    def error(**given: object) -> str:
        with pytest.raises(ValueError, match=r".") as caught:
            DomainNet(root, **given)
        assert "\n" not in str(caught.value)
        return str(caught.value)

    folder = root / "domainnet"
    path = folder / "real_test.txt"
    text = path.read_text()
    for line in ("real/bee/1.jpg", "real/bee/1.jpg bee", " 1", "", "real/bee/1.jpg -1"):
        path.write_text(f"{text}{line}\n")
        assert error() == f"{path}, line 3, is {line!r}; it must be the path of an image and a class."
    for image in ("real/bee/none.jpg", "real/cow/1.jpg", "real/none.jpg"):
        path.write_text(f"{text}{image} 1\n")
        assert error() == f"{path}, line 3: there is no image {folder / image}."
    path.write_text(text.replace(" 1\n", " 2\n"))
    assert error() == "real_test.txt has class 2, which no training list of the chosen domains has."
    path.write_text("")
    assert error() == f"the list {path} is empty."
    path.unlink()
    assert error() == f"the list {path} is missing."
    assert len(DomainNet(root, domains=["clipart"]).train_stream) == 1
    assert error(domains=["photo"]).startswith("domains=[photo]: there is no 'photo'; allowed are clipart, ")
