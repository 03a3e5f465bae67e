"""Of a replica: when each user is next to be looked at for silence (store/window/silence.py). Derived, and so rebuilt.

    column family   key              value
    expiry          u64 due | user   empty
    ids             user             u64 due: the one entry of `expiry` that counts

`due` is never after the user's next tick time that is not yet published; 0 = it is not known. Entries that do not count
any more are dropped where they are met. A user without an entry has no tick time ahead, or is dirty.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from store.buffer.database import BufferDatabase, judged
from store.window.layout import M_TICKS, pack_int
from store.window.silence import SilenceTicks

_DUE_BYTES = 8


class TickEntry(NamedTuple):
    """key: of `expiry`. due: ms."""

    key: bytes
    due: int
    user_id: str


class TickIndex:
    """For the buffer's thread. `kept`: whether changes are to be noted; `whole`: whether everybody is in it."""

    def __init__(self, database: BufferDatabase) -> None:
        self._db = database
        self._days = b""
        self.kept = False
        self.whole = False

    @judged
    def keep(self, ticks: SilenceTicks, *, empty: bool) -> None:
        """From now on changes are noted, for these tick times; or for none, and what is there is forgotten.

        empty: the replica has nothing yet. Else `add` has to be called for every user, unless it is `whole`.
        """
        stored = self._db.meta.get(M_TICKS)
        self._days = ",".join(map(str, ticks.days)).encode()
        self.kept = bool(ticks)
        self.whole = self.kept and stored == self._days
        if self.whole or (stored is None and not self.kept):
            return
        if not self.kept or not empty:
            self._db.put_meta({M_TICKS: None})
        else:
            self.complete()

    @judged
    def complete(self) -> None:
        """Everybody has been added."""
        self.whole = True
        self._db.put_meta({M_TICKS: self._days})

    @judged
    def add(self, users: Iterable[str]) -> None:
        """Have these looked at, those that are known included: they may be so for other tick times."""
        batch = self._db.batch()
        self.set(batch, dict.fromkeys(users, 0))
        self._db.write(batch)

    def set(self, batch: Any, dues: Mapping[str, int | None]) -> None:
        """Put into a WriteBatch when these users are next due; None = never."""
        if not self.kept:
            return
        for user, due in dues.items():
            name = user.encode()
            if due is None:
                batch.delete(name, self._db.h_ids)
            else:
                packed = pack_int(due)
                batch.put(packed + name, b"", self._db.h_expiry)
                batch.put(name, packed, self._db.h_ids)

    @judged
    def move(self, met: Iterable[TickEntry], dues: Mapping[str, int | None]) -> None:
        """Take out entries, and set when users are next due, at once."""
        batch = self._db.batch()
        for entry in met:
            batch.delete(entry.key, self._db.h_expiry)
        self.set(batch, dues)  # after them: an entry may come back at the same time
        if len(batch):
            self._db.write(batch)

    @judged
    def due(self, start: bytes, upto: int, limit: int) -> tuple[list[TickEntry], list[TickEntry]]:
        """Up to `limit` entries from the key `start` on, in the order of (due, user), that are due.

        Returns:
            Those that count, and those that do not.
        """
        entries = [
            TickEntry(key, int.from_bytes(key[:_DUE_BYTES], "big"), key[_DUE_BYTES:].decode())
            for key in self._db.keys(self._db.expiry, start, limit)
        ]
        entries = [entry for entry in entries if entry.due <= upto]
        if not entries:
            return [], []
        stored = self._db.ids.get([entry.key[_DUE_BYTES:] for entry in entries])
        counts: list[TickEntry] = []
        others: list[TickEntry] = []
        for entry, due in zip(entries, stored, strict=True):
            (counts if due == entry.key[:_DUE_BYTES] else others).append(entry)
        return counts, others
