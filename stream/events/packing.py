"""Cutting a partition's events into messages of `events`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from stream.events.event import Event, pack

MAX_PACK_BYTES = 512 * 1024
"""Half of Kafka's default limit, so that no broker setting is needed."""


def packs(now: int, events: Sequence[Event], max_events: int, max_bytes: int = MAX_PACK_BYTES) -> Iterator[bytes]:
    """Packs of at most `max_events` and `max_bytes`, in order; a single event may be longer, alone."""
    for start in range(0, len(events), max_events):
        yield from _halves(now, events[start : start + max_events], max_bytes)


def _halves(now: int, events: Sequence[Event], max_bytes: int) -> Iterator[bytes]:
    value = pack(now, events)
    if len(value) <= max_bytes or len(events) == 1:
        yield value
        return
    half = len(events) // 2
    yield from _halves(now, events[:half], max_bytes)
    yield from _halves(now, events[half:], max_bytes)
