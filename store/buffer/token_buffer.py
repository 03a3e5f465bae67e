"""The token buffer of one partition: rolling windows of encoded events, kept in RocksDB, logged to `tokens`.

What it holds is a function of the events applied, whatever their order: per (user, modality) those not older than the
window, counted back from the partition's stream time (newest event time, floored to a granularity), and of these the
newest `max_events` by (ts, event id), and of the others, as far as they are remembered, light rows; of a tabular
modality, per field the newest. Each (user, modality) also has a summary. Events that change nothing (duplicate,
expired, evicted, conflicting) still advance its `covers`, so that whoever waits for an event to be covered is answered.

The commit protocol (docs/commit-protocol.md; the steps have the same numbers there, here and in the processor):
    1. read a batch of `events` at offset N; 2. encode its texts; 3. `prepare`: what will change, nothing written;
    4. send the rows to `tokens`, await every delivery; 5. `commit`: one WriteBatch with rows, indexes, stream time,
    source offset and log offset; 6. acknowledge: Kafka's committed offset follows.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Self

from store.account.account import Account, RefusedEvent
from store.account.outcome import Outcome, Outcomes
from store.base import logs
from store.base.settings import ModalitySettings
from store.buffer.back_fill_cursor import BackFillCursor, read_cursors, write_cursors
from store.buffer.batch_reader import BatchReader
from store.buffer.database import BufferDatabase, judged
from store.buffer.dirty_marks import DirtyUser
from store.buffer.dirty_users import DirtyUsers
from store.buffer.expiry_index import index_anew
from store.buffer.held_rows import LogPosition
from store.buffer.log_apply import LogApplier
from store.buffer.resources import BufferResources
from store.buffer.restore_finish import finish
from store.buffer.stale_rows import StaleRows, current
from store.buffer.tick_index import TickIndex
from store.buffer.users import count_users, walk_users
from store.buffer.write_changes import write_changes
from store.window import layout
from store.window.accepted import Accepted, merge, pack_accepted, settle, unpack_accepted, without_memory
from store.window.changes import Changes
from store.window.encoded_event import EncodedEvent, EncodedField
from store.window.event_batch import EventBatch
from store.window.layout import Schema, pack_int, split_prefix
from store.window.rows import Summary, read_summary, summary_key, unpack_summary, user_prefix
from store.window.user_window import UserWindow, newest_event, read_user
from store.window.window_rules import WindowRules
from store.window.window_update import Row

__all__ = [
    "Changes", "DirtyUser", "EncodedEvent", "EncodedField", "Outcome", "Outcomes", "Row", "TokenBuffer",
]  # fmt: skip

log = logs.get(__name__)


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
        self.rules = rules
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
        self.ticks = TickIndex(database)
        """Of a replica."""
        self.dirty = DirtyUsers(database, self.ticks)
        """Who waits for a refresh; of a replica."""
        self._accepted: dict[str, Accepted] = {}  # as written; empty = nothing is yet
        if written := database.meta.get(layout.M_ACCEPTED):
            self._accepted = unpack_accepted(written)
        elif self.stream_time:
            self._accepted = without_memory(rules)
        self._stale = StaleRows(database)
        self._due: dict[str, int] = {}
        self._version = 0
        self._log = LogApplier(database, rules, replica=replica)

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
            rules = WindowRules(modalities, dim, expiry_granularity_ms)
            if not replica:
                index_anew(database, rules)
            self = cls(database, rules, Schema.of(encoder_id, dim, modalities), replica=replica)
        except BaseException as exc:
            found = database.judge(exc)
            database.close()
            if found is exc:
                raise
            raise found from exc
        log.info(logs.BUFFER_OPENED, path=str(path), source_offset=self.source_offset, log_offset=self.log_offset)
        return self

    @judged
    def follow_log(self, topic_id: str) -> None:
        """`log_offset` counts for this topic."""
        self._db.put_meta({layout.M_LOG_TOPIC: topic_id.encode()})
        self.log_topic = topic_id

    @judged
    def begin_source(self, topic_id: str, source_offset: int) -> None:
        """From now on `source_offset` counts for this topic, and is this."""
        position = pack_int(source_offset) if source_offset >= 0 else None
        self._db.put_meta({layout.M_SOURCE_TOPIC: topic_id.encode(), layout.M_SOURCE_OFFSET: position})
        self.source_topic, self.source_offset = topic_id, source_offset

    # Steps 3 and 5 of the commit protocol

    @judged
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
        accepted = settle(self._accepted, self.rules, self.stream_time)
        batch = EventBatch(
            BatchReader(self._db, self.rules),
            self.rules,
            max(self.stream_time, stream_now),
            self._due,
            self.account,
            {name: since for name, (_, since) in accepted.items()},
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
        changes = batch.changes(source_offset, self._version, self._stale.again())
        return changes._replace(
            wall_time=max(self.wall_time, stream_now),
            accepted=None if accepted == self._accepted else accepted,
        )

    @judged
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
        write_changes(self._db, changes, log_offset)
        if changes.accepted is not None:
            self._accept(changes.accepted)
        self.wall_time = changes.wall_time
        self.account = changes.account or self.account
        self.source_offset, self.log_offset = changes.source_offset, log_offset
        self.stream_time = changes.stream_time
        self._due = changes.due
        self._stale.logged(changes.stale)
        self._version += 1

    # The log: restore and replica

    @judged
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
            self.dirty.mark(out.batch, users, first, next_offset - 1, sweep=sweep)
        elif self.ticks.kept:  # somebody else has published them
            self.ticks.set(out.batch, {split_prefix(prefix)[0]: 0 for prefix in out.summaries})
        if not self.replica:
            self._stale.note(out.batch, stale)
        if found is not None:
            found = found.with_others_of(self._schema)
            if found != self._schema:
                out.batch.put(layout.M_SCHEMA, found.pack(), self._db.h_meta)
                self._schema = found
        account = None if self.replica else layout.marked_account(marker)
        if account is not None:
            out.batch.put(layout.M_ACCOUNT, account.packed, self._db.h_meta)
        accepted = self._accepted if self.replica else self._told(marker)
        if accepted != self._accepted:
            out.batch.put(layout.M_ACCEPTED, pack_accepted(accepted), self._db.h_meta)
            self._accepted = accepted
        if (wall_time := layout.marked_time(marker)) > self.wall_time:
            out.batch.put(layout.M_WALL_TIME, pack_int(wall_time), self._db.h_meta)
            self.wall_time = wall_time
            out.stream_time = max(out.stream_time, wall_time)
        owner = self.owner if owner is None else owner
        self._log.write(out, LogPosition(next_offset, owner))
        self.log_offset, self.stream_time, self.owner = next_offset, out.stream_time, owner
        self.account = account or self.account
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

    @judged
    def _end_bulk(self) -> None:
        self._log.end_bulk()

    @judged
    def finish_restore(self) -> int:
        """Recompute summaries of windows whose rows came without one: the log was cut inside a batch. They reach the
        log with the next sweep. Takes time for those only, so it may be called again and again.

        Returns:
            How many summaries were recomputed and differed.
        """
        if not self._log.unsummed:
            return 0
        count = finish(self._db, self.rules, self._log.unsummed)
        self._due = {}
        self._version += 1
        return count

    @judged
    def note_stale(self, keys: Iterable[bytes]) -> None:
        """Remember rows that a former owner logged after ours: the next batch logs our state of them again."""
        batch = self._db.batch()
        self._stale.note(batch, keys)
        self._db.write(batch)

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
        return layout.marker(
            self.schema,
            account or self.account,
            arrival,
            max(wall_time, self.wall_time),
            pack_accepted(settle(self._accepted, self.rules, self.stream_time)),
        )

    def _told(self, marker: bytes | None) -> dict[str, Accepted]:
        """From when on events are accepted, after a marker of the log."""
        if marker is None:
            return self._accepted or settle({}, self.rules, 0)
        told = layout.marked_accepted(marker)
        return merge(self._accepted, without_memory(self.rules) if told is None else unpack_accepted(told))

    def _accept(self, accepted: Mapping[str, Accepted]) -> None:
        for name, (_, since) in accepted.items():
            if since > (self._accepted[name].since if name in self._accepted else 0):
                log.warning(
                    logs.BUFFER_ACCEPTS_SINCE,
                    path=str(self._db.path),
                    modality=name,
                    since=since,
                    reason="it keeps events longer than before, and who was erased before that may be forgotten",
                )
        self._accepted = dict(accepted)

    @judged
    def current(self, keys: Iterable[bytes]) -> list[Row]:
        """What the buffer holds under row keys, summaries last; None = nothing."""
        return current(self._db, keys)

    # Back-fills (replica)

    @judged
    def back_fills(self) -> dict[str, BackFillCursor]:
        """Cursors of the back-fills under way, by scenario."""
        return read_cursors(self._db)

    @judged
    def save_back_fills(self, cursors: Mapping[str, BackFillCursor | None]) -> None:
        """Keep cursors, or drop them (None), by scenario; durable on return, all or none."""
        write_cursors(self._db, cursors)

    # Reading

    @judged
    def window(self, user_id: str) -> UserWindow:
        """All windows of a user; without modalities if the user is unknown."""
        db, rules = self._db, self.rules
        summaries = db.items(db.summaries, user_prefix(user_id))
        return read_user(user_id, summaries, partial(db.range, db.rows), rules.modalities, rules.dim)

    def users(self, *, after: str = "") -> Iterator[str]:
        """Every user with a summary behind `after` ("" = all), in key order. The buffer may change meanwhile."""
        return walk_users(self._db, after)

    def count_users(self, *, exact_keys: int = 100_000) -> int:
        """How many users have a summary, beyond so many summaries about."""
        return count_users(self._db, exact_keys)

    @judged
    def summary(self, user_id: str, modality: str) -> Summary | None:
        """One summary row."""
        packed = self._db.summaries.get(summary_key(user_id, modality))
        return None if packed is None else unpack_summary(packed)

    @judged
    def newest_event(self, user_id: str) -> int | None:
        """As of the user's window; None if the user is unknown. Reads summaries only."""
        found = [
            read_summary(value)
            for key, value in self._db.items(self._db.summaries, user_prefix(user_id))
            if split_prefix(key[:-1])[1] in self.rules.modalities
        ]
        return newest_event(found) if found else None

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
