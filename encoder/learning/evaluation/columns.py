"""What methods read, gathered in one pass over the windows of the moments that tasks ask about."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol

import numpy as np

from encoder.learning.baselines.probe import Columns
from encoder.learning.moments import Moments
from encoder.learning.windows import Windows
from encoder.statistics import statistics
from store.window.user_window import UserWindow

_BATCH = 256


class Gatherer(Protocol):
    """Takes something of each window."""

    def take(self, rows: slice, windows: Sequence[UserWindow]) -> None:
        """Of these moments; each window stands at its moment."""


def gather(
    windows: Windows,
    asked: Moments,
    gatherers: Sequence[Gatherer],
    on_progress: Callable[[int, int], object] = lambda done, of: None,
) -> None:
    """One pass: each window is cut once. Memory: one batch of windows. Gatherers take a batch each in its own thread.

    Args:
        on_progress: called with the moments done, and of how many.
    """
    count = len(asked.users)
    with ThreadPoolExecutor(max(1, len(gatherers))) as together:
        for start in range(0, count, _BATCH):
            rows = slice(start, min(start + _BATCH, count))
            moments = zip(asked.users[rows], asked.now[rows], asked.includes_now[rows], strict=True)
            batch = [
                windows.at(int(user), int(now), includes_now=bool(includes_now)).at(int(now))
                for user, now, includes_now in moments
            ]
            for taken in [together.submit(gatherer.take, rows, batch) for gatherer in gatherers]:
                taken.result()
            on_progress(rows.stop, count)


class Statistics:
    """columns: float32 (m, statistics), what the user's tokens are told."""

    def __init__(self, windows: Windows, moments: int, zone: str) -> None:
        self._modalities, self._zone = windows.history.settings, zone
        self.columns: Columns = np.zeros((moments, len(statistics.names(self._modalities))), np.float32)

    def take(self, rows: slice, windows: Sequence[UserWindow]) -> None:
        """As the worker computes them."""
        self.columns[rows] = statistics.compute(windows, self._modalities, self._zone)


class TextPool:
    """columns: float32 (m, dim), the mean text vector of all rows of the window; zeros where it is empty."""

    def __init__(self, windows: Windows, moments: int) -> None:
        self.columns: Columns = np.zeros((moments, windows.history.dim), np.float32)

    def take(self, rows: slice, windows: Sequence[UserWindow]) -> None:
        """From the sums that summaries keep."""
        for row, window in zip(range(rows.start, rows.stop), windows, strict=True):
            found = [m.summary for m in window.modalities.values() if m.summary.rows]
            if found:
                self.columns[row] = sum(s.vector_sum for s in found) / sum(s.rows for s in found)
