"""Sweeps as one file each: packing run folders into an archive, and reading runs from one."""

import gzip
import io
import json
import os
import re
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from avalanche_mgem.runs._errors import UserError
from avalanche_mgem.runs._files import (
    CONFIG_FILE,
    CONSTRAINTS_FILE,
    ENVIRONMENT_FILE,
    MATRIX_FILE,
    SUMMARY_FILE,
)
from avalanche_mgem.runs._keys import makes_another_run
from avalanche_mgem.runs._one_line import one_line
from avalanche_mgem.runs._read import find_runs
from avalanche_mgem.runs._whole import write_whole

_ENDINGS = (".tar.gz", ".tgz", ".zip")  # of the files that are read as archives

_FILES = (SUMMARY_FILE, CONFIG_FILE, ENVIRONMENT_FILE, MATRIX_FILE, CONSTRAINTS_FILE)


def pack_runs(folders: Iterable[str | os.PathLike[str]], archive: str | os.PathLike[str]) -> int:
    """Writes the complete runs below some folders into one archive, with the files that a report needs.

    The same runs give the same bytes. The archive appears whole, or not at all. It names no folders of this
    machine: ``dataset_root`` is ``"."``, and ``environment.json`` lacks options that make no other run.

    Args:
        folders: sweeps, runs, or any folders above them. Each keeps its own name in the archive.
        archive: a new file whose name ends in ``.tar.gz`` or ``.tgz``.

    Returns:
        The number of runs.

    Raises:
        UserError: if there is no complete run, if two folders would have the same name in the archive, or if
            the archive exists or has another ending.
        OSError: if the archive cannot be written.
    """
    target = Path(archive)
    if not target.name.endswith((".tar.gz", ".tgz")):
        raise UserError(f"{target}: the name of a packed sweep must end in .tar.gz or .tgz")
    if target.exists():
        raise UserError(f"{target}: it exists, and nothing is overwritten; give another name, or move it")
    contents: dict[str, Path] = {}
    runs = 0
    for folder in map(Path, folders):
        for run in find_runs([folder])[0]:
            runs += 1
            inside = Path(folder.resolve().name, run.resolve().relative_to(folder.resolve()))
            for name in _FILES:
                path = run / name
                if contents.setdefault((inside / name).as_posix(), path).resolve() != path.resolve():
                    raise UserError(f"{run}: another run has the name {inside} too; pack them one by one")
    if not runs:
        raise UserError("there is no complete run to pack: a run folder has a summary.json")
    target.parent.mkdir(parents=True, exist_ok=True)
    whole = io.BytesIO()
    with (
        gzip.GzipFile("", "wb", fileobj=whole, mtime=0) as packed,  # no times and owners, so equal bytes
        tarfile.open(fileobj=packed, mode="w") as tar,
    ):
        for name, path in sorted(contents.items()):
            if path.is_file():
                data = _without_machine(path)
                member = tarfile.TarInfo(name)
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))
    write_whole(target, [whole.getbuffer()])
    return runs


def _without_machine(path: Path) -> bytes:
    """The contents of a file of a run, without the folders in which it was made."""
    if path.name == CONFIG_FILE:
        text = path.read_text(encoding="utf-8")
        return re.sub(r"^( *dataset_root): .*$", r"\1: .", text, flags=re.MULTILINE).encode()
    if path.name == ENVIRONMENT_FILE:
        made_by = json.loads(path.read_text(encoding="utf-8"))
        words = made_by.get("overrides", [])
        made_by["overrides"] = [
            word for word in words if makes_another_run(word.partition("=")[0].lstrip("+~"))
        ]
        return (json.dumps(made_by, indent=2) + "\n").encode()
    return path.read_bytes()


@contextmanager
def unpacked(paths: Iterable[str | os.PathLike[str]]) -> Iterator[tuple[list[Path], Callable[[str], str]]]:
    """Gives folders for paths of which some are archives. Those of archives are removed at the end.

    Yields:
        The folders, and a function that writes a text anew with the archive's path in place of its folder's.

    Raises:
        UserError: if an archive cannot be read, or holds anything but files and folders below itself.
    """
    with ExitStack() as stack:
        folders: list[Path] = []
        names: dict[str, str] = {}
        for path in map(Path, paths):
            if not (path.name.endswith(_ENDINGS) and path.is_file()):
                folders.append(path)
                continue
            temporary = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="mgem-"))).resolve()
            _unpack(path, temporary)
            folders.append(temporary)
            names[str(temporary)] = str(path)

        def shown(text: str) -> str:
            for folder, archive in names.items():
                text = text.replace(folder, archive)
            return text

        try:
            yield folders, shown
        except UserError as error:
            raise UserError(shown(str(error))) from error


def _unpack(archive: Path, folder: Path) -> None:
    try:
        if archive.name.endswith(".zip"):
            with zipfile.ZipFile(archive) as opened:
                for entry in opened.infolist():
                    _check_name(archive, entry.filename)
                opened.extractall(folder)  # writes links as files
        else:
            with tarfile.open(archive) as tar:
                members = tar.getmembers()
                for member in members:
                    _check_name(archive, member.name)
                    if not (member.isfile() or member.isdir()):
                        raise UserError(f"{archive}: it holds {member.name}, which is no file and no folder")
                tar.extractall(folder, members, filter="data")
    except (tarfile.TarError, zipfile.BadZipFile, EOFError, zlib.error, OSError, RuntimeError) as error:
        raise UserError(f"{archive}: it cannot be read as an archive: {one_line(error)}") from error


def _check_name(archive: Path, name: str) -> None:
    path = Path(name)
    if path.is_absolute() or ".." in path.parts:
        raise UserError(f"{archive}: it holds {name}, which is outside of the archive")
