"""Rows of many users' windows as flat arrays, so that what is counted of them costs a few passes in all.

A *segment* is one (modality, user): number `modality * users + user`. A *series* is one (number of a modality, user):
`column * users + user`, columns counted over the modalities in their order. Rows stand by segment, then by time.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from store.base.settings import ModalitySettings
from store.window.memory import TOTAL_SCALE, fixed_totals
from store.window.rows import Summary
from store.window.summary import NUMBER_SCALE
from store.window.user_window import UserWindow, newest_event

NEWEST_ROWS = 8
"""Rows of the newest time, at most so many, whose mean vector stands for what a user does now: a basket, an offer."""
STEP = 1 / TOTAL_SCALE
"""Numbers are multiples of it, and limited, as memory keeps them: totals stay finite."""

Ints = NDArray[np.int64]
Doubles = NDArray[np.float64]
Floats = NDArray[np.float32]

_TEXT_VALUES = 16
"""Components of a vector by which texts are told apart."""
_MIX = np.random.default_rng(0).integers(1 << 62, size=_TEXT_VALUES // 4, dtype=np.uint64) * np.uint64(2) + np.uint64(1)


class Cells(NamedTuple):
    """Numbers that are there: those of rows, by segment, row and column, or of memory blocks.

    series: int64 (cells,). at: int64 (cells,), the row or block. values: float64 (cells,), on the grid of `STEP`.
    """

    series: Ints
    at: Ints
    values: Doubles


class Blocks(NamedTuple):
    """What memory holds, an entry per segment and block.

    segment, block: int64 (entries,). rows: float64 (entries,), how many. oldest: int64 (entries,), ms, of the oldest
    row of the segment's memory.
    totals: of each number that the block has. logs, counts: float64 (cells,), sums of signed logs, and how many.
    """

    segment: Ints
    block: Ints
    rows: Doubles
    oldest: Ints
    totals: Cells
    logs: Doubles
    counts: Doubles


class WindowArrays(NamedTuple):
    """Windows of `users` users over `modalities` modalities.

    columns: numbers of all modalities. segment_of_series: int64 (series,). as_of: int64 (users,), ms.
    lengths: int64 (segments,), rows. segment, ts: int64 (rows,). texts: uint64 (rows,), equal for equal vectors.
    numbers: of the rows. newest: int64 (segments,), newest event time seen, ms, 0 where there is nothing.
    memory: what lies before the windows; by_age: bool (segments,), by its age alone: the window is not full.
    window_ms: int64 (segments,).
    means, recent: float32 (modalities, users, dim), mean vector of all rows and of the newest; zeros where there are
    none.
    """

    users: int
    modalities: int
    columns: int
    segment_of_series: Ints
    as_of: Ints
    lengths: Ints
    segment: Ints
    ts: Ints
    texts: NDArray[np.uint64]
    numbers: Cells
    newest: Ints
    by_age: NDArray[np.bool_]
    window_ms: Ints
    memory: Blocks
    means: Floats
    recent: Floats


def gather(windows: Sequence[UserWindow], modalities: Mapping[str, ModalitySettings], dim: int) -> WindowArrays:
    """Bring windows together. Modalities that are not named are left out; pure.

    Args:
        dim: of event vectors.
    """
    users, count = len(windows), len(modalities)
    lengths = np.zeros(count * users, np.int64)
    newest, seen = np.zeros((2, count * users), np.int64)
    sums = np.zeros((count * users, dim), np.float32)
    ts, texts, recent, recent_of, cells = [], [], [], [], _CellLists()
    memory = _Memory(users)
    max_events = np.array([settings.max_events for settings in modalities.values()], np.int64).repeat(users)
    window_ms = np.array([settings.window_ms for settings in modalities.values()], np.int64).repeat(users)
    rows = column = 0
    modality_of: list[int] = []
    for modality, (name, settings) in enumerate(modalities.items()):
        width = settings.number_width
        modality_of += [modality] * width
        for user, window in enumerate(windows):
            own = window.modalities.get(name)
            if own is None:
                continue
            segment, n = modality * users + user, len(own.ts)
            if n:
                lengths[segment] = n
                sums[segment] = own.summary.vector_sum
                ts.append(own.ts)
                texts.append(own.vectors[:, :_TEXT_VALUES])
                last = own.ts[-NEWEST_ROWS:]
                recent.append(own.vectors[-NEWEST_ROWS:][last == last[-1]])
                recent_of.append(segment)
                if width:
                    cells.add(own.numbers[:, :width], column, user, users, rows)
                rows += n
            seen[segment] = newest_event((own.summary,))
            if memory.add(own.summary, segment, column, width, user) or n:
                newest[segment] = own.summary.newest
        column += width
    all_ts = np.maximum(np.concatenate(ts), 0) if ts else np.zeros(0, np.int64)
    ends = np.cumsum(lengths)
    held = lengths > 0
    # of rows and summary, which a buffer reads together (docs/adr/0012), whichever is newer
    newest[held] = np.maximum(newest[held], all_ts[ends[held] - 1])
    as_of = np.array([window.now for window in windows], np.int64)
    as_of = np.maximum(as_of, np.maximum(newest, seen).reshape(count, users).max(0, initial=0))
    means = sums / np.maximum(lengths, 1).astype(np.float32)[:, None]
    return WindowArrays(
        users=users,
        modalities=count,
        columns=column,
        segment_of_series=(np.array(modality_of, np.int64)[:, None] * users + np.arange(users)).ravel(),
        as_of=as_of,
        lengths=lengths,
        segment=np.repeat(np.arange(count * users), lengths),
        ts=all_ts,
        texts=_text_keys(texts),
        numbers=cells.join(),
        newest=newest,
        by_age=lengths < max_events,
        window_ms=window_ms,
        memory=memory.join(),
        means=means.reshape(count, users, dim),
        recent=_recent_means(recent, recent_of, count * users, dim).reshape(count, users, dim),
    )


def signed_log(x: Doubles) -> Doubles:
    """sign(x) * log(1 + |x|): magnitudes on one scale, signs kept."""
    return np.sign(x) * np.log1p(np.abs(x))


def _recent_means(vectors: Sequence[NDArray[np.float16]], segments: Sequence[int], count: int, dim: int) -> Floats:
    means = np.zeros((count, dim), np.float32)
    if segments:
        sizes = np.array([len(v) for v in vectors])
        sums = np.add.reduceat(np.concatenate(vectors).astype(np.float32), np.cumsum(sizes) - sizes, axis=0)
        means[segments] = sums / sizes.astype(np.float32)[:, None]
    return means


def _text_keys(vectors: Sequence[NDArray[np.float16]]) -> NDArray[np.uint64]:
    if not vectors:
        return np.zeros(0, np.uint64)
    first = np.concatenate(vectors)
    if first.shape[1] < _TEXT_VALUES:
        first = np.pad(first, ((0, 0), (0, _TEXT_VALUES - first.shape[1])))
    keys: NDArray[np.uint64] = first.view(np.uint64) @ _MIX
    return keys


class _CellLists:
    """Numbers of the rows, gathered window by window."""

    def __init__(self) -> None:
        self._raw: list[Floats] = []
        self._series: list[Ints] = []
        self._rows: list[Ints] = []

    def add(self, numbers: Floats, column: int, user: int, users: int, row: int) -> None:
        n, width = numbers.shape
        self._raw.append(numbers.ravel())
        self._series.append(np.tile(np.arange(column, column + width) * users + user, n))
        self._rows.append(np.repeat(np.arange(row, row + n), width))

    def join(self) -> Cells:
        if not self._raw:
            return Cells(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0))
        raw = np.concatenate(self._raw)
        there = np.isfinite(raw)
        series, rows = np.concatenate(self._series), np.concatenate(self._rows)
        return Cells(series[there], rows[there], fixed_totals(raw[there]).astype(np.float64) * STEP)


class _Memory:
    """What lies before the windows, gathered window by window."""

    def __init__(self, users: int) -> None:
        self._users = users
        self._lengths: list[tuple[int, int, int]] = []
        self._numbers: list[int] = []
        self._rows: list[int] = []
        self._series: list[Ints] = []
        self._blocks: list[Ints] = []
        self._sums: list[int] = []
        self._totals: list[int] = []
        self._counts: list[int] = []

    def add(self, summary: Summary, segment: int, column: int, width: int, user: int) -> bool:
        """Whether there is any."""
        blocks, first = summary.memory.blocks, len(self._rows)
        if not summary.memory.rows:
            return False
        self._lengths.append((segment, summary.memory.oldest, len(blocks)))
        self._numbers += blocks
        self._rows += [block.rows for block in blocks.values()]
        if width and all(len(block.counts) == width for block in blocks.values()):  # else other numbers were configured
            self._series.append(np.tile(np.arange(column, column + width) * self._users + user, len(blocks)))
            self._blocks.append(np.repeat(np.arange(first, first + len(blocks)), width))
            for block in blocks.values():
                self._sums += block.sums
                self._totals += block.totals
                self._counts += block.counts
        return True

    def join(self) -> Blocks:
        lengths = np.array(self._lengths, np.int64).reshape(-1, 3)
        segment, oldest = lengths[:, :2].repeat(lengths[:, 2], axis=0).T
        counts = np.array(self._counts, np.float64)
        there = counts > 0
        series, at = (np.concatenate(each) if each else np.zeros(0, np.int64) for each in (self._series, self._blocks))
        totals = np.array(self._totals, np.float64) * STEP
        return Blocks(
            segment=segment,
            block=np.array(self._numbers, np.int64),
            rows=np.array(self._rows, np.float64),
            oldest=oldest,
            totals=Cells(series[there], at[there], totals[there]),
            logs=np.array(self._sums, np.float64)[there] / NUMBER_SCALE,
            counts=counts[there],
        )
