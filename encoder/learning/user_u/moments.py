"""Which users at which moments: cuts at random times of a history, as a product would meet them."""

from __future__ import annotations

from datetime import datetime
from typing import NamedTuple
from zoneinfo import ZoneInfo

import numpy as np
from numpy.typing import NDArray

from encoder.learning.user_u.aspects import REGULAR_DAYS
from encoder.learning.user_u.counts import DAY_MS, Counts, Flags, Ints
from store.base.settings import ModalityKind

MIDNIGHT_SHARE, EVENT_SHARE = 0.6, 0.2
"""Of the cuts: at a local midnight, right after one of the user's events; the others at any time."""


class Cuts(NamedTuple):
    """users: int64 (n,), places in the history. moments: int64 (n,), ms. includes_moment: bool (n,)."""

    users: Ints
    moments: Ints
    includes_moment: Flags

    def take(self, rows: NDArray[np.intp] | slice) -> Cuts:
        """Some of them."""
        return Cuts(self.users[rows], self.moments[rows], self.includes_moment[rows])

    def plus(self, other: Cuts) -> Cuts:
        """These and others."""
        users, moments, includes = (np.concatenate(pair) for pair in zip(self, other, strict=True))
        return Cuts(users, moments, includes)


def draw(counts: Counts, number: int, *, start: int, end: int, zone: str, seed: int) -> Cuts:
    """Cuts in [start, end), ms, of users with events in the 90 days before; each user about equally often.

    Fewer than `number` only where nobody has events.
    """
    rng = np.random.default_rng([seed, 1])
    users, moments, includes = [], [], []
    have, tries = 0, 0
    people = len(counts.history.users)
    while have < number and tries < 50 and people:
        tries += 1
        size = 2 * (number - have) + 16
        who = rng.integers(0, people, size)
        when = rng.integers(start, max(end, start + 1), size)
        kind = rng.random(size)
        at_event = kind >= 1 - EVENT_SHARE
        when = np.where(kind < MIDNIGHT_SHARE, _midnights(when, zone), when)
        when = np.where(at_event, _newest(counts, who, when), when)
        kept = _active(counts, who, when, at_event) & (when >= start)
        kept &= np.cumsum(kept) <= number - have
        users.append(who[kept])
        moments.append(when[kept])
        includes.append(at_event[kept])
        have += int(kept.sum())
    if not users:
        return Cuts(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0, bool))
    return Cuts(np.concatenate(users), np.concatenate(moments), np.concatenate(includes))


def _sequences(counts: Counts) -> list[str]:
    return [name for name, m in counts.history.settings.items() if m.kind is ModalityKind.EVENTS]


def _active(counts: Counts, users: Ints, moments: Ints, at_event: Flags) -> Flags:
    start = moments - REGULAR_DAYS * DAY_MS
    ends = moments + at_event
    return np.asarray(sum(counts.rows(name, users, start, ends) for name in _sequences(counts)) > 0, bool)


def _newest(counts: Counts, users: Ints, moments: Ints) -> Ints:
    """Each user's newest event before a moment, ms; 0 where there is none."""
    newest: Ints = np.max([counts.newest(name, users, moments) for name in _sequences(counts)], axis=0, initial=0)
    return newest


def _midnights(moments: Ints, zone: str) -> Ints:
    """The local midnight before each moment."""
    local = ZoneInfo(zone)
    hours = moments // 3_600_000
    distinct, place = np.unique(hours, return_inverse=True)
    found = [
        datetime.fromtimestamp(hour * 3600, local).replace(hour=0, minute=0, second=0).timestamp()
        for hour in distinct.tolist()
    ]
    return (np.array(found) * 1000).astype(np.int64)[place.reshape(-1)]
