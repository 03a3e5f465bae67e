"""Which accepted events are not yet queryable, and how long events take to become so. Pure: clocks are passed in.

An event is covered in a scenario when the user's record there has `covers[source] >= offset`. It is pending until it is
covered in every scenario that counts: a scenario registered at run time does so once its back-fill is over. What was
accepted before its user was erased, or swept with all windows empty, will never be covered, and counts as settled; so
does, at a start, what is older than deletions are kept, of a user of whom nothing is known. Memory follows the pending
events only.

The low-water mark of a partition of `events` is its lowest offset that still has a pending event, or else the position.
Committed by serve, it makes the lag of that group the number of accepted messages not yet queryable, and a restart
reads on from there, so that no pending event is forgotten.
"""

from __future__ import annotations

import bisect
import random
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from store.index.row_meta import Coverage

SAMPLES = 10_000
"""Size of the reservoir over all time, and of the recent window: a p99 rests on 100 samples beyond it."""
RECENT_SECONDS = 300


class AcceptedEvent(NamedTuple):
    """An event as ingest accepted it.

    source, offset: "topic:partition" and offset of the raw message. produced_at: its timestamp, ms; ingested_at: ms.
    """

    user_id: str
    source: str
    offset: int
    produced_at: int
    ingested_at: int


class _Pending(NamedTuple):
    offset: int
    ingested_at: int
    produced_at: int
    partition: int
    position: int


@dataclass(slots=True)
class _Message:
    """A message of `events` with pending events: how many, and the oldest produced_at."""

    pending: int
    produced_at: int


class PendingEvents:
    """The pending events of all users. Thread-safe; one thread observes and advances, others ask.

    Args:
        scenarios: every scenario that must cover an event; see `require`.
        coverage: (scenario, user) → what is queryable now, None if nothing is. Called under this object's lock.
    """

    def __init__(self, scenarios: Sequence[str], coverage: Callable[[str, str], Coverage | None]) -> None:
        self._scenarios = tuple(scenarios)
        self.samples = FreshnessSamples()
        self._coverage = coverage
        self._lock = threading.Lock()
        self._users: dict[str, dict[str, list[_Pending]]] = {}  # per user and source, by raw offset
        self._positions: dict[int, int] = {}
        self._messages: dict[int, OrderedDict[int, _Message]] = {}
        self._total = 0

    def __len__(self) -> int:
        """Pending events."""
        return self._total

    @property
    def scenarios(self) -> tuple[str, ...]:
        """Those that must cover an event."""
        return self._scenarios

    def require(self, scenarios: Iterable[str]) -> None:
        """From now on these must cover an event. What was settled stays so; what only the others lacked is settled, and
        what a new one knows to be of a user who has gone.

        The freshness of the latter is not known, and no sample. For the thread that observes.
        """
        with self._lock:
            before, self._scenarios = self._scenarios, tuple(scenarios)
            if set(before) != set(self._scenarios):
                for user_id, sources in list(self._users.items()):
                    self._advance(user_id, sources, 0, [])

    def start(self, positions: Mapping[int, int]) -> None:
        """Reading of `events` begins at these offsets."""
        with self._lock:
            self._positions.update(positions)

    def observe(
        self,
        partition: int,
        offset: int,
        events: Iterable[AcceptedEvent],
        *,
        sample: bool = True,
        forgotten_before: int = 0,
    ) -> list[float]:
        """One message of `events` was read. Returns the freshness, in seconds, of those that are covered already.

        sample: False while catching up after a restart: when events became covered then is not known.
        forgotten_before: ms; deletions of before are no longer told. An event accepted before it, of a user whom no
            scenario knows, is not waited for: the user may have gone since.
        """
        fresh: list[float] = []
        with self._lock:
            self._positions[partition] = max(offset + 1, self._positions.get(partition, 0))
            for event in events:
                found = [self._coverage(scenario, event.user_id) for scenario in self._scenarios]
                item = _Pending(event.offset, event.ingested_at, event.produced_at, partition, offset)
                if event.ingested_at < forgotten_before and not any(found):
                    continue
                if not _settled(found, event.source, item):
                    self._add(event.user_id, event.source, item)
                elif sample and event.produced_at > 0 and _covers(found, event.source) >= event.offset:
                    queryable_at = max((coverage.applied_at for coverage in found if coverage), default=0)
                    fresh.append(max(0, queryable_at - event.produced_at) / 1000)
        return fresh

    def skip_to(self, partition: int, offset: int) -> None:
        """Everything of a partition below `offset` has been read (the end was reached, or a gap passed)."""
        with self._lock:
            self._positions[partition] = max(offset, self._positions.get(partition, 0))

    def advance(self, user_ids: Iterable[str], *, now_ms: int) -> list[float]:
        """Records or erasures of these users were applied.

        Returns the freshness, in seconds, of the events that are now covered in every scenario.
        """
        fresh: list[float] = []
        with self._lock:
            for user_id in user_ids:
                if (sources := self._users.get(user_id)) is not None:
                    self._advance(user_id, sources, now_ms, fresh)
        return fresh

    def pending(self, user_id: str, covers: Mapping[str, int]) -> int:
        """Accepted events of a user that a record with these `covers` does not reflect."""
        with self._lock:
            sources = self._users.get(user_id, {})
            return sum(len(items) - _first_above(items, covers.get(source, -1)) for source, items in sources.items())

    def positions(self) -> dict[int, int]:
        """Next offset to read per partition of `events`."""
        with self._lock:
            return dict(self._positions)

    def low_water(self) -> dict[int, int]:
        """{partition of `events`: offset below which every accepted event is queryable}."""
        with self._lock:
            marks = dict(self._positions)
            for partition, messages in self._messages.items():
                if messages:
                    marks[partition] = next(iter(messages))
            return marks

    def report(self, *, now_ms: int) -> dict[str, Any]:
        """What `GET /v1/lag` says of freshness: seconds from raw event to queryable, and what is waiting."""
        with self._lock:
            produced = [next(iter(messages.values())).produced_at for messages in self._messages.values() if messages]
            pending, users = self._total, len(self._users)
        oldest = max((now_ms - at for at in produced if at > 0), default=0)
        return {
            "pending_events": pending,
            "pending_users": users,
            "oldest_pending_seconds": max(0, oldest) / 1000,
            **self.samples.report(),
        }

    def _add(self, user_id: str, source: str, item: _Pending) -> None:
        pending = self._users.setdefault(user_id, {}).setdefault(source, [])
        if not pending or item >= pending[-1]:
            pending.append(item)
        else:
            bisect.insort(pending, item)  # ingest sent it again after a restart
        messages = self._messages.setdefault(item.partition, OrderedDict())
        if (message := messages.get(item.position)) is None:
            messages[item.position] = _Message(1, item.produced_at)
        else:
            message.pending += 1
            message.produced_at = min(message.produced_at, item.produced_at)
        self._total += 1

    def _advance(self, user_id: str, sources: dict[str, list[_Pending]], now_ms: int, fresh: list[float]) -> None:
        found = [self._coverage(scenario, user_id) for scenario in self._scenarios]
        for source, pending in list(sources.items()):
            covered = _covers(found, source)
            first = _first_above(pending, covered)
            done, left = pending[:first], pending[first:]
            if any(coverage is not None and coverage.erased_at is not None for coverage in found):
                done += [item for item in left if _settled(found, source, item)]
                left = [item for item in left if not _settled(found, source, item)]
            if not done:
                continue
            previous = -1
            for item in done:
                # a raw event sent twice became queryable once; one settled by an erasure never did
                if previous < item.offset <= covered and item.produced_at > 0:
                    fresh.append(max(0, now_ms - item.produced_at) / 1000)
                previous = item.offset
                self._finish(item)
            if left:
                sources[source] = left
            else:
                del sources[source]
        if not sources:
            del self._users[user_id]

    def _finish(self, item: _Pending) -> None:
        messages = self._messages[item.partition]
        message = messages[item.position]
        message.pending -= 1
        if not message.pending:
            del messages[item.position]
        self._total -= 1


class FreshnessSamples:
    """Percentiles of freshness in bounded memory: a uniform reservoir over all time, and the newest samples."""

    def __init__(self, *, size: int = SAMPLES, seed: int = 0, clock: Callable[[], float] = time.monotonic) -> None:
        """clock: seconds, monotonic."""
        self._clock = clock
        self._size = size
        self._lock = threading.Lock()
        self._random = random.Random(seed)
        self._count = 0
        self._reservoir: list[float] = []
        self._recent: deque[tuple[float, float]] = deque(maxlen=size)

    def add(self, seconds: Iterable[float]) -> None:
        """Events became queryable."""
        now = self._clock()
        with self._lock:
            for value in seconds:
                self._count += 1
                self._recent.append((now, value))
                if len(self._reservoir) < self._size:
                    self._reservoir.append(value)
                elif (place := self._random.randrange(self._count)) < self._size:
                    self._reservoir[place] = value

    def report(self) -> dict[str, Any]:
        """{"all": {count, p50, p99, max}, "recent": {the same, seconds}}; percentiles are absent without samples."""
        with self._lock:
            count, everything, since = self._count, list(self._reservoir), self._clock() - RECENT_SECONDS
            recent = [value for at, value in self._recent if at >= since]
        return {
            "all": {"count": count, **_percentiles(everything)},
            "recent": {"seconds": RECENT_SECONDS, "count": len(recent), **_percentiles(recent)},
        }


def _percentiles(values: Sequence[float]) -> dict[str, float]:
    if not values:
        return {}
    p50, p99 = np.percentile(np.asarray(values), (50, 99))
    return {"p50": round(float(p50), 4), "p99": round(float(p99), 4), "max": round(max(values), 4)}


def _first_above(pending: Sequence[_Pending], offset: int) -> int:
    return bisect.bisect_right(pending, offset, key=lambda item: item.offset)


def _covers(found: Sequence[Coverage | None], source: str) -> int:
    """Last offset of a source that every scenario covers."""
    return min((-1 if coverage is None else coverage.covers.get(source, -1) for coverage in found), default=-1)


def _settled(found: Sequence[Coverage | None], source: str, item: _Pending) -> bool:
    """Whether every scenario covers the event, or never will, its user having been erased after it was accepted.

    A scenario that has never had a row of a user who was erased from another one gets none of it either.
    """
    gone = any(c is not None and c.erased_at is not None and item.ingested_at <= c.erased_at for c in found)
    for coverage in found:
        if coverage is None:
            if not gone:
                return False
            continue
        erased = coverage.erased_at is not None and item.ingested_at <= coverage.erased_at
        if not erased and coverage.covers.get(source, -1) < item.offset:
            return False
    return True
