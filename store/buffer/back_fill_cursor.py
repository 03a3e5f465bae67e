"""How far a back-fill of one scenario has come in one partition; kept in the worker's buffer, so that it resumes."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from store.base import versioned
from store.buffer.database import BufferDatabase
from store.window.layout import M_BACK_FILL
from store.window.rows import user_prefix


class BackFillCursor(msgspec.Struct, frozen=True, tag_field="v", tag=1):
    """Every user up to `after`, in key order, has been published; "" = nobody yet.

    target: what the users are brought to (encoder/worker/targets.py). attempt: which back-fill to that target; one
    that was broken off and begun anew has another. done, total: users, for people.
    """

    target: bytes
    attempt: int
    after: str = ""
    done: int = 0
    total: int = 0

    @property
    def position(self) -> bytes:
        """Orders cursors as the buffer orders users."""
        return position_of(self.after)

    def pack(self) -> bytes:
        """Value in the buffer's database."""
        return msgspec.msgpack.encode(self)

    @classmethod
    def unpack(cls, value: bytes) -> BackFillCursor:
        """Inverse of `pack`. Raises ValueError on what it cannot read."""
        return versioned.decode(_DECODER, value, "a back-fill cursor")


_DECODER = msgspec.msgpack.Decoder(BackFillCursor)


def position_of(user_id: str) -> bytes:
    """Orders users as the buffer does; "" comes before everyone."""
    return user_prefix(user_id)


def read_cursors(db: BufferDatabase) -> dict[str, BackFillCursor]:
    """Cursors of the back-fills under way, by scenario."""
    start = len(M_BACK_FILL)
    return {key[start:].decode(): BackFillCursor.unpack(value) for key, value in db.items(db.meta, M_BACK_FILL)}


def write_cursors(db: BufferDatabase, cursors: Mapping[str, BackFillCursor | None]) -> None:
    """Keep cursors, or drop them (None), by scenario; durable on return, all or none."""
    db.put_meta(
        {
            M_BACK_FILL + scenario.encode(): None if cursor is None else cursor.pack()
            for scenario, cursor in cursors.items()
        }
    )
