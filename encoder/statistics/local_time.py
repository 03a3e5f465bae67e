"""Hours and days of event times in a time zone, for whole arrays: offsets from UTC as a table of their changes."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, tzinfo
from functools import cache
from typing import NamedTuple
from zoneinfo import ZoneInfo

import numpy as np
from numpy.typing import NDArray

HOUR_MS = 3_600_000
DAY_MS = 24 * HOUR_MS

_FIRST_YEAR, _LAST_YEAR = 1970, 2100
"""Changes of offset in between are known; before and after, the nearest offset holds."""
_EPOCH_WEEKDAY = 3
"""1970-01-01 was a Thursday; Monday is 0."""

Ints = NDArray[np.int64]


class Offsets(NamedTuple):
    """since: ms, ascending, when an offset begins, the first at the beginning of time. offset: ms east of UTC."""

    since: Ints
    offset: Ints

    def local(self, ts: Ints) -> Ints:
        """Times, ms, as the zone's clocks show them: ms since 1970-01-01 00:00 local."""
        since = np.searchsorted(self.since, ts, side="right") - 1 if len(self.since) > 1 else 0
        local: Ints = ts + self.offset[since]
        return local


@cache
def offsets(zone: str) -> Offsets:
    """Of a time zone by its IANA name.

    Raises:
        ZoneInfoNotFoundError: this machine knows no such zone.
    """
    info = ZoneInfo(zone)
    if info.key == "UTC":
        return Offsets(np.array([np.iinfo(np.int64).min]), np.zeros(1, np.int64))
    start, end = (datetime(year, 1, 1, tzinfo=UTC) for year in (_FIRST_YEAR, _LAST_YEAR))
    since, offset = [np.iinfo(np.int64).min], [_offset(start, info)]
    low = start
    # no zone has changed twice within a day
    while low < end:
        high = low + timedelta(days=1)
        if _offset(high, info) != offset[-1]:
            since.append(_change(low, high, info))
            offset.append(_offset(high, info))
        low = high
    return Offsets(np.array(since, np.int64), np.array(offset, np.int64))


def hours_of_day(local: Ints) -> Ints:
    """0 to 23."""
    return (local // HOUR_MS) % 24


def days(local: Ints) -> Ints:
    """Since 1970-01-01."""
    return local // DAY_MS


def weekdays(day: Ints) -> Ints:
    """Of days since 1970-01-01: 0 = Monday, to 6."""
    return (day + _EPOCH_WEEKDAY) % 7


def _offset(moment: datetime, info: tzinfo) -> int:
    offset = moment.astimezone(info).utcoffset()
    return 0 if offset is None else round(offset.total_seconds() * 1000)


def _change(low: datetime, high: datetime, info: tzinfo) -> int:
    """The moment, ms, between two with different offsets at which the second begins, to the minute."""
    before = _offset(low, info)
    while high - low > timedelta(minutes=1):
        middle = low + (high - low) / 2
        low, high = (middle, high) if _offset(middle, info) == before else (low, middle)
    return int(high.timestamp() // 60) * 60_000
