"""Cutting a partition's events into messages of `events`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from stream.events.event import Event, Pack

MAX_PACK_BYTES = 512 * 1024
"""Half of Kafka's default limit, so that no broker setting is needed."""


def packs(
    now: int, events: Sequence[Event], max_events: int, max_bytes: int = MAX_PACK_BYTES
) -> Iterator[tuple[bytes, list[tuple[str, int]]]]:
    """Packs of at most `max_events` and `max_bytes`, in order, each with its sources; a single event may be longer,
    alone."""
    for start in range(0, len(events), max_events):
        yield from _halves(now, events[start : start + max_events], max_bytes)


def _halves(now: int, events: Sequence[Event], max_bytes: int) -> Iterator[tuple[bytes, list[tuple[str, int]]]]:
    columns = Pack.of(now, events)
    value = columns.packed()
    if len(value) <= max_bytes or len(events) == 1:
        yield value, columns.sources
        return
    half = len(events) // 2
    yield from _halves(now, events[:half], max_bytes)
    yield from _halves(now, events[half:], max_bytes)
