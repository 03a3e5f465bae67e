"""What every kind of file gives: rows, each the bytes of one message, and its place for people.

One file a format: `json_lines.py`, `csv_rows.py`, `parquet_rows.py`; `open_files.py` chooses by the name.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterator
from typing import NamedTuple, Self

from store.base.errors import AnchorstreamError

MAX_ROW_BYTES = 16 << 20
"""A longer line is read past, not held in memory."""
SAMPLE_BYTES = 16 << 20
"""A sample ends with the row that exceeds this."""
STDIN = "-"
FILE_UNREADABLE = "file_unreadable"


class Row(NamedTuple):
    """One row. number: its first line, or of Parquet its row, from 1. value: the message; None where the row cannot be
    sent, and `fault` says why. whole: what is appended to the file later cannot change it."""

    file: str
    number: int
    value: bytes | None
    fault: str = ""
    whole: bool = True

    @property
    def place(self) -> str:
        """`file:number`."""
        return f"{self.file}:{self.number}"


class RowFile(ABC):
    """An open file of rows; a context manager.

    path: as given. size: bytes, 0 of a stream. repeatable: each iteration begins anew; False of a stream (standard
    input, a pipe), which has one.
    """

    path: str
    size: int
    repeatable: bool

    def __init__(self) -> None:
        self._ahead: deque[Row] = deque()
        self._running: Iterator[Row | None] | None = None

    @property
    @abstractmethod
    def position(self) -> int:
        """Bytes of the file read so far (compressed, if it is); 0 of a stream."""

    @abstractmethod
    def _rows(self) -> Iterator[Row | None]:
        """The rows from the beginning; None when nothing has come for a while."""

    @abstractmethod
    def check(self, tick: Callable[[], object] = lambda: None) -> None:
        """Find damage that shows only later than what was read before: of a compressed file, read all of it.

        tick: called now and then; what it raises ends the reading.

        Raises:
            AnchorstreamError: `file_unreadable`.
        """

    @abstractmethod
    def close(self) -> None:
        """Close the file; standard input stays open."""

    def __iter__(self) -> Iterator[Row]:
        """The rows. Raises AnchorstreamError `file_unreadable` behind the last one that can be read."""
        while self._ahead:
            yield self._ahead.popleft()
        for row in self._once():
            if row is not None:
                yield row

    def sample(self, count: int, *, skip: int = 0) -> list[Row]:
        """The first rows behind `skip`. Those of a stream stay to be read: as many as come without a pause."""
        if self.repeatable:
            return _at_most(self._rows(), count, skip)
        if not self._ahead:
            self._ahead.extend(_at_most(self._once(), count, 0))
        return list(self._ahead)

    def _once(self) -> Iterator[Row | None]:
        if self.repeatable:
            return self._rows()
        if self._running is None:
            self._running = self._rows()
        return self._running

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _at_most(rows: Iterator[Row | None], count: int, skip: int) -> list[Row]:
    found: list[Row] = []
    size = passed = 0
    while len(found) < count and size < SAMPLE_BYTES:
        row = next(rows, None)
        if row is None:  # the end, or a pause
            break
        passed += 1
        if passed > skip:
            found.append(row)
            size += len(row.value or b"")
    return found


def unreadable(path: str, where: str, why: object, action: str = "") -> AnchorstreamError:
    """`file_unreadable`. where: such as "after line 7"."""
    return AnchorstreamError(
        f"{path}: cannot be read {where}: {why}",
        action=action or "the file is damaged or cut short: get it anew",
        code=FILE_UNREADABLE,
    )
