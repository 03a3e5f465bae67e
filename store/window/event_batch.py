"""Applying a batch of events to the windows they touch, and sweeping what has expired elsewhere. Reads only."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import repeat
from typing import Protocol

from store.account.account import Account, AccountBatch, RefusedEvent
from store.account.outcome import Outcome
from store.base.settings import ERASURE, ModalitySettings
from store.window.changes import Changes
from store.window.encoded_event import EncodedEvent
from store.window.event_window import EventWindow
from store.window.layout import expiry_key, parse_expiry_key
from store.window.remembering import remember
from store.window.rows import SummaryRow, modality_prefix, read_summary
from store.window.summary import Totals, add_up
from store.window.tabular_window import TabularWindow
from store.window.window_rules import WindowRules, is_occupied, last_seen
from store.window.window_update import Row, WindowUpdate, erase

SWEEP_ROWS = 2000
"""Most rows one batch changes by expiry alone (and most index entries it looks at). What a window that events touch
loses by that, and an erasure, is not cut: how events are judged, and who is gone, must not wait for another batch."""
_SWEEP_CHUNK = 256


class Reader(Protocol):
    """What a batch reads of the database, at one instant."""

    def summaries(self, prefixes: Sequence[bytes]) -> list[bytes | None]:
        """Summary rows by (user, modality) prefix."""
        ...

    def ids(self, keys: Sequence[bytes]) -> list[bytes | None]:
        """Entries of the id index."""
        ...

    def scan(self, prefix: bytes, start: bytes, limit: int) -> list[tuple[bytes, bytes]]:
        """Rows in key order (store/window/oldest_first.py::Scan)."""
        ...

    def expiry(self, start: bytes, end: bytes, limit: int) -> list[bytes]:
        """Keys of the expiry index in [start, end)."""
        ...

    def totals_by_scan(self, prefix: bytes, modality: ModalitySettings, packed: bytes) -> Totals:
        """Totals of a window whose summary row was written under another configuration."""
        ...


class EventBatch:
    """One call of `TokenBuffer.prepare`."""

    def __init__(
        self,
        reader: Reader,
        rules: WindowRules,
        stream_time: int,
        due: Mapping[str, int],
        account: Account,
        since: Mapping[str, int],
    ) -> None:
        """
        Args:
            due: by modality; no entry of the expiry index is lower.
            since: by modality; older events are not accepted (store/window/accepted.py).
        """
        self._reader = reader
        self._rules = rules
        self._stream_time = stream_time
        self._due = dict(due)
        self._since = since
        self._updates: dict[tuple[str, str], WindowUpdate] = {}
        self._prefixes: dict[tuple[str, str], bytes] = {}
        self._old_due: dict[tuple[str, str], int] = {}
        self._account = AccountBatch(account)
        self._expiry_deletes: list[bytes] = []
        self._expiry_puts: list[bytes] = []
        self._sweep_deletes: list[Row] = []
        self._sweep_puts: list[Row] = []
        self._sweep_summaries: list[Row] = []
        self._sweep_ids: list[Row] = []
        self._swept_users: dict[str, None] = {}
        self._swept: set[tuple[str, str]] = set()
        self._lowest_put: dict[str, int] = {}
        self._sweep_left = False
        self._erases = False
        self._packed: Mapping[int, bytes] = {}  # the vectors that came, as of `VectorTable`

    def apply(self, events: Sequence[EncodedEvent], refused: Sequence[RefusedEvent] = ()) -> None:
        """Judge the events as if one by one in order: each sees what those before it did. Those refused are counted.

        Windows do not depend on each other, only on the stream time, and on that only when it passes into the next
        step of the granularity. So all events of one step are judged window by window.
        """
        self._account.sort_out(events, refused)
        windows = self._load_touched(events)
        rules = self._rules
        tallies = {name: self._account.tally(name) for name in rules.modalities}
        floors, step_end = self._step()
        times = [event.ts for event in events]
        erasures = [i for i, event in enumerate(events) if event.modality == ERASURE] if self._erases else []
        at, latest = 0, max(times, default=0)
        while at < len(events):
            end = next((i for i in erasures if i >= at), len(events))
            if latest >= step_end:
                end = next((i for i in range(at, end) if times[i] >= step_end), end)
            for key, touched in (windows if end - at == len(events) else _by_window(events[at:end])).items():
                newest = self._updates[key].judge(touched, floors[key[1]], tallies[key[1]])
                self._stream_time = max(self._stream_time, newest)
            at = end
            if end < len(events):
                event, at = events[end], end + 1
                if event.modality == ERASURE:
                    for modality in rules.modalities:
                        erase(self._updates[event.user_id, modality], event, floors[modality])
                    self._account.tally(ERASURE).add(event, Outcome.APPLIED)
                    continue
                update, modality = self._updates[event.user_id, event.modality], event.modality
                if update.floor != floors[modality]:
                    update.expire(floors[modality])
                if not update.known(event):
                    self._stream_time = event.ts
                    floors, step_end = self._step()
                update.judge([event], floors[modality], tallies[modality])
        arrivals = []
        for (_, modality), update in self._updates.items():
            if update.floor != floors[modality]:
                update.expire(floors[modality])
            arrivals.append(update.finish())
        self._packed = add_up(arrivals, rules.dim).packed
        remember([update.memory() for update in self._updates.values()])

    def conflicting(self) -> list[EncodedEvent]:
        """Events that were left out because their id is there with another content or time."""
        return [event for update in self._updates.values() for event in update.conflicting]

    def _step(self) -> tuple[dict[str, int], int]:
        """Floors per modality at the stream time, and from which time on they are higher."""
        granularity = self._rules.granularity_ms
        floors = {name: self._rules.floor(name, self._stream_time) for name in self._rules.modalities}
        return floors, (self._stream_time // granularity + 1) * granularity

    def sweep(self, limit: int = SWEEP_ROWS) -> None:
        """Take out expired rows of windows and memories that no event touched, at most about `limit`."""
        budget = limit
        for modality in self._rules.modalities:
            floor = self._rules.floor(modality, self._stream_time)
            end = max(floor, 1)  # an entry at 0 is always due
            start = expiry_key(modality, 0, "")
            while self._due.get(modality, 0) < end:
                if budget <= 0:
                    self._sweep_left = True
                    return
                found = self._reader.expiry(start, expiry_key(modality, end, ""), min(_SWEEP_CHUNK, budget))
                if not found:
                    self._due[modality] = end
                    break
                self._load(
                    [window for key in found if (window := _window_of(key)) not in self._swept], {}, {}, new=False
                )
                for key in found:
                    entry = parse_expiry_key(key)
                    self._expiry_deletes.append(key)
                    budget -= 1 + self._sweep_window(entry.user_id, modality, floor, budget, relog=entry.ts == 0)
                    start = key + b"\x00"
                    self._due[modality] = entry.ts
                    if budget <= 0:
                        break

    def changes(self, source_offset: int, version: int, again: Sequence[Row] = ()) -> Changes:
        """Everything the commit has to write. again: stored rows that have to be logged again."""
        deletes: list[Row] = []
        puts: list[Row] = []
        summaries: list[Row] = []
        ids: list[Row] = []
        users: dict[str, None] = {}
        for (user_id, modality), update in self._updates.items():
            if not update.covered:
                continue
            prefix = self._prefixes[user_id, modality]
            gone, new = update.rows(self._packed)
            deletes += [(key, None) for key in gone]
            puts += new
            ids += update.ids()
            summaries.append((prefix + b"\x00", update.totals.pack()))
            due = self._rules.due(modality, update.totals, occupied=update.occupied)
            if due < self._old_due.get((user_id, modality), due + 1):
                self._index(modality, due, user_id)
            users[user_id] = None
        for modality, due in self._lowest_put.items():
            self._due[modality] = min(due, self._due.get(modality, 0))
        changed = {
            key
            for rows in (deletes, puts, summaries, self._sweep_deletes, self._sweep_puts, self._sweep_summaries)
            for key, _ in rows
        } if again else set()  # fmt: skip
        stale = [key for key, _ in again]
        healed = [row for row in again if row[0] not in changed]
        return Changes(
            deletes, puts, summaries, self._sweep_deletes, self._sweep_puts, self._sweep_summaries,
            ids + self._sweep_ids, self._expiry_deletes, self._expiry_puts, self._account.outcomes(),
            self._account.account(), list(users), list(self._swept_users), self._stream_time, source_offset, self._due,
            self._sweep_left, stale, healed, version,
        )  # fmt: skip

    def _sweep_window(self, user_id: str, modality: str, floor: int, most: int, *, relog: bool) -> int:
        """Expire the rows of one window and its memory, `most` at most, and index what is left; returns how many rows
        changed."""
        window = (user_id, modality)
        update = self._updates.get(window)
        if window in self._swept or update is None:
            return 0  # swept through another entry, or gone
        self._swept.add(window)
        gone: list[bytes] = []
        light: list[tuple[bytes, bytes]] = []
        dropped = False
        due = 0
        if not update.covered:
            del self._updates[window]
            update.expire(floor, most)
            gone, light = update.rows(add_up([update.finish()], self._rules.dim).packed)
            remember([update.memory()])
            if not update.occupied and self._rules.due(modality, update.totals, occupied=False) < floor:
                dropped, due = self._drop_others(user_id, modality, floor)
            if gone or light or dropped or relog:
                self._sweep_deletes += [(key, None) for key in gone]
                self._sweep_puts += light
                self._sweep_summaries.append(
                    (self._prefixes[window] + b"\x00", None if dropped else update.totals.pack())
                )
                self._sweep_ids += update.ids()
                self._swept_users[user_id] = None
        if not dropped:
            due = max(due, self._rules.due(modality, update.totals, occupied=update.occupied))
            self._index(modality, due, user_id)
        return len(gone) + len(light)

    def _drop_others(self, user_id: str, modality: str, floor: int) -> tuple[bool, int]:
        """Drop the user's other summaries, or none if one has to stay; then also when to look again."""
        others = [(user_id, name) for name in self._rules.modalities if name != modality]
        stored = self._reader.summaries([modality_prefix(*other) for other in others])
        found: list[tuple[str, str]] = []
        full: list[tuple[str, SummaryRow]] = []
        due, busy = 0, False
        totals: SummaryRow
        for other, packed in zip(others, stored, strict=True):
            if (update := self._updates.get(other)) is not None:
                totals, occupied = update.totals, update.covered or update.occupied
            elif packed is not None:
                totals = read_summary(packed)
                # swept in this batch: what is stored is the state before
                occupied = other in self._swept
                if not occupied and is_occupied(totals):
                    full.append((other[1], totals))
            else:
                continue
            found.append(other)
            busy = busy or occupied
            due = max(due, self._rules.due_with(modality, other[1], last_seen(totals)))
        if due >= floor:
            return False, due
        if full:
            # Their rows go first, and with the last of them the user. Until then this one is not looked at again: as
            # many users as fit a batch would fill every batch.
            for name, totals in full:
                self._index(name, self._rules.due(name, totals, occupied=True), user_id)
            self._sweep_left = True
            return False, floor
        if busy:
            self._sweep_left = True
            return False, due
        for other in found:
            self._swept.add(other)
            self._updates.pop(other, None)
            self._sweep_summaries.append((modality_prefix(*other) + b"\x00", None))
        return True, 0

    def _index(self, modality: str, due: int, user_id: str) -> None:
        due = max(due, 1)  # 0 asks for more than a look
        self._expiry_puts.append(expiry_key(modality, due, user_id))
        self._lowest_put[modality] = min(due, self._lowest_put.get(modality, due))

    def _load_touched(self, events: Sequence[EncodedEvent]) -> dict[tuple[str, str], list[EncodedEvent]]:
        """Read the summaries and ids that the events need, with two multi-gets. Returns the events by window."""
        prefixes, shapes = self._prefixes, self._rules.shapes
        wanted = _by_window(events)
        for user_id in [user_id for user_id, modality in wanted if modality == ERASURE]:
            self._erases = True
            del wanted[user_id, ERASURE]
            for modality in shapes:
                wanted.setdefault((user_id, modality), [])
        for key in wanted:
            if key[1] not in shapes:
                raise ValueError(f"modality {key[1]!r} is not configured")
            prefixes[key] = modality_prefix(*key)
        # in key order: then RocksDB finds, and puts, each key beside the one before
        wanted = {key: wanted[key] for key in sorted(wanted, key=prefixes.__getitem__)}
        keys: list[bytes] = []
        names: list[bytes] = []
        owners: list[tuple[str, str]] = []
        for key, touched in wanted.items():
            prefix = prefixes[key]
            if shapes[key[1]].is_sequence:
                names += (own := [event.event_id.encode() for event in touched])
                keys += [prefix + name for name in own]
                owners += repeat(key, len(own))
        ids: dict[tuple[str, str], dict[bytes, bytes | None]] = {}
        values = self._reader.ids(keys) if keys else []
        if values.count(None) != len(values):
            for key, name, value in zip(owners, names, values, strict=True):
                if value is None:
                    continue
                ids.setdefault(key, {})[name] = value
        self._load(list(wanted), ids, {key: len(touched) for key, touched in wanted.items()}, new=True)
        return wanted

    def _load(
        self,
        keys: list[tuple[str, str]],
        ids: dict[tuple[str, str], dict[bytes, bytes | None]],
        expected: Mapping[tuple[str, str], int],
        *,
        new: bool,
    ) -> None:
        keys = [key for key in keys if key not in self._updates]
        if not keys:
            return
        rules = self._rules
        for key in keys:
            if key not in self._prefixes:
                self._prefixes[key] = modality_prefix(*key)
        scan = self._reader.scan
        stored = self._reader.summaries([self._prefixes[key] for key in keys])
        for key, packed in zip(keys, stored, strict=True):
            if packed is None and not new:
                continue
            sequence, max_events, width, lag = rules.shapes[key[1]]
            prefix = self._prefixes[key]
            if packed is None:
                totals = Totals.empty(rules.dim, width)
            else:
                found = Totals.of(packed, width)
                totals = found or self._reader.totals_by_scan(prefix, rules.modalities[key[1]], packed)
            update: WindowUpdate
            if sequence:
                update = EventWindow(
                    prefix, max_events, totals, scan, ids.get(key) or {}, expected.get(key, 1), lag, self._since[key[1]]
                )
            else:
                update = TabularWindow(prefix, max_events, totals, scan, self._since[key[1]])
            self._updates[key] = update
            if packed is not None and update.occupied:  # else its entry may be later, see `_drop_others`
                self._old_due[key] = rules.due(key[1], totals, occupied=True)


def _window_of(key: bytes) -> tuple[str, str]:
    """(user, modality) of an entry of the expiry index."""
    entry = parse_expiry_key(key)
    return entry.user_id, entry.modality


def _by_window(events: Sequence[EncodedEvent]) -> dict[tuple[str, str], list[EncodedEvent]]:
    """Events by (user, modality), in order within each."""
    windows: dict[tuple[str, str], list[EncodedEvent]] = {}
    for event in events:
        touched = windows.get(key := (event.user_id, event.modality))
        if touched is None:
            windows[key] = touched = []
        touched.append(event)
    return windows
