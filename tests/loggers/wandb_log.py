"""Reads a run's transaction log back: what W&B's client would upload."""

import json
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import wandb
from wandb.proto.wandb_internal_pb2 import Record


@dataclass(frozen=True)
class Log:
    """What W&B would upload: its record of a run, read back.

    Attributes:
        run: name, tags and so on, as W&B's message.
        config: with all its updates.
        axes: of each metric that was defined.
        history: the rows.
        summary: as it is after all its updates.
        artifacts: the files of each, by its type.
        exit_code: of the run; None if it was never ended.
    """

    run: Any
    config: dict[str, Any]
    axes: dict[str, str]
    history: list[dict[str, Any]]
    summary: dict[str, Any]
    artifacts: dict[str, set[str]]
    exit_code: int | None

    def curve(self, name: str, axis: str) -> list[tuple[int, float]]:
        return [(row[axis], row[name]) for row in self.history if name in row]


def read_logs(folder: Path) -> list[Log]:
    """The offline runs below a folder, the oldest first."""
    wandb.teardown()  # waits until the files are written
    return [_log(_records(path)) for path in sorted(folder.glob("wandb/offline-run-*/*.wandb"))]


def read_log(folder: Path) -> Log:
    """The only offline run below a folder."""
    (log,) = read_logs(folder)
    return log


def _records(path: Path) -> list[Record]:
    """Reads a file in the format of LevelDB's log, after a header of seven bytes.

    Blocks of 32 KiB hold chunks of: checksum, length, type (1 whole, 2 first, 3 middle, 4 last), bytes.
    """
    data, position, message, records = path.read_bytes(), 7, b"", []
    while position + 7 <= len(data):
        left = 2**15 - position % 2**15
        if left < 7:
            position += left
            continue
        _, size, kind = struct.unpack_from("<IHB", data, position)
        position += 7 + size
        message += data[position - size : position]
        if kind in (1, 4):
            records.append(Record.FromString(message))
            message = b""
    return records


def _log(records: list[Record]) -> Log:
    def of(kind: str) -> list[Any]:
        return [getattr(record, kind) for record in records if record.WhichOneof("record_type") == kind]

    summary: dict[tuple[str, ...], Any] = {}
    for record in of("summary"):
        for item in record.remove:
            summary = {key: value for key, value in summary.items() if key[0] != item.key}
        for item in record.update:
            summary[tuple(item.nested_key) or (item.key,)] = json.loads(item.value_json)
    (run,) = of("run")
    updates = [item for record in (run.config, *of("config")) for item in record.update]
    return Log(
        run=run,
        config={item.key: json.loads(item.value_json) for item in updates if item.key != "_wandb"},
        axes={metric.name: metric.step_metric for metric in of("metric")},
        history=[
            {"/".join(item.nested_key) or item.key: json.loads(item.value_json) for item in row.item}
            for row in of("history")
        ],
        summary=_nested(summary),
        artifacts={a.type: {entry.path for entry in a.manifest.contents} for a in of("artifact")},
        exit_code=of("exit")[0].exit_code if of("exit") else None,
    )


def _nested(flat: dict[tuple[str, ...], Any]) -> dict[str, Any]:
    nested: dict[str, Any] = {}
    for key, value in flat.items():
        if len(key) == 1:
            nested[key[0]] = value
        else:
            nested.setdefault(key[0], {})["/".join(key[1:])] = value
    return nested
