"""One (user, modality) while a batch is applied: which rows come, which go, and its summary. Reads, never writes.

Events are judged one by one, as if each were its own batch. What a batch leaves is therefore independent of where
batches begin and end, which is what makes applying a batch again after a crash safe.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from store.account.account import Tally
from store.window.encoded_event import EncodedEvent
from store.window.remembering import Remembering
from store.window.summary import Arrivals, Totals

NEVER = -1 << 62
"""Floor of a window that none was asked of yet."""

NO_LIMIT = 1 << 62

Row = tuple[bytes, bytes | None]


class WindowUpdate(Protocol):
    """What the buffer needs of both kinds of window."""

    totals: Totals
    covered: bool
    """Whether an event of this batch was seen."""
    floor: int
    """Older events have expired."""
    conflicting: list[EncodedEvent]
    """Events whose id is there with another content or time."""

    def known(self, event: EncodedEvent) -> bool:
        """Whether the event needs no judging, and so does not move the stream time."""
        ...

    def judge(self, events: Sequence[EncodedEvent], floor: int, tally: Tally) -> int:
        """Judge events in order, all under one floor, and cover them. Counts their outcomes in `tally`.

        Returns:
            The newest time of those that were not `known`; -1 if all were.
        """
        ...

    def expire(self, floor: int, most: int = NO_LIMIT) -> None:
        """Take out what is older than `floor` or erased, and what exceeds the window's count; what is to be remembered
        goes to the memory. Keeps the floor. most: about so many rows at most; what is left is due."""
        ...

    @property
    def occupied(self) -> bool:
        """Whether any row is left, in the window or its memory."""
        ...

    def finish(self) -> Arrivals:
        """Bring `totals` up to date but for what is returned, which `add_up` adds. Called once, at the end."""
        ...

    def memory(self) -> Remembering:
        """What the memory's blocks lack after `finish`."""
        ...

    def rows(self, vectors: Mapping[int, bytes]) -> tuple[list[bytes], list[tuple[bytes, bytes]]]:
        """(keys to delete, rows to put, light ones among them). A row that came and went within the batch is deleted
        all the same: an earlier attempt at this batch may have sent it.

        vectors: those of the batch's arrivals, packed, by their `id`.
        """
        ...

    def ids(self) -> list[Row]:
        """Changes of the id index."""
        ...


def bound(floor: int, totals: Totals) -> int:
    """Older events have expired or are erased."""
    return max(floor, totals.erased + 1) if totals.erased else floor


def erase(window: WindowUpdate, erasure: EncodedEvent, floor: int) -> None:
    """Take out what is not newer, for good. It moves no time, and leaves no trace of its order among the events."""
    totals = window.totals
    totals.erased = max(totals.erased, erasure.ts)
    totals.cover(erasure.source, erasure.source_offset, erasure.ingested_at)
    window.expire(floor)
    window.covered = True
