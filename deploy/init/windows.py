"""How long a window is worth keeping, and how many events of a user lie in one: from the rows' own rates. Pure."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import NamedTuple

from store.base.settings import MAX_EVENTS_LIMIT

DAYS = (1, 3, 7, 14, 30, 90, 180, 365, 730, 1825, 3650)
ENOUGH_EVENTS = 250
"""A longer window is not proposed where one user in twenty would have more in it: an embedding costs by them."""
LONGEST = 365
"""Days, unless users have fewer than FEW_EVENTS in them."""
FEW_EVENTS = 10
_DAY_MS = 86_400_000
_STEPS = (1, 2, 5, 10, 20, 30, 50, 75, 100, 150, 200, 250, 300, 400, 500, 750, MAX_EVENTS_LIMIT)


class WindowGuess(NamedTuple):
    """days, max_events: as proposed. usual, many: events of a user in such a window, median and 95th percentile.
    span_days: from the oldest to the newest event."""

    days: int
    max_events: int
    usual: int
    many: int
    span_days: float


def guess_window(times_by_user: Mapping[str, Sequence[int]]) -> WindowGuess:
    """times_by_user: event times of each user, ms; at least one."""
    ordered = [sorted(times) for times in times_by_user.values()]
    span = max(times[-1] for times in ordered) - min(times[0] for times in ordered)
    days = [n for i, n in enumerate(DAYS) if not i or DAYS[i - 1] * _DAY_MS < span]
    counts = {n: _counts(ordered, n * _DAY_MS) for n in days}
    chosen = days[0]
    for n in days:
        many = _at(counts[n], 0.95)
        if many <= ENOUGH_EVENTS and (n <= LONGEST or _at(counts[n], 0.5) < FEW_EVENTS):
            chosen = n
    found = counts[chosen]
    many = _at(found, 0.95)
    return WindowGuess(chosen, _rounded(many), _at(found, 0.5), many, span / _DAY_MS)


def largest_gap(times: Sequence[int]) -> int:
    """Between neighbours in time, ms."""
    ordered = sorted(times)
    return max((later - earlier for earlier, later in pairwise(ordered)), default=0)


def _counts(ordered: Sequence[Sequence[int]], window_ms: int) -> list[int]:
    """Of each user, the events in the window that ends with the newest; sorted."""
    return sorted(len(times) - bisect_left(times, times[-1] - window_ms) for times in ordered)


def _at(counts: Sequence[int], share: float) -> int:
    return counts[min(int(share * len(counts)), len(counts) - 1)]


def _rounded(many: int) -> int:
    return next((step for step in _STEPS if step >= many), MAX_EVENTS_LIMIT)
