import io
import json
import os
import tarfile
import zipfile
from pathlib import Path

import pytest

from avalanche_mgem.runs import UserError, pack_runs, unpacked

FILES = ["accuracy_matrix.csv", "config.yaml", "constraints.csv", "environment.json", "summary.json"]


def write_sweep(root: Path) -> Path:
    for run in ("a", "b"):
        (root / "sweep" / run / "checkpoints").mkdir(parents=True)
        for name in (*FILES, "wandb.log", ".lock", "checkpoints/1.pt"):
            (root / "sweep" / run / name).write_text(f"{run} {name}")
        words = ["strategy=gem", "+seed=1", "dataset_root=/home/me", "device=cuda"]
        (root / "sweep" / run / "environment.json").write_text(json.dumps({"torch": "2", "overrides": words}))
        config = f"run: {run}\nbenchmark:\n  dataset_root: /home/me\n  n: 2\ndataset_root: /home/me\n"
        (root / "sweep" / run / "config.yaml").write_text(config)
    (root / "sweep" / "failed").mkdir()
    (root / "sweep" / "failed" / "error.txt").write_text("no")
    (root / "sweep" / "multirun.yaml").touch()
    return root / "sweep"


def test_the_files_of_complete_runs_and_no_others_come_back(tmp_path: Path) -> None:
    sweep = write_sweep(tmp_path)
    assert pack_runs([sweep], tmp_path / "new" / "sweep.tar.gz") == 2
    assert os.listdir(tmp_path / "new") == ["sweep.tar.gz"]
    with unpacked([tmp_path / "new" / "sweep.tar.gz"]) as ((folder,), _):
        files = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
        assert sorted(files) == [f"sweep/{run}/{name}" for run in ("a", "b") for name in FILES]
        assert files["sweep/b/summary.json"].read_text() == "b summary.json"
        config = files["sweep/b/config.yaml"].read_text()
        assert config == "run: b\nbenchmark:\n  dataset_root: .\n  n: 2\ndataset_root: .\n"
        environment = json.loads(files["sweep/b/environment.json"].read_text())
        assert environment == {"torch": "2", "overrides": ["strategy=gem", "+seed=1"]}
    assert not folder.exists()


def test_the_same_runs_give_the_same_bytes(tmp_path: Path) -> None:
    sweep = write_sweep(tmp_path)
    pack_runs([sweep], tmp_path / "1.tar.gz")
    for path in sweep.rglob("*"):
        os.utime(path, (1, 1))
    pack_runs([sweep], tmp_path / "2.tgz")
    assert (tmp_path / "1.tar.gz").read_bytes() == (tmp_path / "2.tgz").read_bytes()


def test_folders_stay_folders_and_archives_are_named_as_they_were_given(tmp_path: Path) -> None:
    sweep = write_sweep(tmp_path)
    with zipfile.ZipFile(tmp_path / "s.zip", "w") as archive:
        archive.writestr("run/summary.json", "{}")
    with unpacked([sweep, tmp_path / "s.zip"]) as (folders, shown):
        assert folders[0] == sweep
        assert (folders[1] / "run" / "summary.json").read_text() == "{}"
        assert shown(f"{folders[1]}/run and {sweep}") == f"{tmp_path}/s.zip/run and {sweep}"
    with (
        pytest.raises(UserError, match=rf"^{tmp_path}/s.zip/run: bad$"),
        unpacked([tmp_path / "s.zip"]) as (folders, _),
    ):
        raise UserError(f"{folders[0]}/run: bad")


def test_what_cannot_be_packed_is_one_line(tmp_path: Path) -> None:
    sweep = write_sweep(tmp_path)
    with pytest.raises(UserError, match=r"s.zip: the name of a packed sweep must end in .tar.gz or .tgz"):
        pack_runs([sweep], tmp_path / "s.zip")
    (tmp_path / "mine.tar.gz").write_text("mine")
    with pytest.raises(UserError, match=r"mine.tar.gz: it exists, and nothing is overwritten"):
        pack_runs([sweep], tmp_path / "mine.tar.gz")
    assert (tmp_path / "mine.tar.gz").read_text() == "mine"
    with pytest.raises(UserError, match=r"there is no complete run to pack"):
        pack_runs([sweep / "failed"], tmp_path / "none.tar.gz")
    with pytest.raises(UserError, match=r"there is no such folder"):
        pack_runs([tmp_path / "nowhere"], tmp_path / "none.tar.gz")
    other = write_sweep(tmp_path / "other")
    with pytest.raises(UserError, match=r"another run has the name sweep/a too; pack them one by one"):
        pack_runs([sweep, other], tmp_path / "both.tar.gz")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mine.tar.gz", "other", "sweep"]


def tar_with(path: Path, member: tarfile.TarInfo) -> Path:
    with tarfile.open(path, "w:gz") as tar:
        tar.addfile(member, io.BytesIO(b"x" * member.size))
    return path


def member(name: str, kind: bytes = tarfile.REGTYPE, link: str = "") -> tarfile.TarInfo:
    made = tarfile.TarInfo(name)
    made.type, made.linkname, made.size = kind, link, 1 if kind == tarfile.REGTYPE else 0
    return made


@pytest.mark.parametrize(
    ("made", "reason"),
    [
        (member("../evil"), "it holds ../evil, which is outside of the archive"),
        (member("/evil"), "it holds /evil, which is outside of the archive"),
        (
            member("run/link", tarfile.SYMTYPE, "/etc/passwd"),
            "it holds run/link, which is no file and no folder",
        ),
        (member("run/hard", tarfile.LNKTYPE, "run/x"), "it holds run/hard, which is no file and no folder"),
        (member("run/pipe", tarfile.FIFOTYPE), "it holds run/pipe, which is no file and no folder"),
    ],
)
def test_an_archive_writes_nowhere_but_below_its_folder(
    tmp_path: Path, made: tarfile.TarInfo, reason: str
) -> None:
    path = tar_with(tmp_path / "evil.tar.gz", made)
    with pytest.raises(UserError, match=rf"^{path}: {reason}$"), unpacked([path]):
        pass
    assert list(tmp_path.iterdir()) == [path]


def test_a_zip_writes_nowhere_but_below_its_folder(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "evil.zip", "w") as archive:
        archive.writestr("../evil", "x")
    with (
        pytest.raises(UserError, match=r"it holds ../evil, which is outside"),
        unpacked([tmp_path / "evil.zip"]),
    ):
        pass


@pytest.mark.parametrize("name", ["a.tar.gz", "a.tgz", "a.zip"])
def test_a_damaged_archive_is_one_line(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    for content in (b"", b"no archive", packed(tmp_path, name)[:-40]):
        path.write_bytes(content)
        with (
            pytest.raises(UserError, match=rf"^{path}: it cannot be read as an archive: .+$"),
            unpacked([path]),
        ):
            pass


def packed(tmp_path: Path, name: str) -> bytes:
    whole = tmp_path / f"whole-{name}"
    if name.endswith(".zip"):
        with zipfile.ZipFile(whole, "w") as archive:
            archive.writestr("run/summary.json", "{}" * 100)
    else:
        tar_with(whole, member("run/summary.json"))
    return whole.read_bytes()
