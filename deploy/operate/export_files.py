"""Embeddings as a file: `.jsonl`, `.parquet` or `.npy`. Under its name it is whole, or as it was before."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any, BinaryIO, Protocol

import numpy as np

from deploy.operate.export import Exported
from store.base.errors import ConfigError, StateError
from store.base.files import open_atomic
from store.records.embedding import DIM

ROWS = 4096
"""Records in memory at once; also a row group of Parquet."""
USERS_SUFFIX = ".users.txt"


class Writer(Protocol):
    """Takes rows in pieces."""

    def write(self, rows: list[Exported]) -> None: ...


def save(path: Path, rows: Iterable[Exported]) -> int:
    """Write all rows; returns how many. What `rows` raises leaves the file as it was.

    Raises:
        ConfigError: the suffix is none of ours. StateError: the file cannot be written.
    """
    formats = {".jsonl": _json_lines, ".parquet": _parquet, ".npy": _npy}
    if path.suffix not in formats:
        raise ConfigError(f"{path.name}: the format goes by the suffix: {', '.join(formats)}", action="rename the file")
    count, left = 0, iter(rows)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with formats[path.suffix](path) as writer:
            while piece := list(islice(left, ROWS)):
                writer.write(piece)
                count += len(piece)
    except OSError as exc:
        raise StateError(
            f"{path} cannot be written: {exc}", action="look for space and permissions, or name another file"
        ) from exc
    return count


@contextmanager
def _json_lines(path: Path) -> Iterator[Writer]:
    """One object a line: the members of `GET …/embeddings`, and `gone`."""
    with open_atomic(path) as file:
        yield _JsonLines(file)


class _JsonLines:
    def __init__(self, file: BinaryIO) -> None:
        self._file = file

    def write(self, rows: list[Exported]) -> None:
        for row in rows:
            members = _members(row) | {"vector": row.record.vector.tolist()}
            self._file.write(json.dumps(members, ensure_ascii=False).encode() + b"\n")


@contextmanager
def _parquet(path: Path) -> Iterator[Writer]:
    """Times as UTC, `covers` and `events` as maps, the vector as a list of DIM float32."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    time, counts = pa.timestamp("ms", "UTC"), pa.map_(pa.string(), pa.int64())
    schema = pa.schema(
        [
            pa.field("user_id", pa.string(), nullable=False),
            *((name, pa.string()) for name in ("scenario", "model")),
            *((name, time) for name in ("as_of", "newest_event", "ingested_at", "computed_at")),
            *((name, counts) for name in ("covers", "events")),
            ("gone", pa.bool_()),
            ("vector", pa.list_(pa.float32(), DIM)),
        ]
    )
    with open_atomic(path) as file, pq.ParquetWriter(file, schema) as writer:
        yield _Parquet(writer, schema)


class _Parquet:
    def __init__(self, writer: Any, schema: Any) -> None:
        self._writer, self._schema = writer, schema

    def write(self, rows: list[Exported]) -> None:
        import pyarrow as pa

        members = [_members(row) for row in rows]
        columns: dict[str, Any] = {name: [of[name] for of in members] for name in self._schema.names[:-1]}
        for name in ("covers", "events"):
            columns[name] = [list(counts.items()) for counts in columns[name]]
        vectors = pa.array(np.concatenate([row.record.vector for row in rows]), pa.float32())
        columns["vector"] = pa.FixedSizeListArray.from_arrays(vectors, DIM)
        self._writer.write_table(pa.table(columns, schema=self._schema))


@contextmanager
def _npy(path: Path) -> Iterator[Writer]:
    """A float32 array (users, DIM), and beside it `NAME.users.txt`: the user of each row, one a line."""
    with (
        TemporaryFile(dir=path.parent) as vectors,
        open_atomic(path.with_name(path.name.removesuffix(".npy") + USERS_SUFFIX)) as users,
        open_atomic(path) as file,
    ):
        writer = _Npy(vectors, users)
        yield writer
        header = {"descr": "<f4", "fortran_order": False, "shape": (writer.count, DIM)}
        np.lib.format.write_array_header_1_0(file, header)
        vectors.seek(0)
        while piece := vectors.read(1 << 20):
            file.write(piece)


class _Npy:
    def __init__(self, vectors: Any, users: BinaryIO) -> None:
        self._vectors, self._users = vectors, users
        self.count = 0

    def write(self, rows: list[Exported]) -> None:
        for row in rows:
            self._vectors.write(row.record.vector.astype("<f4").tobytes())
            self._users.write(row.record.user_id.encode() + b"\n")
        self.count += len(rows)


def _members(row: Exported) -> dict[str, Any]:
    """All but the vector."""
    names = ("user_id", "scenario", "model", "as_of", "newest_event", "ingested_at", "computed_at", "covers", "events")
    return {name: getattr(row.record, name) for name in names} | {"gone": row.gone}
