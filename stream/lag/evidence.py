"""Readings for who asks now and then: a verdict needs several, and one question makes one."""

from __future__ import annotations

import threading

from store.base.errors import BrokerError
from stream.lag.reader import LagReader
from stream.lag.report import LagReport
from stream.lag.status import Status

INTERVAL_SECONDS = 4.0
READINGS = 6
"""More than it takes to judge a backlog (LagPolicy): 10 s, three readings."""


class Evidence:
    """Answers with a reading; while that leaves a status `unknown`, more are made behind it, so that who asks again
    is told. Nothing is read while nobody asks. For several threads."""

    def __init__(self, reader: LagReader, *, interval_seconds: float = INTERVAL_SECONDS) -> None:
        self._reader = reader
        self._interval = interval_seconds
        self._gathering = threading.Lock()
        self._stop = threading.Event()

    def read(self) -> LagReport:
        """As `LagReader.read`. Raises BrokerError."""
        report = self._reader.read()
        if _open(report) and not self._stop.is_set() and self._gathering.acquire(blocking=False):
            threading.Thread(target=self._gather, name="lag-evidence", daemon=True).start()
        return report

    def close(self) -> None:
        """Make no more readings; waits for one that is under way."""
        self._stop.set()
        self._gathering.acquire()

    def _gather(self) -> None:
        try:
            for _ in range(READINGS):
                if self._stop.wait(self._interval) or not _open(self._reader.read()):
                    return
        except BrokerError:
            pass  # who asks next is told
        finally:
            self._gathering.release()


def _open(report: LagReport) -> bool:
    return any(p.status is Status.UNKNOWN for p in report.partitions)
