"""Applying the `tokens` log to a database: restore, standby and replica; written for speed.

In a primary everything derived from the rows follows at once, in the same WriteBatch: the id index, the expiry index,
and which windows wait for their summary (a batch's summaries come after its rows, and a crash may have cut them off).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from store.buffer.database import BufferDatabase
from store.buffer.expiry_index import due_key
from store.buffer.held_rows import HeldRows, LogPosition
from store.window import layout
from store.window.layout import pack_int, prefix_length
from store.window.rows import FORMAT, KIND_EVENT, KIND_FIELD, KIND_SUMMARY, check_row_format, newer_log, newest_time
from store.window.window_rules import WindowRules
from store.window.window_update import Row

_HELD_SUMMARIES, _HELD_ROWS = 16_000, 200_000
"""While bulk loading, the position is written with this many summaries (25 MB of them) or after this many rows."""


class LogBatch:
    """Consecutive rows of the log. `batch` holds all but what follows from them; `LogApplier.write` writes it.

    summaries: newest by (user, modality) prefix, None = dropped. unsummed: prefixes with rows after their last summary.
    ids: event times last put into the id index. gone: keys of event rows that were deleted and have not come back.
    """

    def __init__(self, database: BufferDatabase, stream_time: int, *, indexed: bool) -> None:
        self.batch: Any = database.batch()
        self.stream_time = stream_time
        self.rows = 0
        self.summaries: dict[bytes, bytes | None] = {}
        self.unsummed: set[bytes] = set()
        self.ids: dict[bytes, bytes] = {}
        self.gone: set[bytes] = set()
        self._db = database
        self._indexed = indexed

    def read(self, rows: Sequence[Row]) -> None:
        """Add rows in log order.

        Raises:
            StateError: a row of a format this version does not know. (One of a summary: when it is written.)
        """
        summaries, unsummed, ids, gone, indexed = self.summaries, self.unsummed, self.ids, self.gone, self._indexed
        put, delete, h_rows, h_ids = self.batch.put, self.batch.delete, self._db.h_rows, self._db.h_ids
        newest = self.stream_time.to_bytes(8, "big")
        for key, value in rows:
            end = 2 + (key[0] << 8 | key[1])
            end += 1 + key[end]
            kind, prefix = key[end], key[:end]
            if kind == KIND_SUMMARY:
                summaries[prefix] = value
                unsummed.discard(prefix)
                newest = max(newest, newest_time(value).to_bytes(8, "big"))
                continue
            unsummed.add(prefix)
            if value is None:
                delete(key, h_rows)
                if kind == KIND_EVENT:
                    gone.add(key)
                elif kind != KIND_FIELD:
                    raise ValueError(f"not a row key: {key!r}")
                continue
            if value[0] != FORMAT:
                check_row_format(kind, value)
            put(key, value, h_rows)
            if kind == KIND_EVENT:
                ts = key[end + 1 : end + 9]
                if ts > newest:
                    newest = ts
                if indexed:
                    name = prefix + key[end + 9 :]
                    put(name, ts + value[2:10], h_ids)
                    ids[name] = ts
                    if gone:
                        gone.discard(key)
            elif kind == KIND_FIELD:
                if value[10:18] > newest:
                    newest = value[10:18]
            else:
                raise ValueError(f"not a row key: {key!r}")
        self.rows += len(rows)
        self.stream_time = int.from_bytes(newest, "big")

    def absorb(self, later: LogBatch) -> None:
        """Take over what follows from `later`, whose rows are written and which shares our `gone`."""
        self.rows += later.rows
        self.summaries.update(later.summaries)
        self.unsummed.difference_update(later.summaries)
        self.unsummed |= later.unsummed


class LogApplier:
    """Writes batches of the log with the position behind them. For the buffer's thread.

    While bulk loading, summaries are held back, since later ones replace most of them, and the position with them:
    rows may be durable ahead of the position, never behind it. So are ids of rows that go: looking one up needs its
    family flushed.
    """

    def __init__(self, database: BufferDatabase, rules: WindowRules, *, replica: bool) -> None:
        self._db = database
        self._rules = rules
        self._replica = replica
        start = len(layout.M_UNSUMMED)
        self.unsummed = {key[start:] for key, _ in database.items(database.meta, layout.M_UNSUMMED)}
        """Windows whose rows came after their last summary. Always empty in a replica."""
        self._waiting = HeldRows(database, rules.modalities) if replica else None
        self._held: LogBatch | None = None  # while bulk loading
        self._pending: tuple[int, LogPosition] | None = None  # stream time and position not yet written

    def read(self, rows: Sequence[Row], stream_time: int, since: LogPosition) -> LogBatch:
        """A batch of rows in log order. Of a replica, those with their summaries.

        Args:
            since: the position before `rows`.

        Raises:
            StateError: a row of a format this version does not know. (One of a summary: when it is written.)
        """
        batch = LogBatch(self._db, stream_time, indexed=not self._replica)
        if self._held is not None:
            batch.gone = self._held.gone
        if self._waiting is None:
            batch.read(rows)
        else:
            self._waiting.read(batch, rows, since)
        return batch

    def write(self, out: LogBatch, position: LogPosition) -> None:
        """Write a batch. If it fails the buffer must be closed.

        Args:
            position: the log is then applied up to here (exclusive), but for what waits for its summary.
        """
        if self._waiting is not None:
            position = self._waiting.position or position
        held = self._held
        if held is None:
            self._conclude(out, out.stream_time, position)
            self._db.write(out.batch)
            return
        self._db.write(out.batch, logged=False)
        held.absorb(out)
        self._pending = out.stream_time, position
        if len(held.summaries) >= _HELD_SUMMARIES or held.rows >= _HELD_ROWS:
            self._write_held(held, *self._pending)
            self._hold()

    def start_bulk(self) -> None:
        """Open the database for bulk loading."""
        self._db.reopen(bulk=True)
        self._hold()

    def end_bulk(self) -> None:
        """Write what was held back, and open the database for everything else."""
        if self._pending is not None and self._held is not None:
            self._write_held(self._held, *self._pending)
        self._held = self._pending = None
        self._db.reopen(bulk=False)

    def _hold(self) -> None:
        self._held, self._pending = LogBatch(self._db, 0, indexed=not self._replica), None

    def _write_held(self, held: LogBatch, stream_time: int, position: LogPosition) -> None:
        if held.gone:
            self._db.ids.flush()  # it is about to be read; ids ahead of the position are as harmless as rows
        self._conclude(held, stream_time, position)
        self._db.write(held.batch, logged=False)

    def _conclude(self, out: LogBatch, stream_time: int, position: LogPosition) -> None:
        """Add to the batch summaries, what follows from them and from its rows, and the position."""
        put, delete, h_summaries, h_meta = out.batch.put, out.batch.delete, self._db.h_summaries, self._db.h_meta
        if not self._replica:
            self._unindex(out)
            self._index(out.batch, out.summaries)
            for prefix in self.unsummed.intersection(out.summaries) - out.unsummed:
                delete(layout.M_UNSUMMED + prefix, h_meta)
            for prefix in out.unsummed - self.unsummed:
                put(layout.M_UNSUMMED + prefix, b"", h_meta)
            self.unsummed.difference_update(out.summaries)
            self.unsummed |= out.unsummed
        for prefix, value in out.summaries.items():
            if value is None:
                delete(prefix + b"\x00", h_summaries)
            else:
                put(prefix + b"\x00", value, h_summaries)
        put(layout.M_LOG_OFFSET, pack_int(position.offset), h_meta)
        put(layout.M_STREAM_TIME, pack_int(stream_time), h_meta)
        put(layout.M_OWNER, position.owner, h_meta)

    def _unindex(self, out: LogBatch) -> None:
        """An id goes with its row, unless it has meanwhile come at another time."""
        unsure: list[tuple[bytes, bytes]] = []
        for key in sorted(out.gone):
            end = prefix_length(key)
            name, ts = key[:end] + key[end + 9 :], key[end + 1 : end + 9]
            if name not in out.ids:
                unsure.append((name, ts))
            elif out.ids[name] == ts:
                out.batch.delete(name, self._db.h_ids)
        if unsure:
            found = self._db.ids.get([name for name, _ in unsure])
            for (name, ts), stored in zip(unsure, found, strict=True):
                if stored is not None and stored[:8] == ts:
                    out.batch.delete(name, self._db.h_ids)

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
                raise newer_log(str(exc)) from exc
            if key is not None:
                batch.put(key, b"", self._db.h_expiry)
