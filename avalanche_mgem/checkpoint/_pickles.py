"""Python objects to bytes and back, without the objects that both sides have."""

import io
import pickle
import sys
from collections.abc import Mapping
from inspect import CO_VARARGS, CO_VARKEYWORDS, GEN_CREATED, getgeneratorstate
from types import FunctionType, GeneratorType
from typing import Any

import psutil  # type: ignore[import-untyped]
import torch
from cloudpickle import CloudPickler
from torch import Tensor
from torch.storage import TypedStorage, UntypedStorage

from avalanche_mgem.checkpoint._file import CheckpointError
from avalanche_mgem.runs import one_line


def to_bytes(value: Any, known: Mapping[str, Any]) -> memoryview:
    """Pickles a value.

    Args:
        value: anything that pickle takes; also functions and classes without a name of their own, generators
            that have not begun, and open text files. Tensors keep what they share.
        known: objects by name that the reader has too. Their names are written in place of them.

    Raises:
        CheckpointError: naming what cannot be pickled.
    """
    pickles = io.BytesIO()
    pickler = _Pickler(pickles, {id(thing): name for name, thing in known.items()})
    try:
        pickler.dump(value)
    except CheckpointError:
        raise
    except Exception as error:  # __getstate__ and __reduce__ of anyone may raise anything
        raise CheckpointError(f"the strategy cannot be saved: {one_line(error)}") from error
    buffer = io.BytesIO()
    tensors = [torch.empty(0, dtype=torch.uint8, device=s.device).set_(s) for s in pickler.storages]
    # As a tensor: torch.load then unpickles nothing but tensors.
    torch.save([torch.frombuffer(pickles.getbuffer(), dtype=torch.uint8), *tensors], buffer)
    return buffer.getbuffer()


def from_bytes(data: memoryview, known: Mapping[str, Any]) -> Any:
    """What :func:`to_bytes` was given. It runs what the pickles say.

    Raises:
        CheckpointError: naming what is missing here.
    """
    pickles, *tensors = torch.load(io.BytesIO(data), weights_only=True)
    unpickler = _Unpickler(io.BytesIO(pickles.numpy()))
    unpickler.known, unpickler.tensors = known, tensors
    try:
        return unpickler.load()
    except CheckpointError:
        raise
    except Exception as error:  # __setstate__ of anyone, and imports of what is no longer there
        raise CheckpointError(f"the checkpoint cannot be loaded: {one_line(error)}") from error


class _Pickler(CloudPickler):  # type: ignore[misc]
    """Pickles classes and functions by name where they have one, and by value where they have none."""

    def __init__(self, file: io.BytesIO, names: Mapping[int, str]) -> None:
        super().__init__(file, protocol=5)
        self._names = names
        self._numbers: dict[int, int] = {}
        self.storages: list[UntypedStorage] = []

    def persistent_id(self, obj: Any) -> Any:
        """The name of a known object, or the number of a tensor's memory."""
        if (name := self._names.get(id(obj))) is not None:
            return name
        if isinstance(obj, TypedStorage):
            return self._number(obj._untyped_storage), obj.dtype
        if isinstance(obj, UntypedStorage):
            return self._number(obj), None
        return None

    def _number(self, storage: UntypedStorage) -> int:
        number = self._numbers.setdefault(storage._cdata, len(self.storages))
        if number == len(self.storages):
            self.storages.append(storage)
        return number

    def reducer_override(self, obj: Any) -> Any:
        """How to make again what pickle refuses, or would make wrongly."""
        if isinstance(obj, GeneratorType):
            return _called, _call_of(obj)
        if isinstance(obj, io.TextIOWrapper):
            return _reduced_file(obj)
        if isinstance(obj, psutil.Process):  # as Avalanche's metric of memory has it
            return psutil.Process, ()  # this process, not that of then
        if isinstance(obj, type | FunctionType) and not _has_name(obj):
            return super().reducer_override(obj)
        return NotImplemented


class _Unpickler(pickle.Unpickler):
    known: Mapping[str, Any]
    tensors: list[Tensor]

    def persistent_load(self, pid: Any) -> Any:
        if isinstance(pid, str):
            if pid not in self.known:
                raise CheckpointError(f"the checkpoint needs {pid}, which is not there.")
            return self.known[pid]
        number, dtype = pid
        storage = self.tensors[number].untyped_storage()
        if dtype is None:
            return storage
        return TypedStorage(wrap_storage=storage, dtype=dtype, _internal=True)  # type: ignore[no-untyped-call]


def _has_name(thing: Any) -> bool:
    """Whether it is found under its name in its module."""
    return _found(thing.__module__, thing.__qualname__) is thing


def _found(module: str, name: str) -> Any:
    found: Any = sys.modules.get(module)
    for part in name.split("."):
        found = getattr(found, part, None)
    return found


def _call_of(generator: "GeneratorType[Any, Any, Any]") -> tuple[Any, tuple[Any, ...], dict[str, Any]]:
    """The call that made a generator which has not begun, such as the iterator of a loader."""
    code, frame, name = generator.gi_code, generator.gi_frame, generator.__qualname__
    if frame is None or getgeneratorstate(generator) != GEN_CREATED:
        raise CheckpointError(f"the strategy cannot be saved: the generator {name} has begun.")
    function = _found(frame.f_globals.get("__name__", ""), name)
    has_more = code.co_flags & (CO_VARARGS | CO_VARKEYWORDS)
    if getattr(function, "__code__", None) is not code or has_more:
        raise CheckpointError(f"the strategy cannot be saved: the generator {name} cannot be made again.")
    names = code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]
    values = [frame.f_locals[name] for name in names]
    first = code.co_argcount
    return function, tuple(values[:first]), dict(zip(names[first:], values[first:], strict=True))


def _called(function: Any, arguments: tuple[Any, ...], options: dict[str, Any]) -> Any:
    return function(*arguments, **options)


def _reduced_file(file: io.TextIOWrapper) -> Any:
    """An open text file: standard output stays that of the process; another is written again so far."""
    for name in ("stdout", "stderr", "stdin"):
        if file in (getattr(sys, name), getattr(sys, f"__{name}__")):
            return getattr, (sys, name)
    if file.closed or file.mode not in ("w", "a"):
        raise CheckpointError(f"the strategy cannot be saved: it holds the open file {file.name!r}.")
    file.flush()
    written = None
    if file.mode == "w":
        with open(file.name, encoding=file.encoding, newline="") as again:
            written = again.read()
    return _reopened, (file.name, file.encoding, written)


def _reopened(name: str, encoding: str, written: str | None) -> Any:
    """The file with what was written so far; one that was opened for appending is left as it is."""
    if written is None:
        return open(name, "a", encoding=encoding)
    file = open(name, "w", encoding=encoding)  # noqa: SIM115
    file.write(written)
    file.flush()
    return file
