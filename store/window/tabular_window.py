"""The newest values of a tabular modality while a batch is applied."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from store.account.account import Tally
from store.account.outcome import Outcome
from store.window.encoded_event import EncodedEvent, EncodedField
from store.window.oldest_first import READ_AHEAD, Scan
from store.window.remembering import Remembering
from store.window.rows import FieldRow, pack_field, unpack_field
from store.window.summary import Arrivals, Totals
from store.window.window_update import NEVER, NO_LIMIT, Row, bound


class TabularWindow:
    """The newest value per field by (ts, event id), at most `max_events` fields. Small: read whole, summed anew.

    A field set to null keeps a row without a vector, so that an older value cannot come back.
    """

    def __init__(self, prefix: bytes, max_events: int, totals: Totals, scan: Scan, since: int) -> None:
        """since: older events are not accepted (store/window/accepted.py); what is there stays."""
        self.totals = totals
        self.covered = False
        self.floor = NEVER
        self.conflicting: list[EncodedEvent] = []
        self._key_prefix = prefix + b"\x02"
        self._max = max_events
        self._since = since
        stored = _scan_all(scan, self._key_prefix)
        self._fields = {key.decode(): unpack_field(value) for key, value in stored}
        self._touched: dict[str, None] = {}

    @property
    def occupied(self) -> bool:
        return bool(self._fields)

    def known(self, event: EncodedEvent) -> bool:
        return self._known(event) is not None

    def judge(self, events: Sequence[EncodedEvent], floor: int, tally: Tally) -> int:
        if self.floor != floor:
            self.expire(floor)
        newest = -1
        for event in events:
            outcome = self._known(event)
            if outcome is None:
                newest = max(newest, event.ts)
                outcome = self._add(event)
            elif outcome is Outcome.CONFLICTING:
                self.conflicting.append(event)
            self.totals.cover(event.source, event.source_offset, event.ingested_at)
            tally.add(event, outcome)
        self.covered = True
        return newest

    def _known(self, event: EncodedEvent) -> Outcome | None:
        """A duplicate if no field would change and at least one holds this very event.

        An event without fields changes nothing but the time: `newest`, in which a restore finds the stream time.
        """
        found, changes = False, not event.fields
        for field in event.fields or ():
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
        if event.ts < bound(self.floor, self.totals) or event.ts < self._since:
            return Outcome.EXPIRED
        mine = [field for field in event.fields or () if self._put(event, field)]
        self._trim()
        return Outcome.APPLIED if any(field.name in self._fields for field in mine) else Outcome.EVICTED

    def expire(self, floor: int, most: int = NO_LIMIT) -> None:
        self.floor = floor
        floor = bound(floor, self.totals)
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

    def memory(self) -> Remembering:
        return Remembering(self.totals, (), ())

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


def _scan_all(scan: Scan, prefix: bytes) -> list[tuple[bytes, bytes]]:
    rows: list[tuple[bytes, bytes]] = []
    start = b""
    while chunk := scan(prefix, start, READ_AHEAD):
        rows += chunk
        start = chunk[-1][0] + b"\x00"
        if len(chunk) < READ_AHEAD:
            break
    return rows
