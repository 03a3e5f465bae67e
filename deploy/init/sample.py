"""Rows of a file to look at: spread over it, or all rows of some of its users. Bounded memory, one reading each."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from hashlib import blake2b
from typing import NamedTuple

from stream.replay.row_file import Row

MAX_BYTES = 128 << 20
"""Held at once."""


class Sample(NamedTuple):
    """rows: kept, in the file's order. read: rows read. whole: these are all. every: one row of so many was kept, or
    one user of so many."""

    rows: list[Row]
    read: int
    whole: bool
    every: float = 1.0


def spread(
    rows: Iterable[Row], count: int, most: int, *, max_bytes: int = MAX_BYTES, tick: Callable[[], object] = lambda: None
) -> Sample:
    """At most `count` rows, evenly spaced over the first `most` rows.

    tick: called now and then; what it raises ends the reading.
    """
    kept: list[tuple[int, Row]] = []
    step, size, read, ended = 1, 0, 0, True
    for index, row in enumerate(rows):
        if index == most:
            ended = False
            break
        if index % 1024 == 0:
            tick()
        read += 1
        if index % step:
            continue
        kept.append((index, row))
        size += len(row.value or b"")
        while len(kept) > 1 and (len(kept) > count or size > max_bytes):
            step *= 2
            kept = [(at, row) for at, row in kept if at % step == 0]
            size = sum(len(row.value or b"") for _, row in kept)
    return Sample([row for _, row in kept], read, ended and step == 1, float(step))


def whole_users(
    rows: Iterable[Row],
    user_of: Callable[[Row], str | None],
    count: int,
    most: int,
    *,
    max_bytes: int = MAX_BYTES,
    tick: Callable[[], object] = lambda: None,
) -> Sample:
    """All rows of as many users as have at most `count` rows among the first `most`, and as large a share of the rows
    without a user. Which users is decided by their ids alone. At least one user is kept."""
    kept: list[tuple[int, Row]] = []
    limit, size, read, ended = 1 << 32, 0, 0, True
    for index, row in enumerate(rows):
        if index == most:
            ended = False
            break
        if index % 1024 == 0:
            tick()
        read += 1
        user = user_of(row)
        level = _level(str(index) if user is None else f"u{user}")
        if level >= limit:
            continue
        kept.append((level, row))
        size += len(row.value or b"")
        if len(kept) > count or size > max_bytes:
            levels = sorted({level for level, _ in kept})
            if len(levels) == 1:
                ended = False
                break
            limit = levels[len(levels) // 2]
            kept = [(level, row) for level, row in kept if level < limit]
            size = sum(len(row.value or b"") for _, row in kept)
    return Sample([row for _, row in kept], read, ended and limit == 1 << 32, 2**32 / max(limit, 1))


def _level(text: str) -> int:
    return int.from_bytes(blake2b(text.encode(), digest_size=4).digest(), "big")
