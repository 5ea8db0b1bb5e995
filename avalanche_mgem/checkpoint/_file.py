"""The file of a checkpoint: a magic word, a checksum, a header that anyone may read, and the pickles.

Nothing is unpickled here, and nothing is handed out before the checksum was compared.
"""

import json
import os
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any

from avalanche_mgem.runs import PREVIOUS, write_whole

FORMAT = 2
"""Counts up when the layout of the file or of what is in it changes."""

_MAGIC = b"avalanche-mgem checkpoint\n"
_DIGEST = 32  # bytes of sha256, over all that follows it
_LENGTH = 8  # bytes of the header's length


class CheckpointError(ValueError):
    """A checkpoint that cannot be used or written, and why, in one line."""


class DamagedError(CheckpointError):
    """A file that is no checkpoint, or no longer whole."""


def previous_of(path: Path) -> Path:
    """Where the checkpoint before the one at ``path`` is."""
    return path.with_name(path.name + PREVIOUS)


def write_file(path: Path, header: Mapping[str, Any], payload: memoryview) -> None:
    """Writes a checkpoint; the one that was there becomes the previous one.

    Raises:
        CheckpointError: if another file is there: it is not ours to replace.
        OSError: if it cannot be written. The checkpoints that were there stay.
    """
    if path.is_dir() or (path.exists() and path.stat().st_size and _start(path) != _MAGIC):
        raise CheckpointError(f"{path} is no checkpoint of avalanche-mgem; nothing is overwritten.")
    try:
        text = json.dumps({"format": FORMAT, **header}).encode()
    except TypeError as error:
        raise CheckpointError(f"the notes cannot be saved: {error}.") from error
    length = len(text).to_bytes(_LENGTH, "big")
    digest = sha256(length)
    digest.update(text)
    digest.update(payload)
    write_whole(path, [_MAGIC, digest.digest(), length, text, payload], previous=previous_of(path))


def read_file(path: Path) -> tuple[dict[str, Any], memoryview]:
    """The header and the pickles of a checkpoint that is whole.

    Raises:
        DamagedError: if it is not, or is no checkpoint at all.
        CheckpointError: if it has another format.
        OSError: if it cannot be read.
    """
    data = memoryview(path.read_bytes())
    if data[: len(_MAGIC)] != _MAGIC:
        raise DamagedError(f"{path} is no checkpoint of avalanche-mgem")
    rest = data[len(_MAGIC) + _DIGEST :]
    if data[len(_MAGIC) : len(_MAGIC) + _DIGEST] != sha256(rest).digest():
        raise DamagedError(f"{path} is damaged: its checksum is another")
    end = _LENGTH + int.from_bytes(rest[:_LENGTH], "big")
    header = json.loads(bytes(rest[_LENGTH:end]))
    if header["format"] != FORMAT:
        raise CheckpointError(
            f"{path} has the format {header['format']}, and this version of avalanche-mgem reads {FORMAT}; "
            "delete it to begin anew."
        )
    return header, rest[end:]


def _start(path: str | os.PathLike[str]) -> bytes:
    with open(path, "rb") as file:
        return file.read(len(_MAGIC))
