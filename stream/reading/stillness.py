"""Which partitions of a reader have stood still while it had nothing to hand over: pure, no I/O."""

from __future__ import annotations

from collections.abc import Mapping

Partition = tuple[str, int]
"""Topic, partition."""


class Stillness:
    """For one reader. That a partition stands still is no fault by itself: there may be nothing to read."""

    def __init__(self, seconds: float) -> None:
        """seconds: how long a partition must not have moved."""
        self._seconds = seconds
        self._since: dict[Partition, tuple[int, float]] = {}

    def look(self, positions: Mapping[Partition, int], now: float) -> dict[Partition, int]:
        """Those that have not moved for so long, with their positions.

        Call it when the client has just had nothing to hand over: what waits in it has not been read either.

        Args:
            positions: of what is read now, the next offset. What is left out is forgotten. now: seconds, monotonic.
        """
        before = self._since
        self._since = {
            partition: (at, known[1] if (known := before.get(partition)) and known[0] == at else now)
            for partition, at in positions.items()
        }
        return {partition: at for partition, (at, since) in self._since.items() if now - since >= self._seconds}
