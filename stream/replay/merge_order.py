"""By what time a file's lines are merged with those of others, where one line's time is wrong. Pure.

A file's lines wait for the lines of others that are older. One line dated far ahead would make all behind it wait for
the end of everything. So a line far ahead of its file stays behind the one before it, unless enough in a row agree,
which those that follow decide (stream/clock.py; docs/adr/0004).
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator
from typing import TypeVar

from stream.clock import AGREE, agreed_span

Row = TypeVar("Row")


def merge_times(rows: Iterable[tuple[int | None, Row]], max_ahead_ms: int) -> Iterator[tuple[int, Row]]:
    """The rows in their order, each with the time it is merged by.

    Args:
        rows: (event time in ms, or None where it cannot be read, row) of one file, in order.
        max_ahead_ms: what is further ahead of the file is in doubt. At most AGREE such lines are held, and what stands
            between them.
    """
    now: int | None = None
    held: list[tuple[int | None, Row]] = []
    ahead: list[int] = []
    for ts, row in rows:
        if ts is None and not held:
            yield now or 0, row
        elif ts is None or now is None or ts > now + max_ahead_ms:
            held.append((ts, row))
            if ts is not None:
                ahead.append(ts)
            if len(ahead) >= AGREE or len(held) > 2 * AGREE:
                now = yield from _settle(held, ahead, now or 0, max_ahead_ms)
                held, ahead = [], []
        else:
            for _, waiting in held:
                yield now, waiting
            held, ahead = [], []
            now = max(now, ts)
            yield now, row
    if now is None:
        yield from _settle(held, ahead, 0, max_ahead_ms)
    else:
        for _, waiting in held:
            yield now, waiting


def _settle(
    held: list[tuple[int | None, Row]], ahead: list[int], now: int, max_ahead_ms: int
) -> Generator[tuple[int, Row], None, int]:
    """The held rows by what the median of their times says; returns the time of the last."""
    first, last = agreed_span(ahead, max_ahead_ms) if ahead else (now, now)
    for ts, row in held:
        if ts is not None and first <= ts <= last:
            now = ts
        yield max(now, first), row
    return now
