"""Silence for warnings of other packages that a user of the command can do nothing about."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

# Deprecations in Avalanche's releases below 0.7, the ones that this package allows.
_HARMLESS = (
    "Call to deprecated function update",  # its replay and ER-ACE on its own storage policy
    "__array_wrap__ must accept context",  # its synaptic intelligence calls NumPy on torch tensors
)


@contextmanager
def quiet() -> Iterator[None]:
    """Drops those warnings.

    Not by a filter: Avalanche puts ``simplefilter("once", DeprecationWarning)`` in front at each call.
    """
    with warnings.catch_warnings():
        show = warnings.showwarning

        def showwarning(message: Warning | str, category: type[Warning], filename: str, *rest: Any) -> None:
            harmless = str(message).startswith(_HARMLESS) and "avalanche" in Path(filename).parts
            if not (harmless and issubclass(category, DeprecationWarning)):
                show(message, category, filename, *rest)

        warnings.showwarning = showwarning  # type: ignore[assignment]
        yield
