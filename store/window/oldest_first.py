"""Rows of a window, or of its memory, oldest first: those on disk, read ahead, and those that came in this batch."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from heapq import heappop, heappush

from store.base.errors import StateError

READ_AHEAD = 256
"""Most rows read at once while old ones are taken out."""

Scan = Callable[[bytes, bytes, int], list[tuple[bytes, bytes]]]
"""scan(prefix, from, n): up to n rows under `prefix`, from prefix + from on; keys come without the prefix."""


class OldestFirst:
    """Event rows of one format of one (user, modality), by (ts, event id)."""

    __slots__ = ("_ahead", "_chunk", "_format", "_heap", "_next", "_oldest", "_prefix", "_scan", "_stored")

    def __init__(self, prefix: bytes, row_format: int, scan: Scan, stored: int, oldest: int, expected: int) -> None:
        """
        Args:
            prefix: of event rows. stored: how many are on disk.
            oldest: time of the first of these, ms: what lies before it is skipped.
            expected: about how many will go: read ahead.
        """
        self._prefix = prefix
        self._format = row_format
        self._scan = scan
        self._stored = stored  # rows on disk not yet taken out
        self._oldest = oldest if stored else None
        self._next = oldest.to_bytes(8, "big")  # where reading goes on
        self._chunk = expected + 1
        self._ahead: deque[tuple[bytes, bytes]] = deque()
        self._heap: list[bytes] = []

    def push(self, rest: bytes, ts: int) -> None:
        """A row that is not on disk, and its time, ms."""
        heappush(self._heap, rest)
        if self._oldest is not None and ts < self._oldest:
            self._oldest = ts

    def head(self) -> bytes:
        """(ts, event id) of the oldest row; there must be one."""
        ahead = self._ahead
        if self._stored and not ahead:
            self._read()
        if not self._heap:
            return ahead[0][0]
        return min(ahead[0][0], self._heap[0]) if ahead else self._heap[0]

    def oldest(self) -> int:
        """Time of the oldest row, ms; there must be one. Reads nothing until a row was taken out."""
        if self._oldest is None:
            self._oldest = time_of(self.head())
        return self._oldest

    def pop(self, head: bytes) -> bytes | None:
        """Take the oldest row out. Returns its bytes, None if it is not on disk."""
        self._oldest = None
        if self._heap and self._heap[0] == head:
            heappop(self._heap)
            return None
        self._stored -= 1
        return self._ahead.popleft()[1]

    def _read(self) -> None:
        ahead = self._ahead
        while not ahead:
            limit = min(self._chunk, self._stored)
            rows = self._scan(self._prefix, self._next, limit)
            # window and memory lie one behind the other, unless the configuration has changed
            ahead.extend([row for row in rows if row[1][0] == self._format])
            if len(rows) < limit and not ahead:
                raise StateError(
                    f"the token buffer counts {self._stored} rows that it does not hold",
                    action="nothing: at the next start it is set aside and restored from `tokens`; look after the disk",
                    code="state_damaged",
                )
            self._chunk = min(self._chunk * 4, READ_AHEAD)
            self._next = rows[-1][0] + b"\x00"


def time_of(rest: bytes) -> int:
    """Event time in (ts, event id), ms."""
    return int.from_bytes(rest[:8], "big")
