"""The token buffer of one partition: rolling windows of encoded events, kept in RocksDB, logged to `tokens`.

What it holds is a function of the events applied, whatever their order: per (user, modality) those not older than the
window, counted back from the partition's stream time (newest event time, floored to a granularity), and of these the
newest `max_events` by (ts, event id); of a tabular modality, per field the newest. Each (user, modality) also has a
summary. Events that change nothing (duplicate, expired, evicted, conflicting) still advance the summary's `covers`,
so that whoever waits for an event to be covered by an embedding is answered.

The commit protocol (docs/commit-protocol.md; the steps have the same numbers there, here and in the processor):
    1. read a batch of `events` at offset N; 2. encode its texts; 3. `prepare`: what will change, nothing written;
    4. send the rows to `tokens`, await every delivery; 5. `commit`: one WriteBatch with rows, indexes, stream time,
    source offset and log offset; 6. acknowledge: Kafka's committed offset follows.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial, wraps
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, Self, TypeVar

from store.account.account import Account, RefusedEvent
from store.account.outcome import Outcome, Outcomes
from store.base import logs
from store.base.errors import StateError
from store.base.settings import ModalitySettings
from store.buffer.back_fill_cursor import BackFillCursor
from store.buffer.database import BufferDatabase, Cursor
from store.buffer.dirty_marks import DirtyMarks, DirtyUser
from store.buffer.held_rows import LogPosition
from store.buffer.log_apply import LogApplier
from store.buffer.resources import BufferResources
from store.buffer.restore_finish import finish, index_all
from store.buffer.tick_index import TickIndex
from store.window import layout
from store.window.changes import Changes
from store.window.encoded_event import EncodedEvent, EncodedField
from store.window.event_batch import EventBatch, WindowRules
from store.window.layout import (
    DirtyMark,
    Schema,
    pack_dirty_mark,
    pack_int,
    prefix_length,
    split_prefix,
    unpack_dirty_mark,
)
from store.window.rows import KIND_SUMMARY, Summary, prefix_end, summary_key, unpack_summary, user_prefix
from store.window.summary import Totals
from store.window.user_window import UserWindow, newest_event, read_user, summary_by_scan
from store.window.window_update import Row

__all__ = [
    "Changes", "DirtyUser", "EncodedEvent", "EncodedField", "Outcome", "Outcomes", "Row", "TokenBuffer",
]  # fmt: skip

_PAGE = 1000
"""Summaries read at a time while users are listed: no iterator stays open between two users."""

log = logs.get(__name__)
_P = ParamSpec("_P")
_R = TypeVar("_R")


def _judged(method: Callable[Concatenate[TokenBuffer, _P], _R]) -> Callable[Concatenate[TokenBuffer, _P], _R]:
    """Damage that the method meets marks the database (`BufferDatabase.judge`) and is raised as a StateError."""

    @wraps(method)
    def call(self: TokenBuffer, /, *args: _P.args, **kwargs: _P.kwargs) -> _R:
        try:
            return method(self, *args, **kwargs)
        except Exception as exc:
            judged = self._db.judge(exc)
            if judged is exc:
                raise
            raise judged from exc

    return call


class TokenBuffer:
    """One partition. Single-threaded. A `replica` follows the log only: no id and expiry index, no `prepare`."""

    def __init__(self, database: BufferDatabase, rules: WindowRules, schema: Schema, *, replica: bool) -> None:
        """schema: as configured.

        Raises:
            StateError: the rows were made under another one.
        """
        self._db = database
        self._configured = schema
        self._schema = Schema.unpack(database.meta.get(layout.M_SCHEMA))
        if self._schema is not None:
            self._schema.check(schema, f"the token buffer at {database.path}")
        self._rules = rules
        self.replica = replica
        self.source_offset = database.get_int(layout.M_SOURCE_OFFSET, -1)
        """Last offset of `events` applied, -1 = none."""
        self.source_topic = (database.meta.get(layout.M_SOURCE_TOPIC) or b"").decode()
        """Id of the `events` that it counts for; "" = not known."""
        self.log_offset = database.get_int(layout.M_LOG_OFFSET, 0)
        """Next offset of `tokens` to read. On disk a replica's may lie before it, see store/buffer/held_rows.py."""
        self.log_topic = (database.meta.get(layout.M_LOG_TOPIC) or b"").decode()
        """Id of the `tokens` that it counts for; "" = not known."""
        self.stream_time = database.get_int(layout.M_STREAM_TIME, 0)
        """Newest event time applied, ms."""
        self.wall_time = database.get_int(layout.M_WALL_TIME, 0)
        """Up to which hour the wall has moved the stream time, ms; 0 = it never has."""
        self.account = Account.unpack(database.meta.get(layout.M_ACCOUNT))
        """What became of the events, each counted once; of a replica empty."""
        self.owner: bytes = database.meta.get(layout.M_OWNER) or b""
        """Owner of the partition as of `log_offset` (stream/token_log/ownership.py); empty = none yet."""
        self._dirty = DirtyMarks(
            (key.decode(), unpack_dirty_mark(value)) for key, value in database.items(database.dirty, b"")
        )
        self._stale = {key[len(layout.M_STALE) :] for key, _ in database.items(database.meta, layout.M_STALE)}
        self._due: dict[str, int] = {}
        self._version = 0
        self._log = LogApplier(database, rules, replica=replica)
        self.ticks = TickIndex(database)
        """Of a replica."""

    @classmethod
    def open(
        cls,
        path: Path,
        *,
        modalities: Mapping[str, ModalitySettings],
        encoder_id: str,
        dim: int,
        identity: str,
        expiry_granularity_ms: int,
        resources: BufferResources,
        replica: bool = False,
    ) -> Self:
        """Open or create the buffer at `path`.

        Args:
            encoder_id, dim: the text encoder whose vectors it holds.
            identity: of the broker its log lives on (`Connection.identity`).
            expiry_granularity_ms: step in which the windows' lower edge moves.

        Raises:
            StateError: it was written for another format, encoder, broker or role, or for a modality of another kind or
                with other numbers; it is in use, or cannot be read.
        """
        database = BufferDatabase(path, resources)
        try:
            database.check(
                {
                    layout.M_FORMAT: layout.FORMAT,
                    layout.M_ENCODER: encoder_id,
                    layout.M_DIM: str(dim),
                    layout.M_IDENTITY: identity,
                    layout.M_ROLE: "replica" if replica else "primary",
                }
            )
            if database.meta.get(layout.M_RESTORING) is not None:
                raise StateError(
                    f"an older version was restoring the token buffer at {path} when it ended",
                    action=f"remove {path}; it is restored from the `tokens` topic",
                    code="state_mismatch",
                )
            rules = WindowRules(modalities, dim, expiry_granularity_ms)
            if not replica and database.meta.get(layout.M_INDEXED) is None and (windows := index_all(database, rules)):
                log.warning(logs.BUFFER_REINDEXED, path=str(path), windows=windows)
            self = cls(database, rules, Schema.of(encoder_id, dim, modalities), replica=replica)
        except BaseException as exc:
            judged = database.judge(exc)
            database.close()
            if judged is exc:
                raise
            raise judged from exc
        log.info(logs.BUFFER_OPENED, path=str(path), source_offset=self.source_offset, log_offset=self.log_offset)
        return self

    # Steps 3 and 5 of the commit protocol

    @_judged
    def follow_log(self, topic_id: str) -> None:
        """`log_offset` counts for this topic."""
        batch = self._db.batch()
        batch.put(layout.M_LOG_TOPIC, topic_id.encode(), self._db.h_meta)
        self._db.write(batch)
        self.log_topic = topic_id

    def begin_source(self, topic_id: str, source_offset: int) -> None:
        """From now on `source_offset` counts for this topic, and is this."""
        batch = self._db.batch()
        batch.put(layout.M_SOURCE_TOPIC, topic_id.encode(), self._db.h_meta)
        if source_offset >= 0:
            batch.put(layout.M_SOURCE_OFFSET, pack_int(source_offset), self._db.h_meta)
        else:
            batch.delete(layout.M_SOURCE_OFFSET, self._db.h_meta)
        self._db.write(batch)
        self.source_topic, self.source_offset = topic_id, source_offset

    @_judged
    def prepare(
        self,
        events: Sequence[EncodedEvent],
        *,
        source_offset: int,
        stream_now: int = 0,
        refused: Sequence[RefusedEvent] = (),
    ) -> Changes:
        """Step 3: what a batch changes. Reads only; later events of the batch see earlier ones.

        Args:
            events: in the order of `events`. May be empty: expired rows are swept all the same.
            source_offset: of the last message of `events` in the batch.
            stream_now: lets stream time advance without an event (docs/adr/0014). Everybody who reads the log is told.
            refused: events of the batch that went to dead-letters instead; they are counted.

        Raises:
            ValueError: an event of an unknown modality, or a vector that is not on the grid of store/window/summary.py.
        """
        if self.replica:
            raise ValueError("a replica follows the log; it judges no events")
        batch = EventBatch(
            _BatchReader(self._db, self._rules),
            self._rules,
            max(self.stream_time, stream_now),
            self._due,
            self.account,
        )
        batch.apply(events, refused)
        for event in batch.conflicting():
            log.debug(
                logs.EVENT_CONFLICTING,
                user=logs.user(event.user_id),
                event_id=event.event_id,
                source=event.source,
                source_offset=event.source_offset,
            )
        batch.sweep()
        changes = batch.changes(source_offset, self._version, self.current(self._again()) if self._stale else ())
        return changes._replace(wall_time=max(self.wall_time, stream_now))

    @_judged
    def commit(self, changes: Changes, *, log_offset: int) -> None:
        """Step 5: make a batch durable in ONE WriteBatch: rows, indexes, stream time, account, source and log offset.

        Args:
            changes: of the latest `prepare`; all its rows must have been delivered to `tokens` (step 4).
            log_offset: next offset of `tokens` to read on a restart: after the last row delivered.

        Raises:
            ValueError: something else was committed since the `prepare`.
        """
        if changes.version != self._version:
            raise ValueError("these changes were prepared before the buffer's last commit")
        db = self._db
        batch = db.batch()
        put, delete = batch.put, batch.delete
        rows, summaries, ids, expiry = db.h_rows, db.h_summaries, db.h_ids, db.h_expiry
        for deletes in (changes.deletes, changes.sweep_deletes):
            for key, _ in deletes:
                delete(key, rows)
        for puts in (changes.puts, changes.sweep_puts):
            for key, value in puts:
                put(key, value, rows)
        for written in (changes.summaries, changes.sweep_summaries):
            for key, value in written:
                if value is None:
                    delete(key, summaries)
                else:
                    put(key, value, summaries)
        for key, value in changes.ids:
            if value is None:
                delete(key, ids)
            else:
                put(key, value, ids)
        for key in changes.expiry_deletes:
            delete(key, expiry)
        for key in changes.expiry_puts:
            put(key, b"", expiry)
        for key in changes.stale:
            delete(layout.M_STALE + key, db.h_meta)
        put(layout.M_SOURCE_OFFSET, pack_int(changes.source_offset), db.h_meta)
        put(layout.M_LOG_OFFSET, pack_int(log_offset), db.h_meta)
        put(layout.M_STREAM_TIME, pack_int(changes.stream_time), db.h_meta)
        if changes.account is not None:
            put(layout.M_ACCOUNT, changes.account.packed, db.h_meta)
        if changes.wall_time > self.wall_time:
            put(layout.M_WALL_TIME, pack_int(changes.wall_time), db.h_meta)
        db.write(batch)
        self.wall_time = changes.wall_time
        self.account = changes.account or self.account
        self.source_offset, self.log_offset = changes.source_offset, log_offset
        self.stream_time = changes.stream_time
        self._due = changes.due
        self._stale.difference_update(changes.stale)
        self._version += 1

    # The log: restore and replica

    @_judged
    def apply_log(
        self,
        rows: Sequence[Row],
        *,
        next_offset: int,
        mark_dirty: bool = False,
        sweep: bool = False,
        owner: bytes | None = None,
        stale: Iterable[bytes] = (),
        marker: bytes | None = None,
    ) -> list[str]:
        """Apply consecutive records of `tokens` in ONE WriteBatch; applying some twice changes nothing.

        In a replica, rows take effect with their summary (store/buffer/held_rows.py).

        Args:
            rows: (key, value), None = deleted; without markers and rows of former owners.
            next_offset: offset after the last record read; becomes `log_offset`.
            mark_dirty: mark the users of summary rows as dirty.
            sweep: the marks are by expiry alone: low priority.
            owner: the owner in force at `next_offset`, if it changed.
            stale: keys of rows of former owners that were skipped; a primary logs its own state of them again.
            marker: the value of the last marker among the records, if there was one.

        Call `finish_restore` before the next `prepare`.

        Returns:
            Users marked dirty.

        Raises:
            StateError: a row of a format this version does not know, or a schema that is not ours. Nothing is applied.
        """
        first = self.log_offset
        found = Schema.unpack(marker)
        if found is not None:
            found.check(self._configured, "the `tokens` log")
        out = self._log.read(rows, self.stream_time, LogPosition(first, self.owner))
        users: dict[str, None] = {}
        if mark_dirty and out.summaries:
            users = dict.fromkeys(split_prefix(prefix)[0] for prefix in out.summaries)
            self._write_marks(out.batch, self._dirty.mark(users, first, next_offset - 1, sweep=sweep))
        elif self.ticks.kept:  # somebody else has published them
            self.ticks.set(out.batch, {split_prefix(prefix)[0]: 0 for prefix in out.summaries})
        stale = [] if self.replica else list(stale)
        for key in stale:
            out.batch.put(layout.M_STALE + key, b"", self._db.h_meta)
        if found is not None:
            found = found.with_others_of(self._schema)
            if found != self._schema:
                out.batch.put(layout.M_SCHEMA, found.pack(), self._db.h_meta)
                self._schema = found
        account = None if self.replica else layout.marked_account(marker)
        if account is not None:
            out.batch.put(layout.M_ACCOUNT, account.packed, self._db.h_meta)
        if (wall_time := layout.marked_time(marker)) > self.wall_time:
            out.batch.put(layout.M_WALL_TIME, pack_int(wall_time), self._db.h_meta)
            self.wall_time = wall_time
            out.stream_time = max(out.stream_time, wall_time)
        owner = self.owner if owner is None else owner
        self._log.write(out, LogPosition(next_offset, owner))
        self.log_offset, self.stream_time, self.owner = next_offset, out.stream_time, owner
        self.account = account or self.account
        self._stale.update(stale)
        self._due = {}
        self._version += 1
        return list(users)

    @contextmanager
    def bulk_load(self) -> Iterator[None]:
        """For `apply_log` of very many rows to a primary: several times as fast, and nothing else may be called.

        Opens the database anew. After a crash inside, more is read again than otherwise (store/buffer/log_apply.py).

        Raises:
            StateError: the database cannot be opened any more.
        """
        if self.replica:
            raise ValueError("a replica is read while it follows the log")
        self._log.start_bulk()
        try:
            yield
        finally:
            self._end_bulk()

    @_judged
    def _end_bulk(self) -> None:
        self._log.end_bulk()

    @_judged
    def finish_restore(self) -> int:
        """Recompute summaries of windows whose rows came without one: the log was cut inside a batch. They reach the
        log with the next sweep. Takes time for those only, so it may be called again and again.

        Returns:
            How many summaries were recomputed and differed.
        """
        if not self._log.unsummed:
            return 0
        count = finish(self._db, self._rules, self._log.unsummed)
        self._due = {}
        self._version += 1
        return count

    @_judged
    def note_stale(self, keys: Iterable[bytes]) -> None:
        """Remember rows that a former owner logged after ours: the next batch logs our state of them again."""
        keys = list(keys)
        batch = self._db.batch()
        for key in keys:
            batch.put(layout.M_STALE + key, b"", self._db.h_meta)
        self._db.write(batch)
        self._stale.update(keys)

    @property
    def schema(self) -> Schema:
        """As configured, with the modalities that only the log knows: for the log."""
        return self._configured.with_others_of(self._schema)

    def marker(
        self, account: Account | None = None, arrival: layout.Arrival | None = None, wall_time: int = 0
    ) -> bytes:
        """What the owner says in the log, with this account. Default: the account as it is.

        arrival, wall_time: as of `layout.marker`.
        """
        return layout.marker(self.schema, account or self.account, arrival, max(wall_time, self.wall_time))

    def _again(self) -> set[bytes]:
        """Keys of what has to be logged again: rows are used only together with a summary that comes after them."""
        return self._stale | {key[: prefix_length(key)] + b"\x00" for key in self._stale}

    @_judged
    def current(self, keys: Iterable[bytes]) -> list[Row]:
        """What the buffer holds under row keys, summaries last; None = nothing."""
        rows: list[bytes] = []
        summaries: list[bytes] = []
        for key in keys:
            (summaries if key[prefix_length(key)] == KIND_SUMMARY else rows).append(key)
        out: list[Row] = list(zip(rows, self._db.rows.get(rows), strict=True)) if rows else []
        if summaries:
            out += zip(summaries, self._db.summaries.get(summaries), strict=True)
        return out

    # Dirty users (replica)

    def dirty(self, limit: int | None = None) -> list[DirtyUser]:
        """Dirty users, longest waiting first; those swept only come last."""
        out: list[DirtyUser] = []
        for user in self._dirty:
            if limit is not None and len(out) >= limit:
                break
            out.append(user)
        return out

    @_judged
    def mark_dirty(self, users: Iterable[str], *, sweep: bool = False) -> None:
        """DirtyMark users as dirty without a log record (back-fill): no offset of the log is in their embeddings."""
        batch = self._db.batch()
        self._write_marks(batch, self._dirty.mark(users, 0, max(self.log_offset - 1, 0), sweep=sweep))
        self._db.write(batch)

    @_judged
    def clear_dirty(self, users: Iterable[str], *, upto: int, due: Mapping[str, int | None] | None = None) -> None:
        """Unmark users refreshed from windows read when `log_offset` was `upto`; those changed since stay dirty.

        due: when they are next, for the index of ticks. Default: it is not known.
        """
        users = list(users)
        batch = self._db.batch()
        self.ticks.set(batch, dict.fromkeys(users, 0) if due is None else due)
        self._write_marks(batch, self._dirty.clear(users, upto))
        self._db.write(batch)

    def is_dirty(self, user_id: str) -> bool:
        """Whether a user waits for a refresh."""
        return user_id in self._dirty

    @property
    def dirty_count(self) -> int:
        """How many users are dirty."""
        return len(self._dirty)

    def oldest_dirty_offset(self, *, without: Collection[str] = (), upto: int = 0) -> int | None:
        """Lowest `tokens` offset that is not yet in an embedding; None when nobody is dirty.

        without, upto: as if `clear_dirty` had been called with these.
        """
        return self._dirty.oldest_without(without, upto) if without else self._dirty.oldest()

    # Back-fills (replica)

    @_judged
    def back_fills(self) -> dict[str, BackFillCursor]:
        """Cursors of the back-fills under way, by scenario."""
        start = len(layout.M_BACK_FILL)
        return {
            key[start:].decode(): BackFillCursor.unpack(value)
            for key, value in self._db.items(self._db.meta, layout.M_BACK_FILL)
        }

    @_judged
    def save_back_fills(self, cursors: Mapping[str, BackFillCursor | None]) -> None:
        """Keep cursors, or drop them (None), by scenario; durable on return, all or none."""
        batch = self._db.batch()
        for scenario, cursor in cursors.items():
            key = layout.M_BACK_FILL + scenario.encode()
            if cursor is None:
                batch.delete(key, self._db.h_meta)
            else:
                batch.put(key, cursor.pack(), self._db.h_meta)
        self._db.write(batch)

    # Reading

    @_judged
    def window(self, user_id: str) -> UserWindow:
        """All windows of a user; without modalities if the user is unknown."""
        db, rules = self._db, self._rules
        summaries = db.items(db.summaries, user_prefix(user_id))
        return read_user(user_id, summaries, partial(db.range, db.rows), rules.modalities, rules.dim)

    def users(self, *, after: str = "") -> Iterator[str]:
        """Every user with a summary, in key order. The buffer may change meanwhile.

        Args:
            after: only those behind this user; "" = all.
        """
        start, last = prefix_end(user_prefix(after)) if after else b"", ""
        while True:
            page = self._db.keys(self._db.summaries, start, _PAGE)
            for key in page:
                user = split_prefix(key[:-1])[0]
                if user != last:
                    last = user
                    yield user
            if len(page) < _PAGE:
                return
            start = page[-1] + b"\x00"

    def count_users(self, *, exact_keys: int = 100_000) -> int:
        """How many users have a summary; beyond so many summaries estimated from these and the database's own count."""
        users, keys, last = 0, 0, b""
        key: bytes
        for key in self._db.summaries.keys():  # noqa: SIM118 (not a dict)
            prefix = key[: 2 + (key[0] << 8 | key[1])]
            users += prefix != last
            last, keys = prefix, keys + 1
            if keys == exact_keys:
                there: int = self._db.summaries.property_int_value("rocksdb.estimate-num-keys") or 0
                return max(users, users * there // keys)
        return users

    @_judged
    def summary(self, user_id: str, modality: str) -> Summary | None:
        """One summary row."""
        packed = self._db.summaries.get(summary_key(user_id, modality))
        return None if packed is None else unpack_summary(packed)

    @_judged
    def newest_event(self, user_id: str) -> int | None:
        """As of the user's window; None if the user is unknown. Reads summaries only."""
        found = [
            unpack_summary(value)
            for key, value in self._db.items(self._db.summaries, user_prefix(user_id))
            if split_prefix(key[:-1])[1] in self._rules.modalities
        ]
        return newest_event(found) if found else None

    def inspect(self, user_id: str) -> dict[str, Any]:
        """What the buffer holds of a user, for people: JSON-able, without vectors."""
        window = self.window(user_id)
        mark = next((user.mark for user in self._dirty if user.user_id == user_id), None)
        return {
            "user_id": user_id,
            "newest_event": window.newest_event,
            "covers": window.covers,
            "ingested_at": window.ingested_at,
            "stream_time": self.stream_time,
            "source_offset": self.source_offset,
            "log_offset": self.log_offset,
            "dirty": None if mark is None else mark._asdict(),
            "modalities": {
                name: {
                    "rows": m.summary.rows,
                    "oldest": m.summary.oldest,
                    "newest": m.summary.newest,
                    "expires_below": self._rules.floor(name, self.stream_time),
                    "covers": m.summary.covers,
                    "events": [
                        {"ts": ts, "name": event, "numbers": [None if x != x else x for x in numbers]}
                        for ts, event, numbers in zip(m.ts.tolist(), m.names, m.numbers.tolist(), strict=True)
                    ],
                }
                for name, m in window.modalities.items()
            },
        }

    def rows(self) -> Iterator[tuple[bytes, bytes]]:
        """Every row, summaries after the rest. For tests, checks and copies; exhaust it or drop it."""
        yield from self._db.items(self._db.rows, b"")
        yield from self._db.items(self._db.summaries, b"")

    # Files

    def checkpoint(self, path: Path) -> None:
        """A consistent copy by hard links, to be opened like any buffer; `path` must not exist."""
        self._db.checkpoint(path)

    def compact(self) -> None:
        """Rewrite everything once, so that deleted rows give their space back."""
        self._db.compact()

    def disk_bytes(self) -> int:
        """Bytes of table files."""
        return self._db.disk_bytes()

    def close(self) -> None:
        """Let the database go. Closing twice is fine."""
        self._db.close()
        log.info(logs.BUFFER_CLOSED, path=str(self._db.path), log_offset=self.log_offset)

    def _write_marks(self, batch: Any, marks: Iterable[tuple[str, DirtyMark | None]]) -> None:
        for user, mark in marks:
            if mark is None:
                batch.delete(user.encode(), self._db.h_dirty)
            else:
                batch.put(user.encode(), pack_dirty_mark(mark), self._db.h_dirty)


class _BatchReader(Cursor):
    """The database as a batch sees it."""

    def __init__(self, database: BufferDatabase, rules: WindowRules) -> None:
        super().__init__(database)
        self._rules = rules

    def totals_by_scan(self, prefix: bytes, modality: ModalitySettings, packed: bytes) -> Totals:
        """Totals of a window whose summary row was written under another configuration."""
        rows = [(key[len(prefix) :], value) for key, value in self._db.items(self._db.rows, prefix)]
        return summary_by_scan(rows, unpack_summary(packed), modality, self._rules.dim)
