"""Which dead letters were replayed: marks in the dead-letter topic itself.

A mark is a record with the header `replayed` and JSON `{"v": 1, "offsets": [[first, last], …]}`: letters of *the same
partition* that the raw topic has acknowledged. It comes after its letters and the topic is never compacted, so a mark
lives exactly as long as what it speaks of, every machine sees it, and whoever purges the letters purges it as well
(docs/adr/0008). A mark that got lost costs a repetition, which `event_id` makes harmless.
"""

from __future__ import annotations

import json
from array import array
from collections import Counter
from collections.abc import Iterable, Sequence

import numpy as np

VERSION = 1
MAX_RANGES = 10_000
"""Of one mark: some 300 KB."""

Range = tuple[int, int]
"""First and last offset."""

_REPLAYED = 0x8000
_MAX_LABELS = _REPLAYED - 1


def pack_replay_marks(offsets: Iterable[int]) -> list[bytes]:
    """Values of the marks (usually one) for letters of one partition."""
    ranges: list[list[int]] = []
    for offset in sorted(set(offsets)):
        if ranges and ranges[-1][1] == offset - 1:
            ranges[-1][1] = offset
        else:
            ranges.append([offset, offset])
    return [
        json.dumps({"v": VERSION, "offsets": ranges[at : at + MAX_RANGES]}, separators=(",", ":")).encode()
        for at in range(0, len(ranges), MAX_RANGES)
    ]


def unpack_replay_mark(value: bytes | None) -> list[Range] | None:
    """Ranges of a mark; None for what is none, such as a foreign record with our header."""
    try:
        mark = json.loads(value or b"")
        if mark["v"] != VERSION:
            return None
        return [(int(first), int(last)) for first, last in mark["offsets"]]
    except (ValueError, TypeError, KeyError, RecursionError):
        return None


class LetterTable:
    """Label and replayed flag of every letter that was noted, two bytes for each offset of the topic."""

    def __init__(self) -> None:
        self._labels: list[str] = []
        self._numbers: dict[str, int] = {}
        self._first: dict[int, int] = {}
        self._cells: dict[int, array[int]] = {}

    def note(self, partition: int, offset: int, label: str) -> None:
        """A letter; offsets of a partition must grow."""
        number = self._numbers.get(label)
        if number is None:
            number = self._numbers[label] = min(len(self._labels) + 1, _MAX_LABELS)
            self._labels.append(label)
        cells = self._cells.setdefault(partition, array("H"))
        gap = offset - self._first.setdefault(partition, offset) - len(cells)
        cells.frombytes(bytes(gap * cells.itemsize))
        cells.append(number)

    def mark(self, partition: int, ranges: Sequence[Range]) -> None:
        """A mark was met. What it names and was not noted is passed over."""
        if (cells := self._cells.get(partition)) is None:
            return
        low = self._first[partition]
        flags = np.frombuffer(cells, np.uint16)
        for first, last in ranges:
            part = flags[max(first - low, 0) : max(last + 1 - low, 0)]
            part[part > 0] |= _REPLAYED

    def replayed(self, partition: int, offset: int) -> bool:
        """Whether a noted letter was marked."""
        return bool(self._cells[partition][offset - self._first[partition]] & _REPLAYED)

    def replayed_counts(self) -> Counter[str]:
        """Marked letters by label."""
        counts: Counter[str] = Counter()
        for cells in self._cells.values():
            found = np.frombuffer(cells, np.uint16)
            numbers, times = np.unique(found[found >= _REPLAYED] - _REPLAYED, return_counts=True)
            for number, n in zip(numbers.tolist(), times.tolist(), strict=True):
                counts[self._labels[number - 1]] += n
        return counts
