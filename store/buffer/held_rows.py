"""Rows of a replica that wait for their summary: a window's rows are used only together with it.

In the log, a batch's summaries come after its rows, and a processor may end in between. Such rows are kept in memory,
and the position on disk stays before the first of them: after a restart they are read again.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, NamedTuple

from store.window.layout import split_prefix
from store.window.rows import FORMAT, KIND_EVENT, KIND_FIELD, KIND_SUMMARY, check_row_format, newest_time
from store.window.window_update import Row

if TYPE_CHECKING:
    from store.buffer.database import BufferDatabase
    from store.buffer.log_apply import LogBatch

HELD_ROWS, HELD_RECORDS = 10_000, 100_000
"""When so many rows wait, or the position on disk is so far behind, it is looked for which of them there is no summary
yet: those lie in the database unseen."""


class LogPosition(NamedTuple):
    """Where the log is to be read on, and the owner in force there."""

    offset: int
    owner: bytes


class _Window(NamedTuple):
    """since: position before its first row. rows: newest by key, None = deleted."""

    since: LogPosition
    rows: dict[bytes, bytes | None]


class HeldRows:
    """Of one replica. Every batch of a processor ends with its summaries, and one that was cut off is done again, so
    what is held is about one batch; windows without any summary, which a compacted log begins with, are not held."""

    def __init__(self, database: BufferDatabase, modalities: Collection[str]) -> None:
        """modalities: configured. Of others nobody sees anything: they are not held."""
        self._db = database
        self._modalities = modalities
        self._windows: dict[bytes, _Window] = {}  # in the order of their first rows
        self._count = 0
        self._look_at = HELD_ROWS, 0  # rows, offset

    def __len__(self) -> int:
        """Windows that wait."""
        return len(self._windows)

    @property
    def position(self) -> LogPosition | None:
        """Before the first row that waits; None if none does."""
        first = next(iter(self._windows.values()), None)
        return None if first is None else first.since

    def read(self, out: LogBatch, rows: Sequence[Row], since: LogPosition) -> None:
        """Add rows in log order to a batch, those with their summaries.

        Args:
            since: the position before `rows`.

        Raises:
            StateError: a row of a format this version does not know.
        """
        windows, summaries, h_rows = self._windows, out.summaries, self._db.h_rows
        put, delete = out.batch.put, out.batch.delete
        newest = out.stream_time.to_bytes(8, "big")
        for key, value in rows:
            end = 2 + (key[0] << 8 | key[1])
            end += 1 + key[end]
            kind, prefix = key[end], key[:end]
            if kind == KIND_SUMMARY:
                summaries[prefix] = value
                newest = max(newest, newest_time(value).to_bytes(8, "big"))
                window = windows.pop(prefix, None)
                if window is not None:
                    self._count -= len(window.rows)
                    for held, content in window.rows.items():
                        if content is None:
                            delete(held, h_rows)
                        else:
                            put(held, content, h_rows)
                continue
            if value is not None:
                if value[0] != FORMAT:
                    check_row_format(kind, value)
                ts = key[end + 1 : end + 9] if kind == KIND_EVENT else value[10:18]
                if ts > newest:
                    newest = ts
            if kind not in (KIND_EVENT, KIND_FIELD):
                raise ValueError(f"not a row key: {key!r}")
            window = windows.get(prefix)
            if window is None:
                window = windows[prefix] = _Window(since, {})
            self._count += key not in window.rows
            window.rows[key] = value
        out.rows += len(rows)
        out.stream_time = int.from_bytes(newest, "big")
        if self._count > self._look_at[0] or self._behind(since.offset):
            self._let_go(out)
            self._look_at = max(HELD_ROWS, 2 * self._count), since.offset + HELD_RECORDS

    def _behind(self, offset: int) -> bool:
        first = self.position
        return first is not None and first.offset + HELD_RECORDS < offset and offset >= self._look_at[1]

    def _let_go(self, out: LogBatch) -> None:
        """Write rows of windows that have no summary: nobody sees them before it comes."""
        unsure = [prefix for prefix in self._windows if prefix not in out.summaries]
        stored = self._db.summaries.get([prefix + b"\x00" for prefix in unsure]) if unsure else []
        found = dict(zip(unsure, stored, strict=True)) | out.summaries
        for prefix in list(self._windows):
            if found[prefix] is not None and split_prefix(prefix)[1] in self._modalities:
                continue
            rows = self._windows.pop(prefix).rows
            self._count -= len(rows)
            for key, value in rows.items():
                if value is None:
                    out.batch.delete(key, self._db.h_rows)
                else:
                    out.batch.put(key, value, self._db.h_rows)
