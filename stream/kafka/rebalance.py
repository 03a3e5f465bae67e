"""How long partitions are out of use in this process while the group moves them, and while their state comes back."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

from store.base import logs, metrics

log = logs.get(__name__)


class Rebalance:
    """One per role. The group calls `lost` and `given`, whoever opens partitions calls `usable`; two threads may.

    A group takes all partitions away and gives them out anew at once, so one clock serves them all. What a member that
    died took with it, until its session timed out, is not seen here: lag shows it.
    """

    def __init__(self, role: str, clock: Callable[[], float] = time.monotonic) -> None:
        """clock: seconds, monotonic."""
        self._role = role
        self._clock = clock
        self._lost_at = -math.inf
        self._given_at = clock()
        self._away = 0.0
        """From the latest loss until `given`; infinite while that is not known."""

    def lost(self) -> None:
        """Partitions were taken away. Again before `given`: the first time counts."""
        if self._away < math.inf:
            self._lost_at = self._clock()
            self._away = math.inf

    def given(self) -> float:
        """Partitions were given. Returns how long this process had none, seconds; 0 for a member that joins."""
        self._given_at = self._clock()
        self._away = self._given_at - self._lost_at if self._away == math.inf else 0.0
        return self._away

    def usable(self, partition: int, *, opening: float | None = None) -> float:
        """A partition works again. Logs and exports how long it did not, seconds, and returns it.

        Args:
            opening: seconds that opening and restoring it took; None = all the time since `given`. A partition that is
                opened when it is first needed was not waited for until then.
        """
        now = self._clock()
        if opening is None:
            opening = now - self._given_at
        # its first events may come before `given`: then it was out of use until its opening began
        away = min(self._away, max(0.0, now - opening - self._lost_at))
        seconds = away + opening
        metrics.REBALANCE_SECONDS.labels(self._role).observe(seconds)
        log.info(logs.PARTITION_USABLE, partition=partition, seconds=round(seconds, 3), opening=round(opening, 3))
        return seconds
