from pathlib import Path

import pytest
import torch
from avalanche.benchmarks import CLScenario
from image_trees import colour, read_colours, write_classes, write_image
from torch.utils.data import DataLoader
from torchvision.transforms import PILToTensor

from avalanche_mgem.benchmarks import ImageFolders, SplitImageFolder
from avalanche_mgem.data import preload, subsample


@pytest.fixture
def domains(tmp_path: Path) -> Path:
    """Two experiences: classes a, b, c and classes b, d."""
    write_classes(tmp_path / "1_day", 0, "abc")
    write_classes(tmp_path / "2_night", 1, "bd")
    return tmp_path


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Six classes, a to f."""
    write_classes(tmp_path, 0, "abcdef")
    return tmp_path


def batch(experience, dataset=None) -> list[torch.Tensor]:  # type: ignore[no-untyped-def]
    """All samples of an experience, in order: images, classes, task labels."""
    dataset = experience.dataset if dataset is None else dataset
    return next(iter(DataLoader(dataset, batch_size=len(dataset), collate_fn=dataset.collate_fn)))


def expected(experience: int, classes: str, numbers: range) -> list[tuple[int, ...]]:
    return [colour(experience, "abcdef".index(c), n) for c in classes for n in numbers]


def is_equal(a: CLScenario, b: CLScenario) -> bool:
    return all(
        torch.equal(x, y)
        for name in ("train", "test")
        for one, two in zip(a.streams[name], b.streams[name], strict=True)
        for group in ("train", "eval")
        for x, y in zip(
            batch(one, one.dataset.with_transforms(group)),
            batch(two, two.dataset.with_transforms(group)),
            strict=True,
        )
    )


def test_each_folder_is_an_experience(domains: Path) -> None:
    benchmark = ImageFolders(domains, image_size=6)
    ids = {"a": 0, "b": 1, "c": 2, "d": 3}
    for stream, numbers in ((benchmark.train_stream, range(3)), (benchmark.test_stream, range(100, 102))):
        assert len(stream) == 2
        for number, (experience, classes) in enumerate(zip(stream, ("abc", "bd"), strict=True)):
            x, y, t = batch(experience)
            assert x.shape[1:] == (3, 6, 6)
            assert read_colours(x) == expected(number, classes, numbers)
            assert y.tolist() == [ids[c] for c in classes for _ in numbers]
            assert t.tolist() == [0] * len(y)
            assert experience.current_experience == number
            assert experience.task_labels == [0]
            assert set(experience.classes_in_this_experience) == {ids[c] for c in classes}
            assert list(experience.dataset.targets) == y.tolist()


def test_folders_of_years_need_no_quotes(tmp_path: Path) -> None:
    write_classes(tmp_path / "2019", 0, "ab")
    write_classes(tmp_path / "2020", 1, "ab")
    years = [ImageFolders(tmp_path, experiences=given) for given in ([2020, 2019], ["2020", "2019"])]
    assert is_equal(*years)
    assert read_colours(batch(years[0].train_stream[0])[0])[0] == colour(1, 0, 0)


def test_the_order_of_experiences_can_be_chosen(domains: Path) -> None:
    benchmark = ImageFolders(domains, experiences=["2_night", "1_day"], return_task_id=True)
    assert [e.task_labels for e in benchmark.train_stream] == [[0], [1]]
    x, y, _ = batch(benchmark.test_stream[0])
    assert read_colours(x) == expected(1, "bd", range(100, 102))
    assert y.tolist() == [1, 1, 3, 3]
    assert batch(benchmark.test_stream[1])[2].tolist() == [1] * 6
    alone = ImageFolders(domains, experiences=["2_night"])
    assert set(alone.train_stream[0].classes_in_this_experience) == {0, 1}


def test_what_is_hidden_or_no_image_is_passed_over(domains: Path) -> None:
    before = ImageFolders(domains, image_size=4)
    write_image(domains / ".cache/train/a/1.png")
    write_image(domains / "1_day/train/.ipynb_checkpoints/1.png")
    write_image(domains / "1_day/train/a/.ipynb_checkpoints/1.png")
    (domains / "1_day/train/a/._0.png").write_bytes(b"of macOS")
    (domains / "1_day/train/a/Thumbs.db").write_bytes(b"of Windows")
    (domains / "readme.txt").write_text("ours")
    assert is_equal(ImageFolders(domains, image_size=4), before)


def test_a_hidden_folder_above_changes_nothing(tmp_path: Path) -> None:
    write_classes(tmp_path / ".data/one", 0, "ab")
    assert len(ImageFolders(tmp_path / ".data").train_stream[0].dataset) == 6


def test_mean_and_std_of_the_channels(domains: Path) -> None:
    mean, std = (0.1, 0.2, 0.3), (0.5, 0.25, 2.0)
    raw = ImageFolders(domains, image_size=4, train_transform=PILToTensor(), eval_transform=PILToTensor())
    scaled = ImageFolders(domains, image_size=4, mean=mean, std=std)
    for stream in ("train", "test"):
        pixels = batch(raw.streams[stream][0])[0].double() / 255
        wanted = (pixels - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)
        torch.testing.assert_close(batch(scaled.streams[stream][0])[0].double(), wanted, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    "make", [ImageFolders, lambda root, **given: SplitImageFolder(1, dataset_root=root, **given)]
)
def test_transforms_are_of_their_stream(domains: Path, make) -> None:  # type: ignore[no-untyped-def]
    root = domains if make is ImageFolders else domains / "1_day"
    benchmark = make(root, train_transform=lambda _: torch.ones(1), eval_transform=lambda _: torch.zeros(1))
    assert benchmark.train_stream[0].dataset[0][0] == 1
    assert benchmark.test_stream[0].dataset[0][0] == 0
    assert benchmark.train_stream[0].dataset.eval()[0][0] == 0


@pytest.mark.parametrize("return_task_id", [False, True])
def test_preloaded_they_are_the_same_bit_for_bit(domains: Path, return_task_id: bool) -> None:
    benchmark = ImageFolders(domains, image_size=9, return_task_id=return_task_id)
    split = SplitImageFolder(3, dataset_root=domains / "1_day", image_size=9, seed=1)
    for stock in (benchmark, split):
        fast = preload(stock)  # and no warning: nothing is read one by one
        assert type(fast.train_stream[0].dataset) is not type(stock.train_stream[0].dataset)
        assert is_equal(fast, stock)


def test_preloading_decodes_what_is_used_and_no_more(domains: Path) -> None:
    (domains / "1_day/train/b/000.png").write_bytes(b"no image")  # neither first, nor in the middle, nor last
    dataset = preload(ImageFolders(domains, image_size=4)).train_stream[0].dataset
    dataset.plan([0, 1, 2, 4, 5])
    with pytest.raises(ValueError, match=r"000\.png cannot be read as an image"):
        dataset.plan([0, 3])


def test_subsets_are_of_each_experience(domains: Path) -> None:
    benchmark = subsample(ImageFolders(domains), 4, 3, seed=1)
    assert [len(e.dataset) for e in benchmark.train_stream] == [4, 4]
    assert [len(e.dataset) for e in benchmark.test_stream] == [3, 3]
    found = set(read_colours(batch(benchmark.train_stream[1])[0]))
    assert len(found) == 4
    assert found < set(expected(1, "bd", range(3)))


def test_split_gives_each_class_to_one_experience(tree: Path) -> None:
    benchmark = SplitImageFolder(3, dataset_root=tree, image_size=4, seed=0)
    classes = [sorted(e.classes_in_this_experience) for e in benchmark.train_stream]
    assert sorted(c for two in classes for c in two) == list(range(6))
    assert [len(two) for two in classes] == [2] * 3
    assert classes != [[0, 1], [2, 3], [4, 5]]  # shuffled
    for stream, numbers in ((benchmark.train_stream, range(3)), (benchmark.test_stream, range(100, 102))):
        for experience, two in zip(stream, classes, strict=True):
            x, y, _ = batch(experience)
            wanted = [(c, n) for c in two for n in numbers]
            found = list(zip(y.tolist(), read_colours(x), strict=True))
            assert sorted(found) == [(c, colour(0, c, n)) for c, n in wanted]


def test_split_follows_its_seed_and_leaves_the_global_generator_alone(tree: Path) -> None:
    before = torch.get_rng_state()
    orders = [
        [
            tuple(e.classes_in_this_experience)
            for e in SplitImageFolder(6, dataset_root=tree, seed=seed).train_stream
        ]
        for seed in (0, 0, 1)
    ]
    SplitImageFolder(6, dataset_root=tree)
    assert torch.equal(torch.get_rng_state(), before)
    assert orders[0] == orders[1] != orders[2]


def test_split_with_a_head_a_task(tree: Path) -> None:
    benchmark = SplitImageFolder(
        2,
        dataset_root=tree,
        return_task_id=True,
        fixed_class_order=[5, 4, 3, 2, 1, 0],
        class_ids_from_zero_in_each_exp=True,
    )
    assert [e.task_labels for e in benchmark.test_stream] == [[0], [1]]
    for number, classes in enumerate(("def", "abc")):
        x, y, t = batch(benchmark.train_stream[number])
        assert set(y.tolist()) == {0, 1, 2}
        assert set(t.tolist()) == {number}
        assert sorted(read_colours(x)) == expected(0, classes, range(3))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"image_size": 0}, r"image_size is 0; it must be at least 1"),
        ({"mean": [0.5]}, r"mean=\[0\.5\] and std=.*: they must be three numbers each"),
        ({"std": [1, 0, 1]}, r"std=\[1, 0, 1\]: they must be three numbers each, those of std above 0"),
        (
            {"experiences": ["1_day", "dawn"]},
            r"experiences=\[1_day, dawn\]: there is no 'dawn'; allowed are 1_day",
        ),
        (
            {"experiences": ["1_day", "1_day"]},
            r"experiences=.*: it must have at least one name, and each once",
        ),
        ({"experiences": []}, r"experiences=\[\]: it must have at least one name"),
        ({"experiences": "dawn"}, r"experiences must be a list of names, such as \[dawn\]; got 'dawn'"),
    ],
)
def test_arguments_that_are_not_allowed(domains: Path, given: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ImageFolders(domains, **given)


@pytest.mark.parametrize("n_experiences", [0, -3, 4, 7])
def test_experiences_must_divide_the_classes(tree: Path, n_experiences: int) -> None:
    with pytest.raises(ValueError, match=rf"n_experiences is {n_experiences}; it must divide 6, the number"):
        SplitImageFolder(n_experiences, dataset_root=tree)


@pytest.mark.parametrize("order", [[3, 3, 1, 0, 2, 4], [3, 2], [1, 2, 3, 4, 5, 6]])
def test_an_order_has_each_class_once(tree: Path, order: list[int]) -> None:
    with pytest.raises(ValueError, match=r"fixed_class_order is \[.*\]; it must have each of 0 to 5 once"):
        SplitImageFolder(3, dataset_root=tree, fixed_class_order=order)


def test_split_trains_and_tests_the_same_classes(tree: Path) -> None:
    for path in sorted((tree / "test/c").iterdir()):
        path.unlink()
    (tree / "test/c").rmdir()
    with pytest.raises(ValueError, match=r"test has no folder for the class 'c' of train"):
        SplitImageFolder(1, dataset_root=tree)
    write_classes(tree, 0, "c")
    write_image(tree / "test/new/0.png")
    with pytest.raises(ValueError, match=r"test.new: .*train has no class 'new'"):
        SplitImageFolder(1, dataset_root=tree)
