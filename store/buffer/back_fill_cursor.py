"""How far a back-fill of one scenario has come in one partition; kept in the worker's buffer, so that it resumes."""

from __future__ import annotations

import msgspec

from store.base import versioned
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
