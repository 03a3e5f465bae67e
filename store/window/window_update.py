"""One (user, modality) while a batch is applied: which rows come, which go, and its summary. Reads, never writes.

Events are judged one by one, as if each were its own batch. What a batch leaves is therefore independent of where
batches begin and end, which is what makes applying a batch again after a crash safe.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from heapq import heappop, heappush
from typing import Protocol

from store.account.account import Tally
from store.account.outcome import Outcome
from store.base.errors import StateError
from store.window.encoded_event import EncodedEvent, EncodedField
from store.window.layout import pack_id
from store.window.rows import EVENT_HEADS, FieldRow, pack_field, unpack_field
from store.window.summary import Arrivals, Totals

_NEVER = -1 << 62
READ_AHEAD = 256
"""Most rows read at once while old ones are taken out."""

Scan = Callable[[bytes, bytes, int], list[tuple[bytes, bytes]]]
"""scan(prefix, from, n): up to n rows under `prefix`, from prefix + from on; keys come without the prefix."""

Row = tuple[bytes, bytes | None]


class WindowUpdate(Protocol):
    """What the buffer needs of both kinds of window."""

    totals: Totals
    covered: bool
    """Whether an event of this batch was seen."""
    floor: int
    """Older events have expired."""
    conflicting: list[EncodedEvent]
    """Events whose id the window holds with another content or time."""

    def known(self, event: EncodedEvent) -> bool:
        """Whether the event needs no judging, and so does not move the stream time."""
        ...

    def judge(self, events: Sequence[EncodedEvent], floor: int, tally: Tally) -> int:
        """Judge events in order, all under one floor, and cover them. Counts their outcomes in `tally`.

        Returns:
            The newest time of those that were not `known`; -1 if all were.
        """
        ...

    def expire(self, floor: int) -> None:
        """Take out what is older than `floor` or erased, and what exceeds the window's count. Remembers the floor."""
        ...

    def erase(self, erasure: EncodedEvent, floor: int) -> None:
        """Take out what is not newer, for good. It moves no time, and leaves no trace of its order among the events."""
        ...

    @property
    def occupied(self) -> bool:
        """Whether any row is left."""
        ...

    def finish(self) -> Arrivals:
        """Bring `totals` up to date but for what is returned, which `add_up` adds. Called once, at the end."""
        ...

    def rows(self, vectors: Mapping[int, bytes]) -> tuple[list[bytes], list[tuple[bytes, bytes]]]:
        """(keys to delete, rows to put). A row that came and went within the batch is among the deletes: an earlier
        attempt at this batch may have sent it.

        vectors: those of the batch's arrivals, packed, by their `id`.
        """
        ...

    def ids(self) -> list[Row]:
        """Changes of the id index."""
        ...


class EventWindow:
    """A rolling window of events: the newest `max_events` by (ts, event id). Keeps track of the oldest only."""

    __slots__ = (
        "_added", "_ahead", "_changed_ids", "_chunk", "_departed", "_heap", "_ids", "_key_prefix", "_max", "_next",
        "_oldest", "_prefix", "_removed", "_scan", "_stored", "conflicting", "covered", "floor", "totals",
    )  # fmt: skip

    def __init__(
        self,
        prefix: bytes,
        max_events: int,
        totals: Totals,
        scan: Scan,
        ids: dict[bytes, bytes | None],
        expected: int,
    ) -> None:
        """ids: entries of the id index by event id. expected: about how many rows will come, and so go: read ahead."""
        self.totals = totals
        self.covered = False
        self.floor = _NEVER
        self.conflicting: list[EncodedEvent] = []
        self._prefix = prefix
        self._key_prefix = prefix + b"\x01"
        self._max = max_events
        self._scan = scan
        self._stored = totals.rows  # rows on disk not yet taken out
        self._oldest: int | None = totals.oldest if totals.rows else None
        self._ahead: deque[tuple[bytes, bytes]] = deque()  # rows on disk, oldest first
        self._next = totals.oldest.to_bytes(8, "big")  # where reading goes on: skips the tombstones before it
        self._chunk = expected + 1
        self._added: dict[bytes, tuple[EncodedEvent, bytes]] = {}  # with its entry of the id index
        self._heap: list[bytes] = []
        self._removed: list[bytes] = []
        self._departed: list[bytes] = []
        self._ids = ids
        self._changed_ids: dict[bytes, bytes | None] = {}

    @property
    def occupied(self) -> bool:
        return self.totals.rows > 0

    def known(self, event: EncodedEvent) -> bool:
        """Whether the window holds its id: it is a duplicate, or conflicting."""
        return self._ids.get(event.event_id.encode()) is not None

    def judge(self, events: Sequence[EncodedEvent], floor: int, tally: Tally) -> int:
        if self.floor != floor:
            self.expire(floor)
        floor = _bound(floor, self.totals)
        totals, ids, changed, added, heap = self.totals, self._ids, self._changed_ids, self._added, self._heap
        covers, ingested_at, rows, most = totals.covers, totals.ingested_at, totals.rows, self._max
        newest, applied = -1, 0
        again, applied_of = tally.again, tally.counted[Outcome.APPLIED]
        for event in events:
            ts, source, offset = event.ts, event.source, event.source_offset
            if offset > covers.get(source, -1):
                covers[source] = offset
            if event.ingested_at > ingested_at:
                ingested_at = event.ingested_at
            name, entry = event.event_id.encode(), pack_id(ts, event.digest)
            if (seen := ids.get(name)) is not None:
                outcome = Outcome.DUPLICATE if seen == entry else Outcome.CONFLICTING
                if outcome is Outcome.CONFLICTING:
                    self.conflicting.append(event)
                tally.add(event, outcome)
                continue
            if ts > newest:
                newest = ts
            if ts < floor:
                tally.add(event, Outcome.EXPIRED)
                continue
            rest = entry[:8] + name
            if rows >= most:
                head = self._head()
                if rest < head:
                    tally.add(event, Outcome.EVICTED)
                    continue
                self._pop(head)
                rows -= 1
            added[rest] = event, entry
            heappush(heap, rest)
            rows += 1
            ids[name] = changed[name] = entry
            if rows == 1 or (self._oldest is not None and ts < self._oldest):
                self._oldest = ts
            applied += 1
            if not again or id(event) not in again:
                applied_of[source] += 1
        totals.rows = rows
        if newest > totals.newest:
            totals.newest = newest
        totals.ingested_at = ingested_at
        self.covered = True
        if applied:
            tally.outcomes[Outcome.APPLIED] = tally.outcomes.get(Outcome.APPLIED, 0) + applied
        return newest

    def erase(self, erasure: EncodedEvent, floor: int) -> None:
        _mark_erased(self.totals, erasure)
        self.expire(floor)
        self.covered = True

    def expire(self, floor: int) -> None:
        self.floor = floor
        totals = self.totals
        floor = _bound(floor, totals)
        while totals.rows > self._max:
            self._pop(self._head())
        while totals.rows and (self._oldest is None or self._oldest < floor):
            head = self._head()
            self._oldest = int.from_bytes(head[:8], "big")
            if self._oldest < floor:
                self._pop(head)

    def finish(self) -> Arrivals:
        totals = self.totals
        if not totals.rows:
            totals.oldest = 0
        else:
            totals.oldest = int.from_bytes(self._head()[:8], "big") if self._oldest is None else self._oldest
        return Arrivals(totals, [event for event, _ in self._added.values()], self._departed)

    def rows(self, vectors: Mapping[int, bytes]) -> tuple[list[bytes], list[tuple[bytes, bytes]]]:
        prefix, added = self._key_prefix, self._added
        puts = []
        for rest, (event, entry) in added.items():
            numbers = event.numbers.tobytes()
            value = b"".join((EVENT_HEADS[len(numbers) >> 2], entry[8:], numbers, vectors[id(event.vector)]))
            puts.append((prefix + rest, value))
        return [prefix + rest for rest in self._removed if rest not in added], puts

    def ids(self) -> list[Row]:
        prefix = self._prefix
        return [(prefix + name, entry) for name, entry in self._changed_ids.items()]

    def _head(self) -> bytes:
        """(ts, event id) of the oldest row."""
        ahead = self._ahead
        if self._stored and not ahead:
            ahead.extend(self._scan(self._key_prefix, self._next, min(self._chunk, self._stored)))
            if not ahead:
                raise StateError(
                    f"the token buffer counts {self._stored} rows that it does not hold",
                    action="nothing: at the next start it is set aside and restored from `tokens`; look after the disk",
                    code="state_damaged",
                )
            self._chunk = min(self._chunk * 4, READ_AHEAD)
            self._next = ahead[-1][0] + b"\x00"
        if not self._heap:
            return ahead[0][0]
        return min(ahead[0][0], self._heap[0]) if ahead else self._heap[0]

    def _pop(self, head: bytes) -> None:
        """Take the oldest row out."""
        if self._heap and self._heap[0] == head:
            heappop(self._heap)
            del self._added[head]
        else:
            self._departed.append(self._ahead.popleft()[1])
            self._stored -= 1
        self.totals.rows -= 1
        self._removed.append(head)
        name = head[8:]
        self._ids[name] = self._changed_ids[name] = None
        self._oldest = None


class TabularWindow:
    """The newest value per field by (ts, event id), at most `max_events` fields. Small: read whole, summed anew.

    A field set to null keeps a row without a vector, so that an older value cannot come back.
    """

    def __init__(self, prefix: bytes, max_events: int, totals: Totals, scan: Scan) -> None:
        self.totals = totals
        self.covered = False
        self.floor = _NEVER
        self.conflicting: list[EncodedEvent] = []
        self._key_prefix = prefix + b"\x02"
        self._max = max_events
        stored = _scan_all(scan, self._key_prefix)
        self._fields = {key.decode(): unpack_field(value) for key, value in stored}
        self._touched: dict[str, None] = {}

    @property
    def occupied(self) -> bool:
        return bool(self._fields)

    def known(self, event: EncodedEvent) -> bool:
        return self._known(event) is not None

    def judge(self, events: Sequence[EncodedEvent], floor: int, tally: Tally) -> int:
        newest = -1
        for event in events:
            if self.floor != floor:
                self.expire(floor)
            outcome = self._known(event)
            if outcome is None:
                newest = max(newest, event.ts)
                outcome = self._add(event)
            elif outcome is Outcome.CONFLICTING:
                self.conflicting.append(event)
            elif outcome is Outcome.EVICTED:
                self.totals.newest = max(self.totals.newest, event.ts)
            self.totals.cover(event.source, event.source_offset, event.ingested_at)
            tally.add(event, outcome)
        self.covered = True
        return newest

    def _known(self, event: EncodedEvent) -> Outcome | None:
        """A duplicate if no field would change and at least one holds this very event.

        An event without fields changes nothing. It does not move the stream time, which a restore finds in the rows.
        """
        if not event.fields:
            return Outcome.EVICTED
        found, changes = False, False
        for field in event.fields:
            row = self._fields.get(field.name)
            if row is not None and row.event_id == event.event_id:
                if (row.ts, row.digest) != (event.ts, field.digest):
                    return Outcome.CONFLICTING
                found = True
            else:
                changes = changes or row is None or (event.ts, event.event_id) > (row.ts, row.event_id)
        return Outcome.DUPLICATE if found and not changes else None

    def _add(self, event: EncodedEvent) -> Outcome:
        """Judge an event that is not known."""
        if event.ts > self.totals.newest:
            self.totals.newest = event.ts
        if event.ts < _bound(self.floor, self.totals):
            return Outcome.EXPIRED
        mine = [field for field in event.fields or () if self._put(event, field)]
        self._trim()
        return Outcome.APPLIED if any(field.name in self._fields for field in mine) else Outcome.EVICTED

    def erase(self, erasure: EncodedEvent, floor: int) -> None:
        _mark_erased(self.totals, erasure)
        self.expire(floor)
        self.covered = True

    def expire(self, floor: int) -> None:
        self.floor = floor
        floor = _bound(floor, self.totals)
        for name in [name for name, row in self._fields.items() if row.ts < floor]:
            self._drop(name)
        self._trim()

    def finish(self) -> Arrivals:
        totals = self.totals
        totals.reset_rows()
        arrived = [row for row in self._fields.values() if row.vector.size]
        totals.rows = len(arrived)
        totals.oldest = min((row.ts for row in self._fields.values()), default=0)
        return Arrivals(totals, arrived, ())

    def rows(self, vectors: Mapping[int, bytes]) -> tuple[list[bytes], list[tuple[bytes, bytes]]]:
        prefix, fields = self._key_prefix, self._fields
        deletes = [prefix + name.encode() for name in self._touched if name not in fields]
        return deletes, [(prefix + name.encode(), pack_field(fields[name])) for name in self._touched if name in fields]

    def ids(self) -> list[Row]:
        return []

    def _put(self, event: EncodedEvent, field: EncodedField) -> bool:
        row = self._fields.get(field.name)
        if row is not None and (event.ts, event.event_id) <= (row.ts, row.event_id):
            return False
        self._fields[field.name] = FieldRow(field.digest, event.ts, event.event_id, field.numbers, field.vector)
        self._touched[field.name] = None
        return True

    def _drop(self, name: str) -> None:
        del self._fields[name]
        self._touched[name] = None

    def _trim(self) -> None:
        if (excess := len(self._fields) - self._max) > 0:
            oldest = sorted(self._fields, key=lambda name: (self._fields[name].ts, self._fields[name].event_id, name))
            for name in oldest[:excess]:
                self._drop(name)


def _bound(floor: int, totals: Totals) -> int:
    """Older events have expired or are erased."""
    return max(floor, totals.erased + 1) if totals.erased else floor


def _mark_erased(totals: Totals, erasure: EncodedEvent) -> None:
    totals.erased = max(totals.erased, erasure.ts)
    totals.cover(erasure.source, erasure.source_offset, erasure.ingested_at)


def _scan_all(scan: Scan, prefix: bytes) -> list[tuple[bytes, bytes]]:
    rows: list[tuple[bytes, bytes]] = []
    start = b""
    while chunk := scan(prefix, start, READ_AHEAD):
        rows += chunk
        start = chunk[-1][0] + b"\x00"
        if len(chunk) < READ_AHEAD:
            break
    return rows
