"""The moments at which tasks ask, each once, and users' statistics at them, computed as the worker computes them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from enum import StrEnum
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from encoder.learning.tasks.rows import TaskRows
from encoder.learning.windows import Windows
from encoder.statistics import statistics
from store.window.silence import SilenceTicks
from store.window.user_window import UserWindow

_BATCH = 256


class Stand(StrEnum):
    """What time a vector stands at that is read at a moment.

    NOW: the moment. TICKS: the last tick time of the user's silence, as in the product. NEWEST: the user's newest
    event, though rows have expired since, as if silence were not heard. THEN: as it was computed when that event came.
    """

    NOW = "now"
    TICKS = "ticks"
    NEWEST = "newest_event"
    THEN = "computed_then"


class Moments(NamedTuple):
    """Distinct moments of several tasks. users, now: int64 (m,). includes_now: bool (m,). place: per task int64 (its
    rows,), where each of its rows is in them."""

    users: NDArray[np.int64]
    now: NDArray[np.int64]
    includes_now: NDArray[np.bool_]
    place: dict[str, NDArray[np.intp]]


def moments(tasks: Sequence[TaskRows]) -> Moments:
    """The moments at which the tasks ask, each once."""
    keys = np.concatenate(
        [np.stack([t.users, t.now, np.full(len(t.users), t.includes_now, np.int64)], axis=1) for t in tasks]
    )
    distinct, place = np.unique(keys, axis=0, return_inverse=True)
    ends = np.cumsum([len(t.users) for t in tasks])
    parts = np.split(place.reshape(-1), ends[:-1])
    users, now, includes_now = distinct.T
    return Moments(users, now, includes_now.astype(bool), {t.name: p for t, p in zip(tasks, parts, strict=True)})


def statistics_at(
    windows: Windows,
    asked: Moments,
    stands: Sequence[Stand],
    *,
    ticks: SilenceTicks | None = None,
    zone: str = "UTC",
    on_progress: Callable[[int, int], object] = lambda done, of: None,
) -> dict[Stand, NDArray[np.float32]]:
    """Per stand float32 (m, len(statistics.names(modalities))). Memory: the matrices and one batch of windows.

    Args:
        ticks: for `Stand.TICKS`. zone: IANA name of the time zone of hours and days.
        on_progress: called with the moments done, and of how many.
    """
    modalities, count = windows.history.settings, len(asked.users)
    found = {stand: np.zeros((count, len(statistics.names(modalities))), np.float32) for stand in stands}
    for start in range(0, count, _BATCH):
        rows = slice(start, min(start + _BATCH, count))
        batch = [
            _Seen(windows, int(user), int(now), bool(includes_now), ticks)
            for user, now, includes_now in zip(
                asked.users[rows], asked.now[rows], asked.includes_now[rows], strict=True
            )
        ]
        for stand, matrix in found.items():
            matrix[rows] = statistics.compute([seen.standing(stand) for seen in batch], modalities, zone)
        on_progress(rows.stop, count)
    return found


class _Seen:
    """One user at one moment."""

    def __init__(self, windows: Windows, user: int, now: int, includes_now: bool, ticks: SilenceTicks | None) -> None:
        self._windows = windows
        self._user = user
        self._now = now
        self._ticks = ticks
        self._window = windows.at(user, now, includes_now=includes_now)

    def standing(self, stand: Stand) -> UserWindow:
        newest = self._window.newest_event
        if stand is Stand.NOW:
            return self._window.at(self._now)
        if stand is Stand.NEWEST or not newest:
            return self._window
        if stand is Stand.THEN:
            return self._windows.at(self._user, newest, includes_now=True)
        if self._ticks is None:
            raise ValueError("ticks stand at times of silence: give `ticks`")
        return self._window.at(self._ticks.stands_at(self._window.user_id, newest, self._now))
