"""How far behind this one process is. A group's commit tells the furthest of several; each says its own standing."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from types import MappingProxyType

Partition = tuple[str, int]
"""Topic, partition."""


class Standing:
    """Written by the thread that reads; `behind_seconds` may be asked by any.

    Args:
        clock: monotonic seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._open: dict[Partition, float] = {}
        self._turn = clock()

    def assigned(self, partitions: list[Partition]) -> None:
        """Read from now on; the end of none has been seen."""
        now = self._clock()
        self._open = {p: self._open.get(p, now) for p in partitions} | self._open

    def dropped(self, partitions: list[Partition]) -> None:
        """Read no more."""
        self._open = {p: at for p, at in self._open.items() if p not in partitions}

    def turn(self, ended: Mapping[Partition, bool] = MappingProxyType({})) -> None:
        """One turn of the loop.

        Args:
            ended: partitions of which something was read: whether that was the end, after all messages. A partition at
                its end stays there until something of it is read.
        """
        now = self._turn = self._clock()
        left = dict(self._open)
        for partition, end in ended.items():
            if end:
                left.pop(partition, None)
            else:
                left.setdefault(partition, now)
        # replaced, not changed: another thread may be looking
        self._open = left

    def behind_seconds(self) -> float:
        """Since the end of the partition furthest behind was last seen. A loop that hangs is behind with all."""
        return self._clock() - min((self._turn, *self._open.values()))
