"""One (user, modality) while a batch is applied: which rows come, which go, and its summary. Reads, never writes.

Events are judged one by one, as if each were its own batch. What a batch leaves is therefore independent of where
batches begin and end, which is what makes applying a batch again after a crash safe.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from enum import StrEnum
from heapq import heappop, heappush
from typing import Protocol

from store.buffer_layout import pack_id
from store.encoded_event import EncodedEvent, EncodedField
from store.rows import EventRow, FieldRow, pack_event, pack_field, unpack_event, unpack_field
from store.summary import Totals

READ_AHEAD = 256
"""Most rows read at once while old ones are taken out."""

Scan = Callable[[bytes, bytes, int], list[tuple[bytes, bytes]]]
"""scan(prefix, from, n): up to n rows under `prefix`, from prefix + from on; keys come without the prefix."""

Row = tuple[bytes, bytes | None]


class Outcome(StrEnum):
    """What became of an event."""

    APPLIED = "applied"
    DUPLICATE = "duplicate"
    CONFLICTING = "conflicting"
    """The window holds another event with this id; the first is kept."""
    EXPIRED = "expired"
    """Older than the window."""
    EVICTED = "evicted"
    """Older than everything in a full window."""


class WindowUpdate(Protocol):
    """What the buffer needs of both kinds of window."""

    totals: Totals
    covered: bool
    """Whether an event of this batch was seen."""

    def known(self, event: EncodedEvent) -> Outcome | None:
        """DUPLICATE or CONFLICTING if the window holds the event's id, else None."""
        ...

    def add(self, event: EncodedEvent, floor: int) -> Outcome:
        """Judge an event that is not known. `floor`: older ones have expired."""
        ...

    def expire(self, floor: int) -> None:
        """Take out what is older than `floor`, and what exceeds the window's count."""
        ...

    @property
    def occupied(self) -> bool:
        """Whether any row is left."""
        ...

    def finish(self) -> None:
        """Bring `totals` up to date; called once, after the last change."""
        ...

    def rows(self) -> tuple[list[bytes], list[tuple[bytes, bytes]]]:
        """(keys to delete, rows to put). A row that came and went within the batch is among the deletes:
        an earlier attempt at this batch may have sent it."""
        ...

    def ids(self) -> list[Row]:
        """Changes of the id index."""
        ...


class EventWindow:
    """A rolling window of events: the newest `max_events` by (ts, event id). Keeps track of the oldest only."""

    def __init__(
        self, prefix: bytes, max_events: int, totals: Totals, ids: dict[str, tuple[int, int] | None], scan: Scan
    ) -> None:
        self.totals = totals
        self.covered = False
        self._prefix = prefix
        self._key_prefix = prefix + b"\x01"
        self._max = max_events
        self._scan = scan
        self._stored = totals.rows  # rows on disk not yet taken out
        self._oldest: int | None = totals.oldest if totals.rows else None
        self._ahead: deque[tuple[bytes, bytes]] = deque()  # rows on disk, oldest first
        self._next = totals.oldest.to_bytes(8, "big")  # where reading goes on: skips the tombstones before it
        self._chunk = 2
        self._added: dict[bytes, EncodedEvent] = {}
        self._heap: list[bytes] = []
        self._removed: list[bytes] = []
        self._ids = ids
        self._changed_ids: dict[str, bytes | None] = {}

    @property
    def occupied(self) -> bool:
        return self.totals.rows > 0

    def known(self, event: EncodedEvent) -> Outcome | None:
        seen = self._ids.get(event.event_id)
        if seen is None:
            return None
        return Outcome.DUPLICATE if seen == (event.ts, event.digest) else Outcome.CONFLICTING

    def add(self, event: EncodedEvent, floor: int) -> Outcome:
        self.expire(floor)
        totals, ts = self.totals, event.ts
        if ts > totals.newest:
            totals.newest = ts
        if ts < floor:
            return Outcome.EXPIRED
        rest = ts.to_bytes(8, "big") + event.event_id.encode()
        if totals.rows >= self._max:
            if rest < self._head():
                return Outcome.EVICTED
            self._pop()
        self._added[rest] = event
        heappush(self._heap, rest)
        totals.add(event.vector, event.numbers)
        self._ids[event.event_id] = (ts, event.digest)
        self._changed_ids[event.event_id] = pack_id(ts, event.digest)
        if totals.rows == 1 or (self._oldest is not None and ts < self._oldest):
            self._oldest = ts
        return Outcome.APPLIED

    def expire(self, floor: int) -> None:
        totals = self.totals
        while totals.rows > self._max:
            self._pop()
        while totals.rows and (self._oldest is None or self._oldest < floor):
            self._oldest = int.from_bytes(self._head()[:8], "big")
            if self._oldest < floor:
                self._pop()

    def finish(self) -> None:
        totals = self.totals
        if not totals.rows:
            totals.oldest = 0
        else:
            totals.oldest = int.from_bytes(self._head()[:8], "big") if self._oldest is None else self._oldest

    def rows(self) -> tuple[list[bytes], list[tuple[bytes, bytes]]]:
        prefix = self._key_prefix
        puts = [(prefix + rest, pack_event(EventRow(e.digest, e.numbers, e.vector))) for rest, e in self._added.items()]
        return [prefix + rest for rest in self._removed if rest not in self._added], puts

    def ids(self) -> list[Row]:
        return [(self._prefix + name.encode(), value) for name, value in self._changed_ids.items()]

    def _head(self) -> bytes:
        """(ts, event id) of the oldest row."""
        if self._stored and not self._ahead:
            self._ahead.extend(self._scan(self._key_prefix, self._next, min(self._chunk, self._stored)))
            self._chunk = min(self._chunk * 4, READ_AHEAD)
            self._next = self._ahead[-1][0] + b"\x00"
        if not self._heap:
            return self._ahead[0][0]
        return min(self._ahead[0][0], self._heap[0]) if self._ahead else self._heap[0]

    def _pop(self) -> None:
        """Take the oldest row out."""
        rest = self._head()
        if self._heap and self._heap[0] == rest:
            heappop(self._heap)
            event = self._added.pop(rest)
            self.totals.remove(event.vector, event.numbers)
        else:
            row = unpack_event(self._ahead.popleft()[1])
            self._stored -= 1
            self.totals.remove(row.vector, row.numbers)
        self._removed.append(rest)
        event_id = rest[8:].decode()
        self._ids[event_id] = None
        self._changed_ids[event_id] = None
        self._oldest = None


class TabularWindow:
    """The newest value per field by (ts, event id), at most `max_events` fields. Small: read whole, summed anew.

    A field set to null keeps a row without a vector, so that an older value cannot come back.
    """

    def __init__(self, prefix: bytes, max_events: int, totals: Totals, scan: Scan) -> None:
        self.totals = totals
        self.covered = False
        self._key_prefix = prefix + b"\x02"
        self._max = max_events
        stored = _scan_all(scan, self._key_prefix)
        self._fields = {key.decode(): unpack_field(value) for key, value in stored}
        self._touched: dict[str, None] = {}

    @property
    def occupied(self) -> bool:
        return bool(self._fields)

    def known(self, event: EncodedEvent) -> Outcome | None:
        """A duplicate if no field would change and at least one holds this very event."""
        found, changes = False, False
        for field in event.fields or ():
            row = self._fields.get(field.name)
            if row is not None and row.event_id == event.event_id:
                if (row.ts, row.digest) != (event.ts, field.digest):
                    return Outcome.CONFLICTING
                found = True
            else:
                changes = changes or row is None or (event.ts, event.event_id) > (row.ts, row.event_id)
        return Outcome.DUPLICATE if found and not changes else None

    def add(self, event: EncodedEvent, floor: int) -> Outcome:
        self.expire(floor)
        if event.ts > self.totals.newest:
            self.totals.newest = event.ts
        if event.ts < floor:
            return Outcome.EXPIRED
        mine = [field for field in event.fields or () if self._put(event, field)]
        self._trim()
        return Outcome.APPLIED if any(field.name in self._fields for field in mine) else Outcome.EVICTED

    def expire(self, floor: int) -> None:
        for name in [name for name, row in self._fields.items() if row.ts < floor]:
            self._drop(name)
        self._trim()

    def finish(self) -> None:
        totals = self.totals
        totals.reset_rows()
        for row in self._fields.values():
            if row.vector.size:
                totals.add(row.vector, row.numbers)
        totals.oldest = min((row.ts for row in self._fields.values()), default=0)

    def rows(self) -> tuple[list[bytes], list[tuple[bytes, bytes]]]:
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


def _scan_all(scan: Scan, prefix: bytes) -> list[tuple[bytes, bytes]]:
    rows: list[tuple[bytes, bytes]] = []
    start = b""
    while chunk := scan(prefix, start, READ_AHEAD):
        rows += chunk
        start = chunk[-1][0] + b"\x00"
        if len(chunk) < READ_AHEAD:
            break
    return rows
