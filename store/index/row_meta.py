"""What the index keeps of a record beside its vector: packed, about 200 bytes a row."""

from __future__ import annotations

from typing import NamedTuple

import msgspec

from store.records.embedding import EmbeddingRecord


class RowMeta(msgspec.Struct, frozen=True, array_like=True):
    """A record without user, scenario and vector; an array on disk. applied_at: ms, when it became queryable here.

    newest_event: 0 = `as_of`, as in rows that older versions wrote.
    """

    model: str
    as_of: int
    ingested_at: int
    computed_at: int
    applied_at: int
    covers: dict[str, int]
    events: dict[str, int]
    newest_event: int = 0


class Coverage(NamedTuple):
    """What is queryable of a user.

    covers: {"topic:partition": last raw offset covered}. applied_at: ms, when that became queryable here.
    erased_at: ms; None = there is a row. An erased user covers what the erased row covered.
    """

    covers: dict[str, int]
    applied_at: int
    erased_at: int | None = None


def pack_meta(record: EmbeddingRecord, applied_at: int) -> bytes:
    """Bytes of a row's metadata."""
    fields = (
        record.model,
        record.as_of,
        record.ingested_at,
        record.computed_at,
        applied_at,
        record.covers,
        record.events,
    )
    silent = record.newest_event != record.as_of
    return msgspec.msgpack.encode((*fields, record.newest_event) if silent else fields)


def unpack_meta(raw: bytes) -> RowMeta:
    """Inverse of `pack_meta`. Raises ValueError on what it cannot read."""
    try:
        return _DECODER.decode(raw)
    except msgspec.MsgspecError as exc:
        raise ValueError(f"not a row's metadata: {exc}") from exc


_DECODER = msgspec.msgpack.Decoder(RowMeta)
