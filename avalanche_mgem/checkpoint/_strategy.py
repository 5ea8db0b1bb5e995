"""The state of a strategy: taken from it, and put into one that was built anew."""

import platform
import random
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.metadata import version
from os import PathLike
from pathlib import Path
from types import FunctionType
from typing import Any

import numpy as np
import torch

from avalanche_mgem.checkpoint._catalogue import Catalogue
from avalanche_mgem.checkpoint._file import (
    CheckpointError,
    DamagedError,
    previous_of,
    read_file,
    write_file,
)
from avalanche_mgem.checkpoint._pickles import from_bytes, to_bytes
from avalanche_mgem.runs import one_line

# What the pickles depend on.
_PACKAGES = ("avalanche-mgem", "torch", "avalanche-lib", "numpy")


def save_checkpoint(
    strategy: Any,
    path: str | PathLike[str],
    *,
    benchmark: Any = None,
    notes: Mapping[str, Any] | None = None,
) -> None:
    """Saves all that a strategy needs to go on after a cut, bit for bit as if there had been none.

    That is the model, the optimizer, every plugin with what it remembers (kept samples, importances, an
    older model), metrics, loggers, and the random generators of Python, NumPy and torch. Call it after
    ``train`` or ``eval``, not in between.

    The file appears whole or not at all, with a checksum. The one before stays beside it, under the name
    ``path`` + ``".previous"``.

    Args:
        strategy: any strategy of Avalanche.
        path: of the file.
        benchmark: the benchmark of the experiences. None (default) writes the data sets to which memories
            refer, such as Replay's, into the file as a whole. With the benchmark the file names them; give
            the same benchmark to :func:`load_checkpoint`.
        notes: what else to keep, such as the accuracies so far: numbers, texts, lists and dictionaries.

    Raises:
        CheckpointError: if a part of the strategy cannot be saved; in one line that names it.
        OSError: if the file cannot be written. The checkpoints that were there stay.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> from avalanche_mgem import DMGEM
        >>> from avalanche_mgem.benchmarks import SplitDigits
        >>> benchmark = SplitDigits(5, seed=0)
        >>> model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10))
        >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        >>> strategy = DMGEM(
        ...     model=model, optimizer=optimizer, train_mb_size=100, patterns_per_exp=20, evaluator=None)
        >>> folder = TemporaryDirectory()
        >>> path = f"{folder.name}/checkpoint.pt"
        >>> first = load_checkpoint(strategy, path, benchmark=benchmark)  # 0 without a file
        >>> for experience in benchmark.train_stream[first:]:
        ...     _ = strategy.train(experience)
        ...     save_checkpoint(strategy, path, benchmark=benchmark)
        >>> load_checkpoint(strategy, path, benchmark=benchmark)
        5
        >>> folder.cleanup()
    """
    if strategy.experience is not None:
        raise CheckpointError("a checkpoint is saved after train or eval, not while one of them runs.")
    catalogue = None if benchmark is None else Catalogue.of(benchmark)
    parts = _parts(strategy)
    known = parts | _shared(strategy) | ({} if catalogue is None else catalogue.known)
    states = {name: _state(name, part) for name, part in parts.items()}
    header = {
        "versions": _versions(),
        "device": strategy.device.type,
        "parts": {name: _class_name(part) for name, part in parts.items()},
        "benchmark": None if catalogue is None else catalogue.digest,
        "trained": strategy.clock.train_exp_counter,
        "notes": dict(notes or {}),
    }
    try:
        payload = to_bytes({"states": states, "generators": _generators()}, known)
    except CheckpointError as error:
        raise _blamed(error, states, known) from error
    write_file(Path(path), header, payload)


def load_checkpoint(strategy: Any, path: str | PathLike[str], *, benchmark: Any = None) -> int:
    """Puts a checkpoint's state into a strategy that was built by the same code.

    Model, optimizer, plugins, metrics and loggers stay the objects that they are, and get the state of those
    that were saved. So all settings become the saved ones. A damaged checkpoint is refused with a warning,
    and the one before is taken.

    **Load only files that you trust.** A checkpoint holds pickles: loading one can run any code that
    its writer chose. The checksum finds damage, not malice.

    Args:
        strategy: a new strategy.
        path: of the file. If neither it nor the one before exists, nothing happens.
        benchmark: the benchmark that :func:`save_checkpoint` got, built anew.

    Returns:
        The number of experiences that the strategy has been trained on: the place in the stream at which to
        go on.

    Raises:
        CheckpointError: if the checkpoint is of another strategy, benchmark, device or version, or if none is
            whole; in one line.
    """
    checkpoint, damages = find_checkpoint(Path(path))
    if checkpoint is None:
        if damages:
            raise CheckpointError(f"{damages[-1]}; delete it to begin anew.")
        return 0
    for damage in damages:
        warnings.warn(f"{damage}; going on with the one before.", stacklevel=2)
    return checkpoint.restore(strategy, benchmark)


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """A checkpoint that is whole, and of this version.

    Attributes:
        path: its file.
        header: what anyone may read: versions, device, parts, and the number of trained experiences.
    """

    path: Path
    header: Mapping[str, Any]
    _payload: memoryview = field(repr=False)

    @property
    def notes(self) -> dict[str, Any]:
        """What :func:`save_checkpoint` got as notes."""
        notes: dict[str, Any] = self.header["notes"]
        return notes

    @property
    def trained(self) -> int:
        """Number of trained experiences."""
        return int(self.header["trained"])

    def restore(self, strategy: Any, benchmark: Any = None) -> int:
        """Puts the state into a strategy, as :func:`load_checkpoint` explains.

        Raises:
            CheckpointError: if it is of another strategy, benchmark or device.
        """
        parts = _parts(strategy)
        catalogue = None if benchmark is None else Catalogue.of(benchmark)
        self._check(parts, strategy.device.type, catalogue)
        known = parts | _shared(strategy) | ({} if catalogue is None else catalogue.known)
        saved = from_bytes(self._payload, known)
        for name, state in saved["states"].items():
            if name in parts:  # a logger may be gone
                _set_state(parts[name], state)
        _set_generators(saved["generators"])
        return self.trained

    def _check(self, parts: Mapping[str, Any], device: str, catalogue: Catalogue | None) -> None:
        if self.header["device"] != device:
            raise CheckpointError(
                f"{self.path} was made on {self.header['device']}, and this strategy is on {device}; "
                "both must be the same."
            )
        there = self.header["parts"]
        here = {name: _class_name(part) for name, part in parts.items()}
        for name in [*there, *here]:
            if there.get(name) != here.get(name) and not name.startswith("logger "):
                raise CheckpointError(
                    f"{self.path} is of another strategy: its {name} is {there.get(name, 'missing')}, "
                    f"and here it is {here.get(name, 'missing')}."
                )
        digest = self.header["benchmark"]
        if digest is not None and catalogue is None:
            raise CheckpointError(f"{self.path} was saved with its benchmark; give the benchmark here too.")
        if digest is not None and catalogue is not None and digest != catalogue.digest:
            raise CheckpointError(f"{self.path} is of another benchmark: its experiences have other samples.")


def find_checkpoint(path: Path) -> tuple[Checkpoint | None, list[str]]:
    """The newest checkpoint at a path that is whole, and what is wrong with a newer one.

    Nothing of it is unpickled yet.

    Raises:
        CheckpointError: if it is of another version.
    """
    damages = []
    for file in (path, previous_of(path)):
        try:
            header, payload = read_file(file)
        except FileNotFoundError:
            continue
        except DamagedError as error:
            damages.append(str(error))
            continue
        except OSError as error:
            raise CheckpointError(f"{file} cannot be read: {error.strerror}.") from error
        for name, there in header["versions"].items():
            if there != (here := _versions()[name]):
                raise CheckpointError(
                    f"{file} was made with {name} {there}, and this is {here}; install that version, or "
                    "delete the file to begin anew."
                )
        return Checkpoint(file, header, payload), damages
    return None, damages


def _versions() -> dict[str, str]:
    return {
        "python": ".".join(platform.python_version_tuple()[:2]),
        **{package: version(package) for package in _PACKAGES},
    }


def _parts(strategy: Any) -> dict[str, Any]:
    """The objects that a user's script may hold, and which therefore stay: only their state is saved."""
    found: dict[str, Any] = {
        "strategy": strategy,
        "model": strategy.model,
        "optimizer": strategy.optimizer,
        "criterion": strategy._criterion,
        "evaluator": strategy.evaluator,
    }
    found |= {f"plugin {number}": plugin for number, plugin in enumerate(strategy.plugins)}
    found |= {f"metric {number}": metric for number, metric in enumerate(strategy.evaluator.metrics)}
    numbers: dict[str, int] = {}
    for logger in strategy.evaluator.loggers:  # by their classes: another start may have others
        name = type(logger).__qualname__
        numbers[name] = numbers.get(name, -1) + 1
        found[f"logger {name} {numbers[name]}"] = logger
    parts: dict[str, Any] = {}
    for name, part in found.items():
        if not any(part is other for other in parts.values()) and _has_state(part):
            parts[name] = part
    return parts


def _shared(strategy: Any) -> dict[str, Any]:
    loggers = strategy.evaluator.loggers
    return {"list of loggers": loggers} if isinstance(loggers, list) else {}


def _has_state(part: Any) -> bool:
    """Whether its class leaves its making to pickle; a function, for one, does not."""
    kind: Any = type(part)
    return (
        kind.__reduce_ex__ is object.__reduce_ex__
        and kind.__reduce__ is object.__reduce__
        and hasattr(part, "__dict__")
        and not isinstance(part, type | FunctionType)
    )


def _class_name(part: Any) -> str:
    return type(part).__qualname__


def _state(name: str, part: Any) -> Any:
    try:
        return part.__getstate__()
    except Exception as error:  # anyone's
        what = f"the strategy's {name} ({_class_name(part)})"
        raise CheckpointError(f"{what} cannot be saved: {one_line(error)}") from error


def _set_state(part: Any, state: Any) -> None:
    """As unpickling does, but what the state does not have stays."""
    if hasattr(part, "__setstate__"):
        part.__setstate__(state)
        return
    state, slots = state if isinstance(state, tuple) else (state, None)
    for values in (state, slots):
        for name, value in (values or {}).items():
            object.__setattr__(part, name, value)


def _generators() -> dict[str, Any]:
    states: dict[str, Any] = {
        "python": random.getstate(),
        "numpy": np.random.get_state(),
        "torch": torch.get_rng_state(),
    }
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        states["cuda"] = torch.cuda.get_rng_state_all()
    if torch.backends.mps.is_available():
        states["mps"] = torch.mps.get_rng_state()
    return states


def _set_generators(states: Mapping[str, Any]) -> None:
    random.setstate(states["python"])
    np.random.set_state(states["numpy"])
    torch.set_rng_state(states["torch"])
    if "cuda" in states:
        for number, state in enumerate(states["cuda"][: torch.cuda.device_count()]):
            torch.cuda.set_rng_state(state, number)
    if "mps" in states:
        torch.mps.set_rng_state(states["mps"])


def _blamed(error: CheckpointError, states: Mapping[str, Any], known: Mapping[str, Any]) -> CheckpointError:
    """The same error with the first part that has it."""
    for name, state in states.items():
        try:
            to_bytes(state, known)
        except CheckpointError as reason:
            kind = _class_name(known[name])
            return CheckpointError(str(reason).replace("the strategy", f"the strategy's {name} ({kind})", 1))
    return error
