"""While behind, raw partitions are judged in the order of their events' times. Pure but for the messages.

A year replayed through several topics is read topic after topic, and a small one ends long before a large one. Its last
events would set the time of everybody, and what the large one still holds would be older than every window. So a
message waits, a bounded while, for those of other partitions that are older. A partition keeps its own order.

Live, when all partitions are read to their ends and what came is of about one time, messages pass as they come.

One message dated far ahead would make all behind it wait for the end of the others: it is merged by the time of the one
before it, unless AGREE in a row say so (docs/adr/0004).
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from heapq import heapify, heappop, heappush
from itertools import islice
from typing import Any, NamedTuple

from stream.clock import AGREE, Source, agreed_span

PATIENCE_SECONDS = 2.0
"""How long a partition that gives nothing, though it is not at its end, is waited for."""
HELD_BYTES = 64 << 20
"""Of all partitions together; a partition above its part is read no further for the time being."""
HELD_MESSAGES = 5_000
"""Of one partition."""
LIVE_MS = 3_600_000
"""What lies within this passes in the order of its arrival."""
_OVERHEAD = 200


class Taken(NamedTuple):
    """messages: to be judged now, in this order. ended: partitions of which no more is known, and where they end."""

    messages: list[Any]
    ended: dict[Source, int]


class EventTimeMerge:
    """The messages of all partitions that are read, between reading and judging. For one thread.

    Args:
        time_of: a message's event time, ms; None where it cannot be read.
        max_ahead_ms: what is further ahead of its partition is in doubt.
        on_begin: told the times of a partition's first messages, AGREE or more, before these are taken.
        monotonic: seconds.
    """

    def __init__(
        self,
        time_of: Callable[[Any], int | None],
        max_ahead_ms: int,
        *,
        on_begin: Callable[[Source, list[int]], object] = lambda _source, _times: None,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._time_of = time_of
        self._max_ahead_ms = max_ahead_ms
        self._on_begin = on_begin
        self._monotonic = monotonic
        self._queues: dict[Source, _Queue] = {}
        self._count = 0

    def __len__(self) -> int:
        """Messages that wait."""
        return self._count

    def give(self, sources: Iterable[Source]) -> None:
        """These are read from now on."""
        now = self._monotonic()
        for source in sources:
            self.forget([source])
            self._queues[source] = _Queue(now, partial(self._on_begin, source))

    def forget(self, sources: Iterable[Source]) -> None:
        """These are read no more; what waits of them is dropped."""
        for source in sources:
            if (queue := self._queues.pop(source, None)) is not None:
                self._count -= len(queue.messages)

    def add(self, messages: Iterable[Any], ended: Mapping[Source, int]) -> None:
        """What was read, in order within each partition. ended: behind their last messages, the partition's end."""
        for message in messages:
            if (queue := self._queues.get((message.topic(), message.partition()))) is not None:
                queue.add(message)
                self._count += 1
        for source, end in ended.items():
            if (queue := self._queues.get(source)) is not None:
                queue.end, queue.told = end, False

    def take(self, most: int) -> Taken:
        """What may be judged now, about `most` messages."""
        if self._behind():
            messages = self._oldest(most)
        else:
            messages = [message for queue in self._queues.values() for message in self._all_of(queue)]
        self._count -= len(messages)
        return Taken(messages, self._reached())

    def take_topic(self, topic: str) -> list[Any]:
        """All that waits of a topic."""
        messages = [m for source, queue in self._queues.items() if source[0] == topic for m in self._all_of(queue)]
        self._count -= len(messages)
        return messages

    def full(self) -> set[Source]:
        """Partitions that are not to be read for now."""
        part = HELD_BYTES // max(1, len(self._queues))
        for queue in self._queues.values():
            share = max(queue.bytes / part, len(queue.messages) / HELD_MESSAGES)
            queue.is_full = share >= 1 or (queue.is_full and share > 0.5)
        return {source for source, queue in self._queues.items() if queue.is_full}

    def _behind(self) -> bool:
        """Whether what waits is not all there is, or not of about one time."""
        waiting = [queue for queue in self._queues.values() if queue.messages]
        if any(queue.end is None for queue in self._queues.values()):
            return True
        if len(waiting) < 2:
            return False
        ends = [self._time_of(queue.messages[place]) for queue in waiting for place in (0, -1)]
        times = [ts for ts in ends if ts is not None]
        return len(times) > 0 and max(times) - min(times) > LIVE_MS

    def _all_of(self, queue: _Queue) -> list[Any]:
        return queue.pop_all(self._time_of, self._max_ahead_ms) if queue.messages else []

    def _oldest(self, most: int) -> list[Any]:
        """By time, as far as no partition may still bring an older one."""
        patient_since = self._monotonic() - PATIENCE_SECONDS
        bound: float | None = None
        heap: list[tuple[float, int, _Queue]] = []
        for number, queue in enumerate(self._queues.values()):
            waits = queue.dry_since > patient_since
            if (head := queue.head(self._time_of, self._max_ahead_ms, waits=waits)) is not None:
                heap.append((head, number, queue))
            elif queue.end is None and waits:
                bound = min(queue.now, queue.now if bound is None else bound)
        heapify(heap)
        out: list[Any] = []
        while heap and len(out) < most:
            at, number, queue = heappop(heap)
            if bound is not None and at > bound:
                break
            out.append(queue.pop(self._monotonic))
            if (head := queue.head(self._time_of, self._max_ahead_ms, waits=True)) is not None:
                heappush(heap, (head, number, queue))
            elif queue.end is None:
                bound = min(queue.now, queue.now if bound is None else bound)
        return out

    def _reached(self) -> dict[Source, int]:
        out = {}
        for source, queue in self._queues.items():
            if queue.end is not None and not queue.messages and not queue.told:
                queue.told = True
                out[source] = queue.end
        return out


_NEVER = float("-inf")


class _Queue:
    """One partition's. now: time of the last message that was taken. dry_since: when it last gave something."""

    __slots__ = ("_ahead", "_head", "_on_begin", "bytes", "dry_since", "end", "is_full", "messages", "now", "told")

    def __init__(self, at: float, on_begin: Callable[[list[int]], object]) -> None:
        self._on_begin = on_begin
        self.messages: deque[Any] = deque()
        self.bytes = 0
        self.now = _NEVER
        self.dry_since = at
        self.end: int | None = None
        self.told = False
        self.is_full = False
        self._head: float | None = None
        self._ahead: list[int] = []

    def add(self, message: Any) -> None:
        self.messages.append(message)
        self.bytes += _size(message)
        self.end, self.told = None, False

    def head(self, time_of: Callable[[Any], int | None], max_ahead_ms: int, *, waits: bool) -> float | None:
        """The time that the first message is merged by; None if there is none, or it is not yet known.

        waits: more may come that tells when the partition begins.
        """
        if self._head is None and self.messages:
            ts = time_of(self.messages[0])
            if self.now == _NEVER:
                if len(self.messages) < AGREE and self.end is None and waits:
                    return None
                first = self._first(time_of)
                if len(first) >= AGREE:
                    self._on_begin(first)
                low, high = agreed_span(first, max_ahead_ms) if first else (0, 0)
                self._head = float(ts if ts is not None and low <= ts <= high else low)
            elif ts is None:
                self._head = self.now
            elif ts > self.now + max_ahead_ms:
                self._ahead.append(ts)
                if len(self._ahead) < AGREE:
                    self._head = self.now
                else:
                    self._head = float(max(self.now, agreed_span(self._ahead, max_ahead_ms)[0]))
                    self._ahead.clear()
            else:
                self._ahead.clear()
                self._head = float(ts)
        return self._head

    def _first(self, time_of: Callable[[Any], int | None]) -> list[int]:
        """The first AGREE times, if there are so many."""
        times = (ts for message in self.messages if (ts := time_of(message)) is not None)
        return list(islice(times, AGREE))

    def pop(self, monotonic: Callable[[], float]) -> Any:
        assert self._head is not None
        self.now, self._head = max(self.now, self._head), None
        message = self.messages.popleft()
        self.bytes -= _size(message)
        if not self.messages:
            self.dry_since = monotonic()
        return message

    def pop_all(self, time_of: Callable[[Any], int | None], max_ahead_ms: int) -> list[Any]:
        out = list(self.messages)
        ts = time_of(out[-1])
        if ts is not None and (self.now == _NEVER or ts <= self.now + max_ahead_ms):
            self.now = max(self.now, ts)
        self.messages.clear()
        self.bytes, self._head = 0, None
        return out


def _size(message: Any) -> int:
    return _OVERHEAD + len(message.value() or b"")
