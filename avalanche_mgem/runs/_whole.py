"""Writing a file whole."""

import os
from collections.abc import Iterable
from pathlib import Path


def write_whole(
    path: Path, contents: str | Iterable[bytes | memoryview], *, previous: Path | None = None
) -> None:
    """All or nothing, also when the process dies in between.

    Args:
        path: of the file. What was there is replaced.
        contents: a text, or bytes one part after another.
        previous: where the file goes that was there; None lets it go.

    Raises:
        OSError: with the path, which the error of a full disk lacks. The files that were there stay.
    """
    temporary = path.with_name(path.name + ".tmp")
    try:
        with temporary.open("wb") as file:
            file.writelines([contents.encode()] if isinstance(contents, str) else contents)
            file.flush()
            os.fsync(file.fileno())  # or, after a power cut, the name could be there without the contents
        if previous is not None and path.exists():
            os.replace(path, previous)
        os.replace(temporary, path)
    except OSError as error:
        _remove(temporary)
        raise OSError(error.errno, error.strerror, str(path)) from error


def _remove(path: Path) -> None:
    try:
        path.unlink(missing_ok=True)
    except OSError:  # the folder is gone or no folder: then so is the file
        return
