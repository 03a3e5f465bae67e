"""Rows that a former owner of the partition logged after ours: our state of them has to be logged again."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from store.buffer.database import BufferDatabase
from store.window.layout import M_STALE, prefix_length
from store.window.rows import KIND_SUMMARY
from store.window.window_update import Row


class StaleRows:
    """Their keys, in the database until the next batch has logged them (docs/commit-protocol.md)."""

    def __init__(self, database: BufferDatabase) -> None:
        self._db = database
        self._keys = {key[len(M_STALE) :] for key, _ in database.items(database.meta, M_STALE)}

    def note(self, batch: Any, keys: Iterable[bytes]) -> None:
        """Remember these, in a WriteBatch."""
        for key in keys:
            batch.put(M_STALE + key, b"", self._db.h_meta)
            self._keys.add(key)

    def logged(self, keys: Iterable[bytes]) -> None:
        """These are done with; the database knows."""
        self._keys.difference_update(keys)

    def again(self) -> list[Row]:
        """What is to be logged: rows are used only together with a summary that comes after them."""
        return current(self._db, self._keys | {key[: prefix_length(key)] + b"\x00" for key in self._keys})


def current(db: BufferDatabase, keys: Iterable[bytes]) -> list[Row]:
    """What the buffer holds under row keys, summaries last; None = nothing."""
    rows: list[bytes] = []
    summaries: list[bytes] = []
    for key in keys:
        (summaries if key[prefix_length(key)] == KIND_SUMMARY else rows).append(key)
    out: list[Row] = list(zip(rows, db.rows.get(rows), strict=True)) if rows else []
    if summaries:
        out += zip(summaries, db.summaries.get(summaries), strict=True)
    return out
