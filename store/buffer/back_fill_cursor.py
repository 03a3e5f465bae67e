"""How far a back-fill of one scenario has come in one partition; kept in the worker's buffer, so that it resumes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import msgpack

from store.buffer.rows import user_prefix

VERSION = 1


@dataclass(frozen=True, slots=True)
class BackFillCursor:
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
        return msgpack.packb(  # type: ignore[no-any-return]
            {
                "v": VERSION,
                "target": self.target,
                "attempt": self.attempt,
                "after": self.after,
                "done": self.done,
                "total": self.total,
            }
        )

    @classmethod
    def unpack(cls, value: bytes) -> BackFillCursor:
        """Inverse of `pack`. Raises ValueError on what it cannot read."""
        try:
            raw: dict[str, Any] = msgpack.unpackb(value)
            if raw["v"] != VERSION:
                raise ValueError(f"version {raw['v']}; this version reads {VERSION}")
            return cls(*(raw[name] for name in ("target", "attempt", "after", "done", "total")))
        except (KeyError, TypeError, ValueError, msgpack.UnpackException) as exc:
            raise ValueError(f"not a back-fill cursor: {exc}") from exc


def position_of(user_id: str) -> bytes:
    """Orders users as the buffer does; "" comes before everyone."""
    return user_prefix(user_id)
