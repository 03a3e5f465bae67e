"""Turning records of the `tokens` log into one WriteBatch: the restore and replica path, written for speed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from store import buffer_layout as layout
from store.buffer_database import BufferDatabase
from store.errors import StateError
from store.rows import FORMAT, KIND_EVENT, KIND_FIELD, KIND_SUMMARY
from store.window_update import Row


class LogBatch:
    """Rows of one `TokenBuffer.apply_log`. Fills `batch`, which the caller writes.

    summed: (user, modality) prefixes whose summary came. unsummed: those whose rows came after their last summary.
    """

    def __init__(self, database: BufferDatabase, stream_time: int, *, indexed: bool) -> None:
        self.batch: Any = database.batch()
        self.stream_time = stream_time
        self.summed: dict[bytes, None] = {}
        self.unsummed: set[bytes] = set()
        self._db = database
        self._indexed = indexed

    def apply(self, rows: Sequence[Row], summaries: dict[bytes, bytes | None]) -> None:
        """Add rows in log order; but summary rows go to `summaries`, for the newest of each to be written later.

        Raises:
            StateError: a row of a format this version does not know.
        """
        summed, unsummed, indexed = self.summed, self.unsummed, self._indexed
        put, delete, h_rows, h_ids = self.batch.put, self.batch.delete, self._db.h_rows, self._db.h_ids
        newest = self.stream_time.to_bytes(8, "big")
        ids: dict[bytes, bytes] = {}  # event time under which an id was last seen here
        unsure: list[tuple[bytes, bytes]] = []
        for key, value in rows:
            end = 2 + (key[0] << 8 | key[1])
            end += 1 + key[end]
            kind, prefix = key[end], key[:end]
            if kind == KIND_SUMMARY:
                summed[prefix] = None
                unsummed.discard(prefix)
                summaries[key] = value
                continue
            unsummed.add(prefix)
            if value is None:
                delete(key, h_rows)
            elif value[0] != FORMAT:
                raise _newer(value[0])
            else:
                put(key, value, h_rows)
            if kind == KIND_EVENT:
                ts = key[end + 1 : end + 9]
                if value is not None and ts > newest:
                    newest = ts
                if indexed:
                    name = prefix + key[end + 9 :]
                    if value is not None:
                        put(name, ts + value[2:10], h_ids)
                        ids[name] = ts
                    elif name not in ids:
                        unsure.append((name, ts))
                    elif ids[name] == ts:
                        delete(name, h_ids)
            elif kind == KIND_FIELD:
                if value is not None and value[10:18] > newest:
                    newest = value[10:18]
            else:
                raise ValueError(f"not a row key: {key!r}")
        self.stream_time = int.from_bytes(newest, "big")
        self._unindex([(name, ts) for name, ts in unsure if name not in ids])

    def finish(self, summaries: dict[bytes, bytes | None], next_offset: int, owner: bytes) -> None:
        """Add summary rows and the position up to which everything is then applied."""
        put, delete, family = self.batch.put, self.batch.delete, self._db.h_summaries
        for key, value in summaries.items():
            if value is None:
                delete(key, family)
            else:
                put(key, value, family)
        put(layout.M_LOG_OFFSET, layout.pack_int(next_offset), self._db.h_meta)
        put(layout.M_STREAM_TIME, layout.pack_int(self.stream_time), self._db.h_meta)
        put(layout.M_OWNER, owner, self._db.h_meta)

    def _unindex(self, gone: list[tuple[bytes, bytes]]) -> None:
        """An id goes with its row, unless the id has meanwhile come back at another time."""
        if gone:
            found = self._db.ids.get([name for name, _ in gone])
            for (name, ts), stored in zip(gone, found, strict=True):
                if stored is not None and stored[:8] == ts:
                    self.batch.delete(name, self._db.h_ids)


def _newer(version: int) -> StateError:
    return StateError(
        f"the `tokens` log holds rows of format {version}; this version reads {FORMAT}",
        action="start the version of anchorstream that wrote them",
    )
