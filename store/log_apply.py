"""Applying the `tokens` log to a database: restore, standby and replica; written for speed.

In a primary everything derived from the rows follows at once, in the same WriteBatch: the id index, the expiry index,
and which windows wait for their summary (a batch's summaries come after its rows, and a crash may have cut them off).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from store import buffer_layout as layout
from store.batch import WindowRules
from store.buffer_database import BufferDatabase
from store.buffer_layout import pack_int
from store.errors import StateError
from store.restore_finish import due_key
from store.rows import FORMAT, KIND_EVENT, KIND_FIELD, KIND_SUMMARY
from store.window_update import Row

_HELD_SUMMARIES, _HELD_ROWS = 16_000, 200_000
"""While bulk loading, the position is written with this many summaries (25 MB of them) or after this many rows."""


class LogBatch:
    """Consecutive rows of the log. `batch` holds all but the summaries; `LogApplier.write` writes it.

    summaries: newest by (user, modality) prefix, None = dropped. unsummed: prefixes with rows after their last summary.
    """

    def __init__(self, database: BufferDatabase, stream_time: int, *, indexed: bool) -> None:
        self.batch: Any = database.batch()
        self.stream_time = stream_time
        self.rows = 0
        self.summaries: dict[bytes, bytes | None] = {}
        self.unsummed: set[bytes] = set()
        self._db = database
        self._indexed = indexed

    def read(self, rows: Sequence[Row]) -> None:
        """Add rows in log order.

        Raises:
            StateError: a row of a format this version does not know. (One of a summary: when it is written.)
        """
        summaries, unsummed, indexed = self.summaries, self.unsummed, self._indexed
        put, delete, h_rows, h_ids = self.batch.put, self.batch.delete, self._db.h_rows, self._db.h_ids
        newest = self.stream_time.to_bytes(8, "big")
        ids: dict[bytes, bytes] = {}  # event time under which an id was last put here
        unsure: list[tuple[bytes, bytes]] = []
        for key, value in rows:
            end = 2 + (key[0] << 8 | key[1])
            end += 1 + key[end]
            kind, prefix = key[end], key[:end]
            if kind == KIND_SUMMARY:
                summaries[prefix] = value
                unsummed.discard(prefix)
                continue
            unsummed.add(prefix)
            if value is None:
                delete(key, h_rows)
            elif value[0] != FORMAT:
                raise _newer(f"row format {value[0]}; this version reads {FORMAT}")
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
        self.rows += len(rows)
        self.stream_time = int.from_bytes(newest, "big")
        self._unindex([(name, ts) for name, ts in unsure if name not in ids])

    def _unindex(self, gone: list[tuple[bytes, bytes]]) -> None:
        """An id goes with its row, unless the id has meanwhile come back at another time."""
        if gone:
            found = self._db.ids.get([name for name, _ in gone])
            for (name, ts), stored in zip(gone, found, strict=True):
                if stored is not None and stored[:8] == ts:
                    self.batch.delete(name, self._db.h_ids)


class LogApplier:
    """Writes batches of the log with the position behind them. For the buffer's thread.

    While bulk loading, summaries are held back, since later ones replace most of them, and the position with them:
    rows may be durable ahead of the position, never behind it.
    """

    def __init__(self, database: BufferDatabase, rules: WindowRules, *, replica: bool) -> None:
        self._db = database
        self._rules = rules
        self._replica = replica
        start = len(layout.M_UNSUMMED)
        self.unsummed = {key[start:] for key, _ in database.items(database.meta, layout.M_UNSUMMED)}
        """Windows whose rows came after their last summary. Always empty in a replica."""
        self._moved: dict[bytes, bool] = {}  # in or out of `unsummed` since the position was written
        self._held: dict[bytes, bytes | None] | None = None
        self._rows = 0
        self._pending: tuple[int, int, bytes] | None = None  # position not yet written

    def batch(self, stream_time: int) -> LogBatch:
        """An empty batch."""
        return LogBatch(self._db, stream_time, indexed=not self._replica)

    def write(self, out: LogBatch, next_offset: int, owner: bytes) -> None:
        """Write a batch. If it fails the buffer must be closed.

        Args:
            next_offset: the log is then applied up to here (exclusive).
            owner: in force there.
        """
        if not self._replica:
            self._track(out)
        position = next_offset, out.stream_time, owner
        if self._held is None:
            self._position(out.batch, out.summaries, position)
            self._db.write(out.batch)
            return
        self._held.update(out.summaries)
        self._rows += out.rows
        if len(self._held) < _HELD_SUMMARIES and self._rows < _HELD_ROWS:
            self._db.write(out.batch, logged=False)
            self._pending = position
        else:
            self._position(out.batch, self._held, position)
            self._db.write(out.batch, logged=False)
            self._held, self._rows, self._pending = {}, 0, None

    def start_bulk(self) -> None:
        """Open the database for bulk loading."""
        self._db.reopen(bulk=True)
        self._held = {}

    def end_bulk(self) -> None:
        """Write what was held back, and open the database for everything else."""
        if self._pending is not None and self._held is not None:
            batch = self._db.batch()
            self._position(batch, self._held, self._pending)
            self._db.write(batch, logged=False)
        self._held, self._rows, self._pending = None, 0, None
        self._db.reopen(bulk=False)

    def _track(self, out: LogBatch) -> None:
        for prefix in self.unsummed.intersection(out.summaries) - out.unsummed:
            self._moved[prefix] = False
        for prefix in out.unsummed - self.unsummed:
            self._moved[prefix] = True
        self.unsummed.difference_update(out.summaries)
        self.unsummed |= out.unsummed

    def _position(self, batch: Any, summaries: dict[bytes, bytes | None], position: tuple[int, int, bytes]) -> None:
        """Add summaries, what follows from them, and the position."""
        put, delete, h_summaries, h_meta = batch.put, batch.delete, self._db.h_summaries, self._db.h_meta
        if not self._replica:
            self._index(batch, summaries)
            for prefix, waits in self._moved.items():
                if waits:
                    put(layout.M_UNSUMMED + prefix, b"", h_meta)
                else:
                    delete(layout.M_UNSUMMED + prefix, h_meta)
            self._moved = {}
        for prefix, value in summaries.items():
            if value is None:
                delete(prefix + b"\x00", h_summaries)
            else:
                put(prefix + b"\x00", value, h_summaries)
        next_offset, stream_time, owner = position
        put(layout.M_LOG_OFFSET, pack_int(next_offset), h_meta)
        put(layout.M_STREAM_TIME, pack_int(stream_time), h_meta)
        put(layout.M_OWNER, owner, h_meta)

    def _index(self, batch: Any, summaries: dict[bytes, bytes | None]) -> None:
        """Keep the expiry index: each window has an entry that is not later than what is due."""
        if not summaries:
            return
        stored = self._db.summaries.get([prefix + b"\x00" for prefix in summaries])
        for (prefix, value), old in zip(summaries.items(), stored, strict=True):
            if value is None:
                continue
            try:
                key = due_key(self._rules, prefix, value, old)
            except ValueError as exc:
                raise _newer(str(exc)) from exc
            if key is not None:
                batch.put(key, b"", self._db.h_expiry)


def _newer(detail: str) -> StateError:
    return StateError(
        f"the `tokens` log cannot be read: {detail}",
        action="start the version of anchorstream that wrote them",
    )
