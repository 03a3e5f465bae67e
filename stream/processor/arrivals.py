"""When the events of each partition's batches came in, and that no more come: what `tokens` tells workers. Pure.

A worker does not compute users whose rows are old when more are on their way (encoder/worker/held_users.py). The last
rows of a backlog are as old as the others, so their end has to be said.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

LATE_MS = 1000
"""Rows that were this old when they were sent are a backlog, for all we know."""
IDLE_SECONDS = 1.0
"""Nothing has come for so long: there is nothing."""
MISSED_BATCHES = 8
"""So many batches in a row without a message of a partition, of which Faust holds four: the same."""


@dataclass(slots=True)
class _Late:
    """at: of its last batch, seconds. missed: batches since then."""

    at: float
    missed: int = 0


class Arrivals:
    """Of the partitions of one processor. For one thread; times are passed in."""

    def __init__(self) -> None:
        self._late: dict[int, _Late] = {}
        self._last_batch = float("-inf")

    def batch(self, arrived: Mapping[int, int | None], wall_ms: int, now: float) -> None:
        """A batch was written. arrived: of each partition in it, ms; None = not said. now: seconds, monotonic."""
        self._last_batch = now
        for late in self._late.values():
            late.missed += 1
        for partition, at_ms in arrived.items():
            if at_ms is not None and wall_ms - at_ms >= LATE_MS:
                self._late[partition] = _Late(now)
            else:
                self._late.pop(partition, None)

    def late(self, partition: int) -> bool:
        """Whether its last batch was, and more of it may come."""
        return partition in self._late

    def ended(self, now: float) -> list[int]:
        """Partitions of which no more comes though the last batch was late; each is told once."""
        out = [
            partition
            for partition, late in self._late.items()
            if now - self._last_batch >= IDLE_SECONDS
            or (late.missed >= MISSED_BATCHES and now - late.at >= IDLE_SECONDS)
        ]
        self.forget(out)
        return out

    def forget(self, partitions: Collection[int]) -> None:
        """Nothing is to be said of these."""
        for partition in partitions:
            self._late.pop(partition, None)
