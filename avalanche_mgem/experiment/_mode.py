"""Whether a command is one run or a sweep, which Hydra finds out before it composes the configuration."""

import re
from collections.abc import Iterator
from contextlib import contextmanager

from hydra._internal.hydra import Hydra
from hydra.types import RunMode

from avalanche_mgem.experiment._files import config_folder

# The words that can set hydra.mode, or bring in files that can.
_MAY_SET = re.compile(r"[+~]*hydra(=|\.mode|\.searchpath)")


@contextmanager
def composed_once() -> Iterator[None]:
    """Spares Hydra a composition that looks for ``hydra.mode`` alone, where nothing can have set it.

    It is half of the time before a command has its configuration. No file of this package sets the mode.
    """
    composed_mode = Hydra.get_mode

    def mode(self: Hydra, config_name: str | None, overrides: list[str]) -> RunMode | None:
        places = {source.path for source in self.config_loader.get_search_path().get_path()}
        if places <= {"pkg://hydra.conf", str(config_folder()), "structured://"} and not any(
            map(_MAY_SET.match, overrides)
        ):
            return None  # what a composition finds
        found: RunMode | None = composed_mode(self, config_name, overrides)
        return found

    Hydra.get_mode = mode  # type: ignore[method-assign]
    try:
        yield
    finally:
        Hydra.get_mode = composed_mode  # type: ignore[method-assign]
