"""When a user who is silent is embedded again, and at which time the vector then stands. Pure (docs/adr/0014).

A user's *tick times* are a function of the user's newest event and id alone. Time is cut, for each user at another
phase, into slots of `days[0]` days. A slot's beginning is a tick time of a silence of `age` days (whole slots between
the newest event's and this one) where it lies on the grid of that age: multiples of days[i] for ages in
[days[i], days[i + 1]), after the last up to twice its length. Each grid is part of the finer ones, so:

    stands_at(newest, horizon) never goes back, whatever comes: neither when the horizon moves on, nor when an event
    comes late, newer than the newest that was known and older than the tick at which the vector stood.

Counted from the newest event instead ("1, 2, 4, … days after it") the second would not hold.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import NamedTuple

from store.base.silence_days import check_days

DAY_MS = 86_400_000
HOUR_MS = 3_600_000


class _Level(NamedTuple):
    """Ages in [first, end), in slots, tick at multiples of `step` slots."""

    first: int
    end: int
    step: int


class SilenceTicks:
    """Tick times for one configuration. Times are ms since 1970 UTC."""

    def __init__(self, days: Sequence[int]) -> None:
        """days: of silence, rising, each a divisor of the next; empty = a vector always stands at its newest event.

        Raises:
            ValueError: they do not divide each other.
        """
        check_days(days)
        self.days = tuple(days)
        self._unit = DAY_MS * (days[0] if days else 1)
        self._period = DAY_MS * (days[-1] if days else 1)
        slots = [day // days[0] for day in days]
        ends = [*slots[1:], *(2 * last for last in slots[-1:])]
        self._levels = [_Level(first, end, first) for first, end in zip(slots, ends, strict=True)]

    def __bool__(self) -> bool:
        return bool(self.days)

    def stands_at(self, user_id: str, newest: int, horizon: int) -> int:
        """The last tick time up to and with `horizon`; `newest` where there is none."""
        phase = self._phase(user_id)
        since, upto = (newest - phase) // self._unit, (horizon - phase) // self._unit
        for first, end, step in reversed(self._levels):
            tick = min(upto, since + end - 1) // step * step
            if tick >= since + first:
                return phase + tick * self._unit
        return newest

    def next_after(self, user_id: str, newest: int, after: int) -> int | None:
        """The first tick time after `after`; None where there is none."""
        phase = self._phase(user_id)
        since, left = (newest - phase) // self._unit, (after - phase) // self._unit
        for first, end, step in self._levels:
            tick = -(-max(left + 1, since + first) // step) * step
            if tick < since + end:
                return phase + tick * self._unit
        return None

    def _phase(self, user_id: str) -> int:
        """Spreads users over the longest grid, and with it over all of them. Stable: it decides what is published."""
        digest = hashlib.blake2b(user_id.encode(), digest_size=8, person=b"silence").digest()
        return int.from_bytes(digest) % self._period


def floor_hour(time_ms: int) -> int:
    """The hour that it lies in, ms."""
    return time_ms // HOUR_MS * HOUR_MS
