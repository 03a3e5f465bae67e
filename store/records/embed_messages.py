"""Messages of `{prefix}.embed-requests` and `{prefix}.embed-replies`: one user, one query that nobody registered.

A request goes to the partition of its user, where the worker that holds the user answers it. Every service reads all
replies and keeps those it asked for. Both topics live minutes: who asks waits for seconds.
"""

from __future__ import annotations

import msgspec

from store.base import versioned
from store.records.embedding import EmbeddingRecord

SCENARIO = ""
"""`scenario` of a record that answers a request."""


class EmbedRequest(msgspec.Struct, frozen=True, tag_field="v", tag=1):
    """id: unique, echoed by the reply. expires_at: ms since the epoch; nobody waits for the answer after that."""

    id: str
    user_id: str
    query: str
    prompt: str | None
    expires_at: int

    def pack(self) -> bytes:
        """Message value."""
        return msgspec.msgpack.encode(self)

    @classmethod
    def unpack(cls, value: bytes) -> EmbedRequest:
        """Inverse of `pack`; unknown keys are ignored. Raises ValueError on what it cannot read."""
        return versioned.decode(_REQUEST, value, "an embed message")


class _Reply(msgspec.Struct, frozen=True, tag_field="v", tag=1):
    id: str
    record: bytes | None
    error: str
    detail: str


_REQUEST = msgspec.msgpack.Decoder(EmbedRequest)
_REPLY = msgspec.msgpack.Decoder(_Reply)


class EmbedReply(msgspec.Struct, frozen=True):
    """Either a record, or an error: a stable code (docs/errors.md) and what there is to say about it."""

    id: str
    record: EmbeddingRecord | None
    error: str = ""
    detail: str = ""

    def pack(self) -> bytes:
        """Message value."""
        record = None if self.record is None else self.record.pack()
        return msgspec.msgpack.encode(_Reply(self.id, record, self.error, self.detail))

    @classmethod
    def unpack(cls, value: bytes) -> EmbedReply:
        """Inverse of `pack`; unknown keys are ignored. Raises ValueError on what it cannot read."""
        found = versioned.decode(_REPLY, value, "an embed message")
        if (found.record is None) is not bool(found.error):
            raise ValueError("not an embed message: a reply has either a record or an error")
        record = None if found.record is None else EmbeddingRecord.unpack(found.record)
        return cls(found.id, record, found.error, found.detail)
