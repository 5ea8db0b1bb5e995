"""Writing a file whole."""

import os
from pathlib import Path


def write_whole(path: Path, text: str) -> None:
    """All or nothing, also when the process dies in between.

    Raises:
        OSError: with the path, which the error of a full disk lacks.
    """
    temporary = path.with_name(path.name + ".tmp")
    try:
        with temporary.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())  # or, after a power cut, the name could be there without the contents
        os.replace(temporary, path)
    except OSError as error:
        _remove(temporary)
        raise OSError(error.errno, error.strerror, str(path)) from error


def _remove(path: Path) -> None:
    try:
        path.unlink(missing_ok=True)
    except OSError:  # the folder is gone or no folder: then so is the file
        return
