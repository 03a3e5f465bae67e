"""In which order the rows of files are sent: file after file, or merged by event time. A function of the files alone.

To be merged, a file is read once to see whether it is in order itself; those that are not are sorted, together, in
bounded memory.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import msgpack

from stream.replay.external_sort import external_sort
from stream.replay.merge_order import merge_times
from stream.replay.replay import Outgoing, ReplayProgress, Router
from stream.replay.row_file import Row, RowFile

SHOWN = 10
"""So many places are named in the result."""
_EVERY = 256


class Merging(NamedTuple):
    """max_ahead_ms: what is further ahead of its file is in doubt. memory_bytes, directory: of `external_sort`."""

    max_ahead_ms: int = 30 * 86_400_000
    memory_bytes: int = 64 << 20
    directory: Path | None = None


_Routed = tuple[int, int, Row, Outgoing]
"""Time it is merged by, number of its file, row, message."""


def read(
    files: Sequence[RowFile],
    router: Router,
    progress: ReplayProgress,
    *,
    skip: Sequence[int] = (),
    merge: Merging | None = None,
    whole_only: bool = False,
    max_bytes: int | None = None,
    tick: Callable[[], object] = lambda: None,
) -> Iterator[Outgoing]:
    """Messages of files, in the order of `routed`.

    Args:
        progress: its `skipped`, `left`, `done` and `phase` are kept up to date.
        skip: leave out this many rows of each file, the first that would be sent.
        whole_only: leave a last row that may go on.
        max_bytes: the broker's limit; a larger row cannot be sent.
        tick: as of `routed`.
    """
    left = [*skip, *[0] * (len(files) - len(skip))]
    for number, row, message in routed(files, router, progress, merge=merge, tick=tick):
        if whole_only and not row.whole:
            progress.left.append(row.place)
        elif left[number]:
            left[number] -= 1
            progress.skipped += 1
        elif max_bytes is not None and len(message.value or b"") > max_bytes:
            why = f"{row.place}: {len(message.value or b'')} bytes; a message may have {max_bytes}"
            yield message._replace(unsendable=why, file=number)
        else:
            yield message._replace(file=number)


def routed(
    files: Sequence[RowFile],
    router: Router,
    progress: ReplayProgress,
    *,
    merge: Merging | None = None,
    tick: Callable[[], object] = lambda: None,
) -> Iterator[tuple[int, Row, Outgoing]]:
    """Rows of files, each with the number of its file and its message: in the order of the files, or merged by time.

    Merged, a row without a readable time stays behind the one before it, and one alone far ahead of a file that is
    otherwise in order as well. A stream is taken to be in order.

    Args:
        progress: its `done` and `phase` are kept up to date.
        tick: called now and then while nothing is to be sent yet; what it raises ends the reading.
    """
    reading = _Reading(files, router, progress, tick)
    for _, number, row, message in reading.chained() if merge is None else reading.merged(merge):
        yield number, row, message


class _Reading:
    def __init__(
        self, files: Sequence[RowFile], router: Router, progress: ReplayProgress, tick: Callable[[], object]
    ) -> None:
        self._files = files
        self._route = router.route_row
        self._progress = progress
        self._tick = tick
        self._total = sum(file.size for file in files)

    def chained(self) -> Iterator[_Routed]:
        """File after file."""
        for number, file in enumerate(self._files):
            for row in self._watched(file):
                yield 0, number, row, self._route(row)

    def merged(self, how: Merging) -> Iterator[_Routed]:
        """By event time; of equal times the earlier file's first."""
        self._begin("looking whether the files are in order")
        sorting = [n for n, file in enumerate(self._files) if file.repeatable and not self._in_order(file, how)]
        inputs = [self._in_file_order(n, how) for n in range(len(self._files)) if n not in sorting]
        if sorting:
            self._begin("sorting")
            inputs.append(self._sorted(sorting, how))
        for index, routed in enumerate(heapq.merge(*inputs, key=_time_and_file)):
            if not index:
                self._begin("")
            yield routed

    def _in_order(self, file: RowFile, how: Merging) -> bool:
        times = (self._route(row).ts for row in self._watched(file))
        newest = 0
        for at, ts in merge_times(((ts, ts) for ts in times), how.max_ahead_ms):
            if at < newest or (ts is not None and ts < at):
                return False
            newest = at
        return True

    def _in_file_order(self, number: int, how: Merging) -> Iterator[_Routed]:
        routed = ((row, self._route(row)) for row in self._watched(self._files[number]))
        rows = ((message.ts, (row, message)) for row, message in routed)
        for at, (row, message) in merge_times(rows, how.max_ahead_ms):
            yield at, number, row, message

    def _sorted(self, numbers: Iterable[int], how: Merging) -> Iterator[_Routed]:
        """Sorted by time; a row without one by that of the row before it."""
        packed = external_sort(self._packed(numbers), memory_bytes=how.memory_bytes, directory=how.directory)
        for at, data in packed:
            number, *fields = msgpack.unpackb(data)
            row = Row(self._files[number].path, *fields)
            yield at, number, row, self._route(row)

    def _packed(self, numbers: Iterable[int]) -> Iterator[tuple[int, bytes]]:
        for number in numbers:
            at = 0
            for row in self._watched(self._files[number]):
                ts = self._route(row).ts
                at = at if ts is None else ts
                yield at, msgpack.packb((number, *row[1:]))

    def _begin(self, phase: str) -> None:
        self._progress.phase = phase
        self._progress.done = 0.0
        self._tick()

    def _watched(self, file: RowFile) -> Iterator[Row]:
        for index, row in enumerate(file):
            if index % _EVERY == 0 and self._total:
                self._progress.done = sum(each.position for each in self._files) / self._total
                if self._progress.phase:
                    self._tick()
            yield row


def _time_and_file(routed: _Routed) -> tuple[int, int]:
    return routed[:2]
