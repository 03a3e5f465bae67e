"""Turning records of the `tokens` log into one WriteBatch: the restore and replica path, written for speed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from store.buffer_database import BufferDatabase
from store.errors import StateError
from store.rows import FORMAT, KIND_EVENT, KIND_FIELD, KIND_SUMMARY
from store.window_update import Row


class LogBatch:
    """Rows of one `TokenBuffer.apply_log`. Fills `batch`; the caller adds the position and writes it.

    summed: (user, modality) prefixes whose summary came. unsummed: those whose rows came after their last summary.
    """

    def __init__(self, database: BufferDatabase, stream_time: int, *, indexed: bool) -> None:
        self.batch: Any = database.batch()
        self.stream_time = stream_time
        self.summed: dict[bytes, None] = {}
        self.unsummed: set[bytes] = set()
        self._db = database
        self._indexed = indexed

    def apply(self, rows: Sequence[Row]) -> None:
        """Add rows in log order."""
        latest: dict[bytes, bytes | None] = {}
        summaries: dict[bytes, bytes | None] = {}
        summed, unsummed = self.summed, self.unsummed
        newest = self.stream_time.to_bytes(8, "big")
        ids: dict[bytes, bytes | None] = {}
        unsure: list[tuple[bytes, bytes]] = []
        indexed = self._indexed
        for key, value in rows:
            end = 2 + (key[0] << 8 | key[1])
            end += 1 + key[end]
            kind, prefix = key[end], key[:end]
            if value is not None and value[0] != FORMAT and kind != KIND_SUMMARY:
                raise _newer(value[0])
            if kind == KIND_SUMMARY:
                summed[prefix] = None
                unsummed.discard(prefix)
                summaries[key] = value
                continue
            unsummed.add(prefix)
            latest[key] = value
            if kind == KIND_EVENT:
                ts = key[end + 1 : end + 9]
                if value is not None and ts > newest:
                    newest = ts
                if indexed:
                    name = prefix + key[end + 9 :]
                    if value is not None:
                        ids[name] = ts + value[2:10]
                    elif name in ids:
                        old = ids[name]
                        if old is not None and old[:8] == ts:
                            ids[name] = None
                    else:
                        unsure.append((name, ts))
            elif kind == KIND_FIELD:
                if value is not None and value[10:18] > newest:
                    newest = value[10:18]
            else:
                raise ValueError(f"not a row key: {key!r}")
        self.stream_time = int.from_bytes(newest, "big")
        self._write(latest, self._db.h_rows)
        self._write(summaries, self._db.h_summaries)
        if indexed:
            self._index(ids, unsure)

    def _write(self, changes: dict[bytes, bytes | None], family: Any) -> None:
        put, delete = self.batch.put, self.batch.delete
        for key, value in changes.items():
            if value is None:
                delete(key, family)
            else:
                put(key, value, family)

    def _index(self, ids: dict[bytes, bytes | None], unsure: list[tuple[bytes, bytes]]) -> None:
        """An id goes with its row, unless the id has meanwhile come back at another time."""
        self._write(ids, self._db.h_ids)
        unsure = [(name, ts) for name, ts in unsure if name not in ids]
        if unsure:
            found = self._db.ids.get([name for name, _ in unsure])
            for (name, ts), stored in zip(unsure, found, strict=True):
                if stored is not None and stored[:8] == ts:
                    self.batch.delete(name, self._db.h_ids)


def _newer(version: int) -> StateError:
    return StateError(
        f"the `tokens` log holds rows of format {version}; this version reads {FORMAT}",
        action="start the version of anchorstream that wrote them",
    )
