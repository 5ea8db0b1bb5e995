from pathlib import Path

import pytest
from image_trees import write_classes, write_image

from avalanche_mgem.benchmarks.trees import class_names, images_of, numbered, subfolders


def test_class_ids_are_places_in_sorted_order_whatever_comes_twice() -> None:
    assert numbered(["b", "c", "a", "b"]) == {"a": 0, "b": 1, "c": 2}


def test_images_come_by_class_and_name_with_the_given_ids(tmp_path: Path) -> None:
    for name in ("b/2.png", "b/10.jpg", "a/deep/1.PNG"):
        write_image(tmp_path / "images" / name)
    (tmp_path / "images/a/x.txt").write_text("no image")
    images = images_of(tmp_path / "images", {"a": 7, "b": 3, "c": 5}, 4)
    assert images.images == [
        str(tmp_path / "images" / name) for name in ("a/deep/1.PNG", "b/10.jpg", "b/2.png")
    ]
    assert images.targets == [7, 3, 3]


def test_the_folder_that_is_missing_or_empty_is_named(tmp_path: Path) -> None:
    write_classes(tmp_path, 0, "ab")
    assert class_names(tmp_path) == ["a", "b"]
    with pytest.raises(ValueError, match=r"^there is no folder .*/none; it must hold two cats\.$"):
        subfolders(tmp_path / "none", "two cats")
    with pytest.raises(
        ValueError, match=r"^the folder .*/train/a has no folders in it; it must hold two cats\.$"
    ):
        subfolders(tmp_path / "train/a", "two cats")
    (tmp_path / "train/c").mkdir()
    (tmp_path / "train/c/notes.txt").write_text("no image")
    with pytest.raises(
        ValueError, match=r"^the class folder .*/train/c has no image in it; images end in \.jpg, "
    ):
        images_of(tmp_path / "train", {"a": 0, "b": 1, "c": 2}, 4)
    write_image(tmp_path / "test/d/1.png")
    with pytest.raises(ValueError, match=r"^.*/test/d: .*/train has no class 'd'\.$"):
        class_names(tmp_path)
