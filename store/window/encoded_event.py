"""Events as the token buffer takes them: texts already encoded."""

from __future__ import annotations

import msgspec

from store.window.rows import Vector16, Vector32


class EncodedField(msgspec.Struct, frozen=True, eq=False, gc=False):
    """One field of a tabular event. numbers: float32 (n,). vector: float16 (dim,), size 0 = the field is null."""

    name: str
    digest: int
    numbers: Vector32
    vector: Vector16


class EncodedEvent(msgspec.Struct, frozen=True, eq=False, gc=False):
    """One accepted event.

    ts: event time, ms. digest: 64 bits of its content; two events with one id and different digests conflict.
    numbers: float32 (k,), NaN = missing. vector: float16 (dim,), multiples of 2**-14 within [-1, 1]; events of one
    text may share it, which spares a batch the work of all but one.
    fields: of a tabular modality, else None (then `numbers` and `vector` count). ingested_at: ms.
    source, source_offset: the raw message, "topic:partition" and offset. since: as of `SourceAccount`; 0 = not counted.
    """

    user_id: str
    modality: str
    ts: int
    event_id: str
    digest: int
    numbers: Vector32
    vector: Vector16
    fields: tuple[EncodedField, ...] | None
    source: str
    source_offset: int
    ingested_at: int
    since: int = 0
