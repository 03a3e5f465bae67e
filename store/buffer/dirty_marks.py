"""Users waiting for a refresh, by the `tokens` offsets that made them dirty. Mirrors the `dirty` column family."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from heapq import heapify, heappop, heappush
from typing import NamedTuple

from store.window.layout import DirtyMark

_SLACK = 1000


class DirtyUser(NamedTuple):
    """A dirty user; `mark` says since when and why."""

    user_id: str
    mark: DirtyMark


class DirtyMarks:
    """In order of marking, those with new events before those swept only. Memory follows the dirty users.

    Methods return what has to be written to the database; they change this mirror at once.
    """

    def __init__(self, stored: Iterable[tuple[str, DirtyMark]] = ()) -> None:
        marks = sorted(stored, key=lambda item: item[1].first)
        self._fresh = {user: mark for user, mark in marks if not mark.sweep}
        self._swept = {user: mark for user, mark in marks if mark.sweep}
        self._firsts = [(mark.first, user) for user, mark in marks]
        heapify(self._firsts)

    def __len__(self) -> int:
        return len(self._fresh) + len(self._swept)

    def __contains__(self, user: object) -> bool:
        return user in self._fresh or user in self._swept

    def __iter__(self) -> Iterator[DirtyUser]:
        for marks in (self._fresh, self._swept):
            yield from (DirtyUser(user, mark) for user, mark in marks.items())

    def mark(self, users: Iterable[str], first: int, last: int, *, sweep: bool) -> list[tuple[str, DirtyMark]]:
        """Mark users changed by the records at offsets [first, last]."""
        out: list[tuple[str, DirtyMark]] = []
        for user in users:
            old = self._fresh.get(user) or self._swept.pop(user, None)
            mark = DirtyMark(first, last, sweep) if old is None else DirtyMark(old.first, last, old.sweep and sweep)
            if old is None:
                self._push(first, user)
            (self._swept if mark.sweep else self._fresh)[user] = mark
            out.append((user, mark))
        return out

    def clear(self, users: Iterable[str], upto: int) -> list[tuple[str, DirtyMark | None]]:
        """Unmark users whose state was read when the log had been applied up to `upto` (exclusive).

        A user changed again since then stays dirty, from `upto` on.
        """
        out: list[tuple[str, DirtyMark | None]] = []
        for user in users:
            mark = self._fresh.pop(user, None) or self._swept.pop(user, None)
            if mark is None:
                continue
            if mark.last < upto:
                out.append((user, None))
                continue
            rest = DirtyMark(max(mark.first, upto), mark.last, mark.sweep)
            (self._swept if rest.sweep else self._fresh)[user] = rest
            if rest.first != mark.first:
                self._push(rest.first, user)
            out.append((user, rest))
        return out

    def oldest(self) -> int | None:
        """Lowest offset that some dirty user still waits for; None when nobody is dirty."""
        while self._firsts:
            first, user = self._firsts[0]
            mark = self._fresh.get(user) or self._swept.get(user)
            if mark is not None and mark.first == first:
                return first
            heappop(self._firsts)
        return None

    def oldest_without(self, users: Collection[str], upto: int) -> int | None:
        """What `oldest` would be if these users were cleared `upto`; changes nothing. Costs as clearing them."""
        gone = frozenset(users)
        marks = (self._fresh.get(user) or self._swept.get(user) for user in gone)
        found = [max(mark.first, upto) for mark in marks if mark is not None and mark.last >= upto]
        self.oldest()  # drops what is stale at the top
        ahead = [(self._firsts[0], 0)] if self._firsts else []
        while ahead:  # the heap in order of offset, nothing taken from it
            (first, user), at = heappop(ahead)
            mark = self._fresh.get(user) or self._swept.get(user)
            if mark is not None and mark.first == first and user not in gone:
                found.append(first)
                break
            for below in (2 * at + 1, 2 * at + 2):
                if below < len(self._firsts):
                    heappush(ahead, (self._firsts[below], below))
        return min(found, default=None)

    def _push(self, first: int, user: str) -> None:
        # what was cleared stays in the heap until it is the lowest; one user who waits long would keep all of it there
        if len(self._firsts) > 2 * len(self) + _SLACK:
            self._firsts = [(mark.first, name) for name, mark in (*self._fresh.items(), *self._swept.items())]
            heapify(self._firsts)
        heappush(self._firsts, (first, user))
