"""Where a modality's rows are cut into chunks: a function of the event ids alone, stable under append, local under all.

A row is marked by a hash of its event id. Reading in time order, a chunk ends before
  * an anchor (1 row in 64), always;
  * a cut mark (1 row in 12), once the chunk holds `MIN_ROWS`;
  * any row, once the chunk holds `MAX_ROWS`.
Reading goes one way, so appended rows never move an earlier cut. A row that comes late or goes away can move cuts
up to the next anchor at most, and in practice up to the next mark: the two readings agree again at the first mark
that finds both with `MIN_ROWS`. Mean length is about 15 rows, and every chunk fits one page of `MAX_ROWS`.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

VERSION = 1
"""Part of the model id: other cuts are another model."""

MIN_ROWS = 8
MAX_ROWS = 24

_CUT_ONE_IN = 12
_ANCHOR_ONE_IN = 64


def marks(names: Sequence[str]) -> NDArray[np.uint32]:
    """A well-mixed 32-bit hash per name (CRC-32 alone is linear: runs of serial ids would give runs of marks)."""
    h = np.fromiter(map(crc32, map(str.encode, names)), np.uint32, len(names))
    h ^= h >> np.uint32(16)
    h *= np.uint32(0x7FEB352D)
    h ^= h >> np.uint32(15)
    h *= np.uint32(0x846CA68B)
    h ^= h >> np.uint32(16)
    return h


def is_anchor(hashes: NDArray[np.uint32]) -> NDArray[np.bool_]:
    """Rows before which there is a cut whatever surrounds them."""
    anchors: NDArray[np.bool_] = (hashes >> np.uint32(16)) % _ANCHOR_ONE_IN == 0
    return anchors


def cut(names: Sequence[str]) -> NDArray[np.int64]:
    """First rows of the chunks of one modality, and one past the last: int64 (chunks + 1,); (1,) when there are none.

    Args:
        names: event ids (tabular: field names) in the window's order.
    """
    return cut_each([names])[0]


def cut_each(modalities: Sequence[Sequence[str]]) -> list[NDArray[np.int64]]:
    """`cut` of several modalities, hashed in one go."""
    if not modalities:
        return []
    hashes = marks([*chain.from_iterable(modalities)])
    anchors = is_anchor(hashes)
    rows = np.flatnonzero(anchors | (hashes % _CUT_ONE_IN == 0))
    ends = np.cumsum([len(names) for names in modalities])
    last = np.searchsorted(rows, ends).tolist()
    places, forced = rows.tolist(), anchors[rows].tolist()
    return [
        _cut(len(names), end - len(names), places[a:b], forced[a:b])
        for names, end, a, b in zip(modalities, ends.tolist(), [0, *last[:-1]], last, strict=True)
    ]


def _cut(n: int, before: int, candidates: list[int], anchors: list[bool]) -> NDArray[np.int64]:
    """before: rows of other modalities that candidates count too."""
    if n == 0:
        return np.zeros(1, np.int64)
    starts = [0]
    start = 0
    for candidate, anchor in zip(candidates, anchors, strict=True):
        row = candidate - before
        while row - start >= MAX_ROWS:
            start += MAX_ROWS
            starts.append(start)
        if row > start and (anchor or row - start >= MIN_ROWS):
            start = row
            starts.append(start)
    while n - start > MAX_ROWS:
        start += MAX_ROWS
        starts.append(start)
    return np.array([*starts, n], np.int64)
