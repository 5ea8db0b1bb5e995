"""The benchmarks that read folders of images, through the command."""

import csv
import re
import shutil
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from image_trees import write_classes, write_digit_five, write_domain_net, write_image
from omegaconf import DictConfig, OmegaConf

from avalanche_mgem.experiment import compose, run

Mgem = Callable[..., Any]
DOMAINS = ["clipart", "infograph", "painting", "quickdraw", "real", "sketch"]


def write_domains(root: Path) -> None:
    write_classes(root / "domains" / "one", 0, "abc")
    write_classes(root / "domains" / "two", 1, "bd")


# What each benchmark reads.
WRITE: dict[str, Callable[[Path], object]] = {
    "digit_five": lambda root: write_digit_five(root, ["mnist", "mnist_m", "svhn", "usps", "synth_digits"]),
    "domain_net": lambda root: write_domain_net(root, DOMAINS),
    "image_folders": write_domains,
    "split_image_folder": lambda root: write_classes(root / "classes", 0, "abcdef"),
}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All of it, which no test changes."""
    root = tmp_path_factory.mktemp("data")
    for write_tree in WRITE.values():
        write_tree(root)
    return root


def matrix(folder: Path) -> list[list[float]]:
    with (folder / "accuracy_matrix.csv").open() as file:
        return [[float(cell) for cell in row] for row in list(csv.reader(file))[1:]]


@pytest.mark.parametrize("preload", ["true", pytest.param("false", marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    ("benchmark", "folder", "more", "n_experiences", "inferred"),
    [
        ("digit_five", ".", "benchmark.domains=[usps,mnist,mnist_m]", 3, (10, [3, 32, 32])),
        ("domain_net", ".", "benchmark.image_size=16", 6, (2, [3, 16, 16])),
        ("image_folders", "domains", "benchmark.image_size=8", 2, (4, [3, 8, 8])),
        ("image_folders", "domains", "benchmark.return_task_id=true", 2, (4, [3, 64, 64])),
        ("split_image_folder", "classes", "benchmark.n_experiences=3", 3, (2, [3, 64, 64])),
        ("split_image_folder", "classes", "benchmark.return_task_id=false", 2, (6, [3, 64, 64])),
    ],
)
def test_each_runs_by_its_configuration_alone(
    mgem: Mgem,
    data: Path,
    benchmark: str,
    folder: str,
    more: str,
    n_experiences: int,
    inferred: Any,
    preload: str,
) -> None:
    if benchmark == "split_image_folder" and "n_experiences" not in more:
        more = f"{more} benchmark.n_experiences=2"
    result = mgem(
        "strategy=dmgem",
        f"benchmark={benchmark}",
        f"dataset_root={data / folder}",
        f"benchmark.preload={preload}",
        "samples_per_experience=4",
        "test_samples_per_experience=2",
        "hydra.run.dir=run",
        *more.split(),
    )
    assert (result.status, result.err) == (0, "")  # no note either: nothing is left to Avalanche
    R = matrix(Path("run"))
    assert (len(R), len(R[0])) == (n_experiences + 1, n_experiences)
    assert all(accuracy in (0, 0.5, 1) for row in R for accuracy in row)
    saved = OmegaConf.load("run/config.yaml").inferred
    assert (saved.num_classes, saved.input_shape) == inferred
    if benchmark == "split_image_folder":
        files = [len(list((data / folder).glob(f"{part}/*/*.*"))) for part in ("train", "test")]
        assert saved.n_samples == files


def test_it_learns_what_the_folders_say(mgem: Mgem, tmp_path: Path) -> None:
    for experience in ("one", "two"):
        for split in ("train", "test"):
            for number in range(10):
                light = 255 - number if experience == "one" else 200 + number
                write_image(tmp_path / "data" / experience / split / "light" / f"{number}.png", 3 * (light,))
                write_image(tmp_path / "data" / experience / split / "dark" / f"{number}.png", 3 * (number,))
    sizes = ["benchmark.image_size=8", "train_epochs=3", "hydra.run.dir=run"]
    result = mgem("strategy=gem", "benchmark=image_folders", f"dataset_root={tmp_path / 'data'}", *sizes)
    assert (result.status, result.err) == (0, "")
    assert matrix(tmp_path / "run")[-1] == [1, 1]


def test_split_tiny_imagenet(mgem: Mgem, tmp_path: Path) -> None:
    root = tmp_path / "tiny-imagenet-200"
    names = [f"n{number:08}" for number in range(200)]
    for number, name in enumerate(names):
        write_image(root / "train" / name / "images" / f"{name}_0.JPEG", (number, 0, 0), (64, 64))
        write_image(root / "val/images" / f"val_{number}.JPEG", (number, 0, 0), (64, 64))
    (root / "wnids.txt").write_text("\n".join(names))
    lines = [f"val_{number}.JPEG\t{name}\t0\t0\t62\t62\n" for number, name in enumerate(names)]
    (root / "val/val_annotations.txt").write_text("".join(lines))
    arguments = ["strategy=naive", "benchmark=split_tiny_imagenet", "benchmark.n_experiences=4"]
    result = mgem(*arguments, f"dataset_root={tmp_path}", "hydra.run.dir=run")
    assert result.status == 0
    assert (
        result.err
        == "mgem: preload: left to Avalanche, sample by sample: data set TinyImagenet (train, eval)\n"
    )
    R = matrix(tmp_path / "run")
    assert (len(R), len(R[0])) == (5, 4)
    inferred = OmegaConf.load("run/config.yaml").inferred
    assert (inferred.num_classes, inferred.input_shape) == (50, [3, 64, 64])


def remove(path: str) -> Callable[[Path], object]:
    return lambda data: shutil.rmtree(data / path) if (data / path).is_dir() else (data / path).unlink()


def empty(path: str) -> Callable[[Path], object]:
    def change(data: Path) -> None:
        for file in (data / path).iterdir():
            file.unlink()

    return change


def write(path: str, text: str) -> Callable[[Path], object]:
    return lambda data: (data / path).write_text(text)


def add_image(path: str) -> Callable[[Path], object]:
    return lambda data: write_image(data / path)


FOLDERS = "image_folders", "domains"
SPLIT = "split_image_folder", "classes"


@pytest.mark.parametrize(
    ("benchmark", "change", "message"),
    [
        (
            ("digit_five", "."),
            remove("digit_five"),
            "domain 'mnist' is missing: there is no folder DATA/digit_five/",
        ),
        (
            ("digit_five", "."),
            remove("digit_five/svhn"),
            "domain 'svhn' is missing: there is no folder DATA/digit_fi",
        ),
        (
            ("digit_five", "."),
            remove("digit_five/usps/test"),
            "there is no folder DATA/digit_five/usps/test; it must",
        ),
        (
            ("digit_five", "."),
            remove("digit_five/usps/test/7"),
            "DATA/digit_five/usps/test must hold the ten folders",
        ),
        (
            ("digit_five", "."),
            empty("digit_five/usps/train/7"),
            "class folder DATA/digit_five/usps/train/7 has no im",
        ),
        (("domain_net", "."), remove("domainnet"), "the list DATA/domainnet/clipart_train.txt is missing"),
        (
            ("domain_net", "."),
            remove("domainnet/sketch_test.txt"),
            "list DATA/domainnet/sketch_test.txt is missing",
        ),
        (
            ("domain_net", "."),
            remove("domainnet/real"),
            "real_train.txt, line 1: there is no image DATA/domainnet/rea",
        ),
        (
            ("domain_net", "."),
            remove("domainnet/real/bee/real_001_000002.jpg"),
            "line 2: there is no image DATA/doma",
        ),
        (
            ("domain_net", "."),
            write("domainnet/real_train.txt", "real 1 x\n"),
            "line 1, is 'real 1 x'; it must be th",
        ),
        (
            FOLDERS,
            remove("domains"),
            "there is no folder DATA/domains; it must hold a folder for each experience",
        ),
        (
            FOLDERS,
            remove("domains/two/train"),
            "there is no folder DATA/domains/two/train; it must hold a folder of",
        ),
        (
            FOLDERS,
            remove("domains/two/test"),
            "there is no folder DATA/domains/two/test; it must hold a folder of",
        ),
        (
            FOLDERS,
            empty("domains/two/test/b"),
            "the class folder DATA/domains/two/test/b has no image in it; images",
        ),
        (FOLDERS, add_image("domains/two/test/a/1.png"), "test/a: DATA/domains/two/train has no class 'a'"),
        (
            FOLDERS,
            write("domains/one/train/a/000.png", "x"),
            "DATA/domains/one/train/a/000.png cannot be read as an",
        ),
        (
            FOLDERS,
            write("domains/two/train/b/001.png", "x"),
            "DATA/domains/two/train/b/001.png cannot be read as an",
        ),
        (
            SPLIT,
            remove("classes/test"),
            "there is no folder DATA/classes/test; it must hold a folder of images for",
        ),
        (SPLIT, remove("classes/test/a"), "DATA/classes/test has no folder for the class 'a' of train"),
        (SPLIT, add_image("classes/test/g/1.png"), "test/g: DATA/classes/train has no class 'g'"),
        (SPLIT, remove("classes/train/a"), "test/a: DATA/classes/train has no class 'a'"),
    ],
)
def test_each_missing_part_is_one_line(
    tmp_path: Path, benchmark: tuple[str, str], change: Callable[[Path], object], message: str
) -> None:
    name, folder = benchmark
    WRITE[name](tmp_path)
    change(tmp_path)
    cfg = configuration(name).copy()
    cfg.dataset_root = str(tmp_path / folder)
    with pytest.raises(ValueError, match=re.escape(message.replace("DATA", str(tmp_path)))) as error:
        run(cfg)
    assert "\n" not in str(error.value)


@cache
def configuration(benchmark: str) -> DictConfig:
    """It is composed once, which takes longer than all the rest of a test."""
    more = ["benchmark.n_experiences=2"] if benchmark == "split_image_folder" else []
    return compose("strategy=naive", f"benchmark={benchmark}", *more)


def test_a_missing_part_is_one_line_of_the_command(mgem: Mgem, tmp_path: Path) -> None:
    WRITE["image_folders"](tmp_path)
    remove("domains/two/train")(tmp_path)
    result = mgem("strategy=naive", "benchmark=image_folders", f"dataset_root={tmp_path / 'domains'}")
    assert result.status == 2
    said = rf"there is no folder {re.escape(str(tmp_path))}/domains/two/train; it must hold"
    assert re.fullmatch(rf"mgem: [^\n]*{said} [^\n]+\n", result.err)


def test_five_experiences_do_not_divide_six_classes(mgem: Mgem, data: Path) -> None:
    result = mgem("benchmark=split_image_folder", f"dataset_root={data / 'classes'}")
    assert result.status == 2
    assert result.err.endswith("n_experiences is 5; it must divide 6, the number of classes.\n")
    assert result.err.count("\n") == 1
