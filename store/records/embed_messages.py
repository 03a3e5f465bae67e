"""Messages of `{prefix}.embed-requests` and `{prefix}.embed-replies`: one user, one query that nobody registered.

A request goes to the partition of its user, where the worker that holds the user answers it. Every service reads all
replies and keeps those it asked for. Both topics live minutes: who asks waits for seconds.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import NoneType
from typing import Any

import msgpack

from store.records.embedding import EmbeddingRecord

VERSION = 1
SCENARIO = ""
"""`scenario` of a record that answers a request."""


@dataclass(frozen=True, slots=True)
class EmbedRequest:
    """id: unique, echoed by the reply. expires_at: ms since the epoch; nobody waits for the answer after that."""

    id: str
    user_id: str
    query: str
    prompt: str | None
    expires_at: int

    def pack(self) -> bytes:
        """Message value."""
        names = ("id", "user_id", "query", "prompt", "expires_at")
        return msgpack.packb({"v": VERSION, **{n: getattr(self, n) for n in names}})  # type: ignore[no-any-return]

    @classmethod
    def unpack(cls, value: bytes) -> EmbedRequest:
        """Inverse of `pack`; unknown keys are ignored. Raises ValueError on what it cannot read."""
        raw = _unpacked(value, {"id": str, "user_id": str, "query": str, "prompt": (str, NoneType), "expires_at": int})
        return cls(*(raw[n] for n in ("id", "user_id", "query", "prompt", "expires_at")))


@dataclass(frozen=True, slots=True)
class EmbedReply:
    """Either a record, or an error: a stable code (docs/errors.md) and what there is to say about it."""

    id: str
    record: EmbeddingRecord | None
    error: str = ""
    detail: str = ""

    def pack(self) -> bytes:
        """Message value."""
        record = None if self.record is None else self.record.pack()
        return msgpack.packb(  # type: ignore[no-any-return]
            {"v": VERSION, "id": self.id, "record": record, "error": self.error, "detail": self.detail}
        )

    @classmethod
    def unpack(cls, value: bytes) -> EmbedReply:
        """Inverse of `pack`; unknown keys are ignored. Raises ValueError on what it cannot read."""
        raw = _unpacked(value, {"id": str, "record": (bytes, NoneType), "error": str, "detail": str})
        if (raw["record"] is None) is not bool(raw["error"]):
            raise ValueError("not an embed message: a reply has either a record or an error")
        record = None if raw["record"] is None else EmbeddingRecord.unpack(raw["record"])
        return cls(raw["id"], record, raw["error"], raw["detail"])


def _unpacked(value: bytes, members: Mapping[str, type | tuple[type, ...]]) -> dict[str, Any]:
    try:
        raw: dict[str, Any] = msgpack.unpackb(value)
        if raw["v"] != VERSION:
            raise ValueError(f"version {raw['v']}; this version reads {VERSION}")
        for name, types in members.items():
            if not isinstance(raw[name], types):
                raise ValueError(f"{name} is a {type(raw[name]).__name__}")
    except (KeyError, TypeError, ValueError, msgpack.UnpackException) as exc:
        raise ValueError(f"not an embed message: {exc}") from exc
    return raw
