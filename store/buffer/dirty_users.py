"""Who waits for a refresh (a replica's): the marks in the database, and the mirror of them in memory."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any

from store.buffer.database import BufferDatabase, judged
from store.buffer.dirty_marks import DirtyMarks, DirtyUser
from store.buffer.tick_index import TickIndex
from store.window.layout import DirtyMark, pack_dirty_mark, unpack_dirty_mark


class DirtyUsers:
    """In the order of waiting, longest first; those swept only come last. For the buffer's thread."""

    def __init__(self, database: BufferDatabase, ticks: TickIndex) -> None:
        self._db = database
        self._ticks = ticks
        self._marks = DirtyMarks(
            (key.decode(), unpack_dirty_mark(value)) for key, value in database.items(database.dirty, b"")
        )

    def __iter__(self) -> Iterator[DirtyUser]:
        """As of now: marks may come and go meanwhile."""
        return iter(list(self._marks))

    def __len__(self) -> int:
        return len(self._marks)

    def __contains__(self, user_id: object) -> bool:
        return user_id in self._marks

    def mark(self, batch: Any, users: Iterable[str], first: int, last: int, *, sweep: bool) -> None:
        """Mark users, in a WriteBatch. first, last: `tokens` offsets of the change. sweep: by expiry alone."""
        self._write(batch, self._marks.mark(users, first, last, sweep=sweep))

    @judged
    def clear(self, users: Iterable[str], *, upto: int, due: Mapping[str, int | None] | None = None) -> None:
        """Unmark users refreshed from windows read when `log_offset` was `upto`; those changed since stay dirty.

        due: when they are next, for the index of ticks. Default: it is not known.
        """
        users = list(users)
        batch = self._db.batch()
        self._ticks.set(batch, dict.fromkeys(users, 0) if due is None else due)
        self._write(batch, self._marks.clear(users, upto))
        self._db.write(batch)

    def oldest_offset(self, *, without: Collection[str] = (), upto: int = 0) -> int | None:
        """Lowest `tokens` offset that is not yet in an embedding; None when nobody is dirty.

        without, upto: as if `clear` had been called with these.
        """
        return self._marks.oldest_without(without, upto) if without else self._marks.oldest()

    def _write(self, batch: Any, marks: Iterable[tuple[str, DirtyMark | None]]) -> None:
        for user, mark in marks:
            if mark is None:
                batch.delete(user.encode(), self._db.h_dirty)
            else:
                batch.put(user.encode(), pack_dirty_mark(mark), self._db.h_dirty)
