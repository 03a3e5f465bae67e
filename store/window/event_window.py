"""The rolling window of a sequence of events, and its memory, while a batch is applied.

What a batch leaves is a function of the events: the newest `max_events` not older than the window have whole rows, all
others not older than the memory have light ones. So every row of the window is newer than every one of the memory, as
long as the configuration stays; where it has changed, the format of a row says which it is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from store.account.account import Tally
from store.account.outcome import Outcome
from store.window.encoded_event import EncodedEvent
from store.window.layout import pack_id
from store.window.oldest_first import OldestFirst, Scan, time_of
from store.window.remembering import LightRow, Remembering
from store.window.rows import EVENT_HEADS, FORMAT, LIGHT, LIGHT_HEADS, light_row
from store.window.summary import Arrivals, Totals
from store.window.window_update import NEVER, NO_LIMIT, Row, bound

_FOREVER = 1 << 62


class EventWindow:
    """The newest `max_events` by (ts, event id), and what is remembered. Looks at the oldest only."""

    __slots__ = (
        "_added", "_changed_ids", "_departed", "_forgotten", "_ids", "_key_prefix", "_lag", "_light", "_max", "_memory",
        "_prefix", "_remembered", "_removed", "_scan", "_since", "_window", "conflicting", "covered", "floor", "totals",
    )  # fmt: skip

    def __init__(
        self,
        prefix: bytes,
        max_events: int,
        totals: Totals,
        scan: Scan,
        ids: dict[bytes, bytes | None],
        expected: int,
        lag: int | None,
        since: int,
    ) -> None:
        """
        Args:
            ids: entries of the id index by event id.
            expected: about how many rows will come, and so go.
            lag: how much further back than the window memory reaches, ms; None = there is none.
            since: older events are not accepted (store/window/accepted.py); what is there stays.
        """
        self.totals = totals
        self.covered = False
        self.floor = NEVER
        self.conflicting: list[EncodedEvent] = []
        self._prefix = prefix
        self._key_prefix = key_prefix = prefix + b"\x01"
        self._max = max_events
        self._lag = lag
        self._since = since
        self._scan = scan
        self._window = OldestFirst(key_prefix, FORMAT, scan, totals.rows, totals.oldest, expected)
        self._memory = OldestFirst(key_prefix, LIGHT, scan, totals.memory_rows, totals.memory_oldest, expected)
        self._added: dict[bytes, tuple[EncodedEvent, bytes]] = {}  # with its entry of the id index
        self._light: dict[bytes, bytes] = {}  # rows that came to the memory
        self._removed: list[bytes] = []
        self._departed: list[bytes] = []
        self._remembered: list[LightRow] = []
        self._forgotten: list[LightRow] = []
        self._ids = ids
        self._changed_ids: dict[bytes, bytes | None] = {}

    @property
    def occupied(self) -> bool:
        return self.totals.rows > 0 or self.totals.memory_rows > 0

    def known(self, event: EncodedEvent) -> bool:
        """Whether window or memory holds its id: it is a duplicate, or conflicting."""
        return self._ids.get(event.event_id.encode()) is not None

    def judge(self, events: Sequence[EncodedEvent], floor: int, tally: Tally) -> int:
        if self.floor != floor:
            self.expire(floor)
        light_floor = self._light_floor(floor)
        floor, since = bound(floor, self.totals), self._since
        totals, ids, changed, added, window = self.totals, self._ids, self._changed_ids, self._added, self._window
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
            rest = entry[:8] + name
            full = rows >= most
            head = window.head() if full else b""
            if (
                ts < floor
                or ts < since
                or rest < head
                or (not full and ts <= totals.newest and self._is_below_light(rest))
            ):
                if ts >= light_floor and ts >= since:
                    self._remember(rest, ts, _light_of(event, entry))
                    ids[name] = changed[name] = entry
                    tally.add(event, Outcome.REMEMBERED)
                else:
                    tally.add(event, Outcome.EXPIRED if ts < floor or ts < since else Outcome.EVICTED)
                continue
            if full:
                self._leave(head, light_floor)
                rows -= 1
            added[rest] = event, entry
            window.push(rest, ts)
            rows += 1
            ids[name] = changed[name] = entry
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

    def expire(self, floor: int, most: int = NO_LIMIT) -> None:
        self.floor = floor
        totals, window, memory = self.totals, self._window, self._memory
        light_floor = self._light_floor(floor)
        floor = bound(floor, totals)
        while most > 0 and totals.rows and (totals.rows > self._max or window.oldest() < floor):
            self._leave(window.head(), light_floor)
            totals.rows -= 1
            most -= 1
        while most > 0 and totals.memory_rows and memory.oldest() < light_floor:
            self._forget(memory.head())
            most -= 1

    def finish(self) -> Arrivals:
        totals = self.totals
        totals.oldest = self._window.oldest() if totals.rows else 0
        totals.memory_oldest = self._memory.oldest() if totals.memory_rows else 0
        return Arrivals(totals, [event for event, _ in self._added.values()], self._departed)

    def memory(self) -> Remembering:
        return Remembering(self.totals, self._remembered, self._forgotten)

    def rows(self, vectors: Mapping[int, bytes]) -> tuple[list[bytes], list[tuple[bytes, bytes]]]:
        prefix, added, light = self._key_prefix, self._added, self._light
        # what leaves the window first: a log cut in between has no more whole rows than the window may have
        puts = [(prefix + rest, value) for rest, value in light.items()]
        for rest, (event, entry) in added.items():
            numbers = event.numbers.tobytes()
            value = b"".join((EVENT_HEADS[len(numbers) >> 2], entry[8:], numbers, vectors[id(event.vector)]))
            puts.append((prefix + rest, value))
        return [prefix + rest for rest in self._removed if rest not in added and rest not in light], puts

    def ids(self) -> list[Row]:
        prefix = self._prefix
        return [(prefix + name, entry) for name, entry in self._changed_ids.items()]

    def _is_below_light(self, rest: bytes) -> bool:
        """Whether a row would lie before a light one. Of a window that is not full only where it may now hold more than
        before: a light row does not become whole again, and a window is read from its oldest row on.

        Rows that came in this batch need no look: they are light above an event that is not only if full windows were
        emptied since, by age or erasure, and those leave no such event.
        """
        if not self.totals.memory_rows:
            return False
        after = self._scan(self._key_prefix, rest, 1)
        return bool(after) and after[0][1][0] == LIGHT

    def _light_floor(self, floor: int) -> int:
        """Older events are not remembered. floor: the window's."""
        return _FOREVER if self._lag is None else bound(floor - self._lag, self.totals)

    def _leave(self, head: bytes, light_floor: int) -> None:
        """Take the window's oldest row out of it. The count of rows is the caller's."""
        value = self._window.pop(head)
        if value is None:
            light = _light_of(*self._added.pop(head))
        else:
            self._departed.append(value)
            light = light_row(value)
        if (ts := time_of(head)) >= light_floor:
            self._remember(head, ts, light)
        else:
            self._drop(head)

    def _remember(self, rest: bytes, ts: int, light: bytes) -> None:
        self.totals.memory_rows += 1
        self._memory.push(rest, ts)
        self._light[rest] = light
        self._remembered.append(LightRow(ts, light[10:]))

    def _forget(self, head: bytes) -> None:
        value = self._memory.pop(head) or self._light.pop(head)
        self.totals.memory_rows -= 1
        self._forgotten.append(LightRow(time_of(head), value[10:]))
        self._drop(head)

    def _drop(self, rest: bytes) -> None:
        """A row that leaves no trace but its deletion."""
        self._removed.append(rest)
        name = rest[8:]
        self._ids[name] = self._changed_ids[name] = None


def _light_of(event: EncodedEvent, entry: bytes) -> bytes:
    numbers = event.numbers.tobytes()
    return LIGHT_HEADS[len(numbers) >> 2] + entry[8:] + numbers
