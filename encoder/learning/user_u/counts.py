"""How many rows, and how much, any user has between any two moments: for many at once, from sums over a history."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from encoder.learning.history import History, ModalityHistory

Ints = NDArray[np.int64]
Doubles = NDArray[np.float64]
Flags = NDArray[np.bool_]

DAY_MS = 86_400_000
_USER_BITS = 42
"""Times within a history, ms, stay below 2**42: 139 years."""


class Counts:
    """Of one history. A span is [start, end), ms; users are places in the history, int64 (n,)."""

    def __init__(self, history: History) -> None:
        self.history = history
        times = [own.ts for own in history.modalities.values() if len(own.ts)]
        self._origin = min((int(ts.min()) for ts in times), default=0)
        self.end = max((int(ts.max()) for ts in times), default=0) + 1
        """Just after the newest event, ms: what lies later is not known."""
        self.start = self._origin
        self._keys = {name: self._key(_owners(own), own.ts) for name, own in history.modalities.items()}
        self._sums: dict[tuple[str, str, int], Doubles] = {}

    def _key(self, users: Ints, ts: Ints) -> Ints:
        return (users << _USER_BITS) + np.clip(ts - self._origin, 0, (1 << _USER_BITS) - 1)

    def _bounds(self, modality: str, users: Ints, start: Ints, end: Ints) -> tuple[Ints, Ints]:
        keys = self._keys[modality]
        return (
            np.searchsorted(keys, self._key(users, start)).astype(np.int64),
            np.searchsorted(keys, self._key(users, np.maximum(end, start))).astype(np.int64),
        )

    def rows(self, modality: str, users: Ints, start: Ints, end: Ints) -> Ints:
        """How many rows of a modality: int64 (n,)."""
        first, last = self._bounds(modality, users, start, end)
        return last - first

    def newest(self, modality: str, users: Ints, before: Ints) -> Ints:
        """Time of each user's newest row before a moment, int64 (n,), ms; 0 where there is none."""
        own = self.history.modalities[modality]
        last = self._bounds(modality, users, before, before)[0]
        return np.where(last > own.starts[users], own.ts[np.maximum(last - 1, 0)] if len(own.ts) else 0, 0)

    def total(self, modality: str, number: int, users: Ints, start: Ints, end: Ints) -> Doubles:
        """Sum of a number, missing ones left out: float64 (n,)."""
        return self._summed((modality, "total", number), users, start, end)

    def positive(self, modality: str, number: int, users: Ints, start: Ints, end: Ints) -> Ints:
        """How many rows have a number above zero: int64 (n,)."""
        return self._summed((modality, "positive", number), users, start, end).astype(np.int64)

    def on_topic(
        self, modality: str, topics: NDArray[np.int64], topic: int, users: Ints, start: Ints, end: Ints
    ) -> Ints:
        """How many rows have a text of a topic: int64 (n,). topics: int64 (texts,), the topic of each text."""
        key = (modality, "topic", topic)
        if key not in self._sums:
            of = self.history.modalities[modality].vectors
            self._sums[key] = _before(((of >= 0) & (topics[np.maximum(of, 0)] == topic)).astype(np.float64))
        return self._summed(key, users, start, end).astype(np.int64)

    def _summed(self, key: tuple[str, str, int], users: Ints, start: Ints, end: Ints) -> Doubles:
        modality, what, number = key
        if key not in self._sums:
            column = self.history.modalities[modality].numbers[:, number].astype(np.float64)
            self._sums[key] = _before(np.nan_to_num(column) if what == "total" else (column > 0).astype(np.float64))
        first, last = self._bounds(modality, users, start, end)
        sums = self._sums[key]
        return sums[last] - sums[first]


def _owners(own: ModalityHistory) -> Ints:
    return np.repeat(np.arange(len(own.starts) - 1, dtype=np.int64), np.diff(own.starts))


def _before(values: Doubles) -> Doubles:
    return np.concatenate([np.zeros(1), np.cumsum(values)])
