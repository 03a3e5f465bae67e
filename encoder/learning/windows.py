"""A user's window at any moment of a history: what the token buffer would hold then, without one."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from encoder.learning.history import History, ModalityHistory
from store.base.settings import ModalityKind, ModalitySettings
from store.window.memory import BLOCK_MS, NO_MEMORY, Block, Memory, fixed_totals
from store.window.rows import Summary
from store.window.user_window import ModalityWindow, UserWindow


class Windows:
    """Windows of one history. Equal to the token buffer's, whose stream time is the moment asked for, but for `covers`
    and `ingested_at`, which a history has not."""

    def __init__(self, history: History, granularity_ms: int) -> None:
        """granularity_ms: step in which the windows' lower edge moves (`processor.expiry_granularity_seconds`)."""
        self.history = history
        self._granularity_ms = granularity_ms
        self._exact = history.vectors.astype(np.float32)

    def at(self, user: int, now: int, *, includes_now: bool = False) -> UserWindow:
        """Of a user's place in the history, from what happened before `now`, ms; at it too if `includes_now`."""
        found = {}
        side = "right" if includes_now else "left"
        for name, own in self.history.modalities.items():
            start, end = int(own.starts[user]), int(own.starts[user + 1])
            end = start + int(np.searchsorted(own.ts[start:end], now, side=side))  # type: ignore[call-overload]
            if end > start:
                settings = self.history.settings[name]
                floor = now // self._granularity_ms * self._granularity_ms - settings.window_ms
                read = self._fields if settings.kind is ModalityKind.TABULAR else self._events
                found[name] = read(own, start, end, floor, settings)
        return UserWindow(self.history.users[user], found)

    def _events(
        self, own: ModalityHistory, start: int, end: int, floor: int, settings: ModalitySettings
    ) -> ModalityWindow:
        ts = own.ts[start:end]
        first = start + max(int(np.searchsorted(ts, floor)), end - start - settings.max_events)
        memory = NO_MEMORY
        if settings.memory_ms:
            oldest = start + int(np.searchsorted(ts, floor + settings.window_ms - settings.memory_ms))
            memory = _memory(own, oldest, first)
        return self._window(own, np.arange(first, end), int(own.ts[first]) if first < end else 0, int(ts[-1]), memory)

    def _fields(
        self, own: ModalityHistory, start: int, end: int, floor: int, settings: ModalitySettings
    ) -> ModalityWindow:
        # the newest row of each field; the rows are in order of (time, event id)
        latest = {own.names[row]: row for row in range(start, end) if own.ts[row] >= floor}
        kept = sorted(latest.values())[-settings.max_events :]
        oldest = int(own.ts[kept[0]]) if kept else 0
        shown = sorted((row for row in kept if own.vectors[row] >= 0), key=lambda row: (own.ts[row], own.names[row]))
        return self._window(own, np.array(shown, np.int64), oldest, int(own.ts[end - 1]), NO_MEMORY)

    def _window(
        self, own: ModalityHistory, rows: NDArray[np.int64], oldest: int, newest: int, memory: Memory
    ) -> ModalityWindow:
        of = own.vectors[rows]
        summary = Summary(
            len(rows),
            oldest,
            newest,
            self._exact[of].sum(axis=0),
            tuple(own.logs[rows].sum(axis=0).tolist()),
            tuple(own.present[rows].sum(axis=0).tolist()),
            {},
            0,
            memory=memory,
        )
        names = [name.decode() for name in own.names[rows].tolist()]
        return ModalityWindow(summary, own.ts[rows], names, own.numbers[rows], self.history.vectors[of])


def _memory(own: ModalityHistory, start: int, end: int) -> Memory:
    """Of rows that are in order of time."""
    if start >= end:
        return NO_MEMORY
    numbers = own.ts[start:end] // BLOCK_MS
    cuts = np.flatnonzero(np.diff(numbers, prepend=-1))
    raw, present = own.numbers[start:end], own.present[start:end]
    totals = fixed_totals(np.where(present, raw, 0.0))
    # in two parts: 8,192 rows at the limit are beyond 64 bits
    high, low = (np.add.reduceat(part, cuts).tolist() for part in (totals >> _HALF, totals & (1 << _HALF) - 1))
    rows = np.diff(np.append(cuts, end - start)).tolist()
    logs = np.add.reduceat(own.logs[start:end], cuts).tolist()
    counts = np.add.reduceat(present.astype(np.int64), cuts).tolist()
    blocks = {
        number: Block(
            rows[i],
            tuple(logs[i]),
            tuple((up << _HALF) + down for up, down in zip(high[i], low[i], strict=True)),
            tuple(counts[i]),
        )
        for i, number in enumerate(numbers[cuts].tolist())
    }
    return Memory(end - start, int(own.ts[start]), blocks)


_HALF = 24
