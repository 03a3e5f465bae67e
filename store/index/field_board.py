"""Which share of the last events carried each configured field, as every ingest reports it."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Mapping
from typing import NamedTuple

RECENT_MS = 5 * 60_000
CLOCKS_APART_MS = 60_000
MAX_REPORTS = 1000
"""Of one modality."""


class FieldShare(NamedTuple):
    """share: 0 to 1, of `events`. at_ms: of the newest report; older ones of the last RECENT_MS before it count too."""

    modality: str
    field: str
    share: float
    events: int
    at_ms: int


class _Report(NamedTuple):
    at_ms: int
    events: int
    carried: Mapping[str, int]


class FieldBoard:
    """Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._reports: dict[str, deque[_Report]] = {}

    def put(self, modality: str, at_ms: int, events: int, carried: Mapping[str, int]) -> None:
        """An ingest's report: of so many events, how many carried each field. Of several ingests in any order."""
        with self._lock:
            self._reports.setdefault(modality, deque(maxlen=MAX_REPORTS)).append(_Report(at_ms, events, carried))

    def shares(self, *, now_ms: int) -> list[FieldShare]:
        """By modality, then as the newest report has them.

        now_ms: wall clock. Reports from further ahead than clocks differ were made before a clock went back: they do
        not make those of since then old.
        """
        with self._lock:
            found = {modality: list(reports) for modality, reports in sorted(self._reports.items())}
        shares = []
        for modality, reports in found.items():
            believed = [report for report in reports if report.at_ms <= now_ms + CLOCKS_APART_MS] or reports
            newest = max(believed, key=lambda report: report.at_ms)
            recent = [report for report in believed if report.at_ms > newest.at_ms - RECENT_MS]
            for field in newest.carried:
                # before a change of the configuration it was not counted
                counted = [report for report in recent if field in report.carried]
                events = sum(report.events for report in counted)
                carried = sum(report.carried[field] for report in counted)
                shares.append(FieldShare(modality, field, carried / max(events, 1), events, newest.at_ms))
        return shares
