"""The canonical event and its packs: what travels in the `events` topic.

A message of `events` is one pack: up to `ingest.pack_events` events of users of one partition, in arrival order. Its
key is empty and its partition explicit (murmur2 of `user_id`). Packing is why the processor is not bound by Faust's
cost per message (docs/adr/0002). A pack is a msgpack array, the fields of `Pack` in their order; the first is the
version, one byte, so that the second byte of a message says how to read it:

    v2  [2, now, modalities, sources, modality_of, source_of, user_ids, times, event_ids, texts, numbers, fields,
         offsets, produced_at, ingested_at]
    v1  [1, now, [event, …]], each event an array of the fields of `Event`: read, no longer written
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Self

import msgspec

VERSION = 2

FieldValue = str | float | None
Numbers = tuple[float | None, ...]
Time = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]
"""Milliseconds since the epoch, as the token buffer's keys hold them."""
_Index = Annotated[int, msgspec.Meta(ge=0)]


class Event(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, gc=False):
    """One accepted event.

    ts: event time, ms. text: rendered by the modality's template. numbers: as configured, None = missing.
    fields: {name: value} of a tabular modality, else None (then `text` and `numbers` are empty).
    source_topic, source_partition, source_offset: the raw message; a topic that was deleted and made anew has a name of
    its own here (stream/raw_topics/registry.py).
    modality: ERASURE (store/base/settings.py) of one that erases its user up to `ts`; it has no content.
    produced_at: timestamp of the raw message, ms. ingested_at: when ingest accepted it, ms.
    """

    user_id: str
    modality: str
    ts: Time
    event_id: str
    text: str
    numbers: Numbers
    fields: dict[str, FieldValue] | None
    source_topic: str
    source_partition: int
    source_offset: int
    produced_at: int
    ingested_at: int

    @property
    def source(self) -> str:
        """Key of `covers`."""
        return f"{self.source_topic}:{self.source_partition}"


class Pack(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, gc=False):
    """Events of one message, in columns: what `Event` says of one of them stands at the same place in each.

    now: the stream's clock when they were accepted, ms. modalities, sources: those that occur, sources as (topic,
    partition); modality_of, source_of: places in them, per event. fields: None if no event has any.
    """

    version: int
    now: int
    modalities: list[str]
    sources: list[tuple[str, int]]
    modality_of: list[_Index]
    source_of: list[_Index]
    user_ids: list[str]
    times: list[Time]
    event_ids: list[str]
    texts: list[str]
    numbers: list[Numbers]
    fields: list[dict[str, FieldValue] | None] | None
    offsets: list[int]
    produced_at: list[int]
    ingested_at: list[int]

    @classmethod
    def of(cls, now: int, events: Sequence[Event]) -> Self:
        """The same events in columns."""
        modalities: dict[str, int] = {}
        sources: dict[tuple[str, int], int] = {}
        modality_of = [modalities.setdefault(event.modality, len(modalities)) for event in events]
        source_of = [sources.setdefault((e.source_topic, e.source_partition), len(sources)) for e in events]
        fields = [event.fields for event in events]
        return cls(
            VERSION,
            now,
            list(modalities),
            list(sources),
            modality_of,
            source_of,
            [event.user_id for event in events],
            [event.ts for event in events],
            [event.event_id for event in events],
            [event.text for event in events],
            [event.numbers for event in events],
            None if fields.count(None) == len(fields) else fields,
            [event.source_offset for event in events],
            [event.produced_at for event in events],
            [event.ingested_at for event in events],
        )

    def packed(self) -> bytes:
        """Bytes of a message of `events`."""
        return _encode(self)

    def __len__(self) -> int:
        """Number of events."""
        return len(self.user_ids)

    @property
    def events(self) -> list[Event]:
        """The same events one by one."""
        fields_of = self.fields or [None] * len(self)
        source_of = [self.sources[place] for place in self.source_of]
        columns = zip(
            self.user_ids, self.modality_of, self.times, self.event_ids, self.texts, self.numbers, fields_of,
            source_of, self.offsets, self.produced_at, self.ingested_at,
            strict=True,
        )  # fmt: skip
        return [
            Event(
                user, self.modalities[m], ts, name, text, numbers, fields, topic, partition, offset, produced, ingested
            )
            for user, m, ts, name, text, numbers, fields, (topic, partition), offset, produced, ingested in columns
        ]


def pack(now: int, events: Sequence[Event]) -> bytes:
    """Bytes of one message of `events`."""
    return Pack.of(now, events).packed()


def unpack(value: bytes) -> Pack:
    """Inverse of `pack`; also reads v1. Every part has its type, every column an entry for each event.

    Raises:
        ValueError: another version, or anything that is not a pack.
    """
    try:
        if value[:2] == _V2:
            return _whole(_decode(value))
        if value[:2] == _V1:
            _, now, events = _decode_v1(value)
            return Pack.of(now, events)
    except msgspec.DecodeError as exc:
        raise ValueError(f"not an event pack: {exc}") from exc
    if len(value) > 1 and value[:1] in _ARRAYS and VERSION < value[1] < 0x80:
        raise ValueError(f"event pack v{value[1]}; this version reads v1 and v{VERSION}")
    raise ValueError("not an event pack")


def _whole(found: Pack) -> Pack:
    n = len(found)
    if not (
        n == len(found.modality_of) == len(found.source_of) == len(found.times) == len(found.event_ids)
        == len(found.texts) == len(found.numbers) == len(found.offsets) == len(found.produced_at)
        == len(found.ingested_at) == (n if found.fields is None else len(found.fields))
    ):  # fmt: skip
        raise ValueError("not an event pack: its columns differ in length")
    if n and (max(found.modality_of) >= len(found.modalities) or max(found.source_of) >= len(found.sources)):
        raise ValueError("not an event pack: a modality or source is not in it")
    return found


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Pack).decode
_decode_v1 = msgspec.msgpack.Decoder(tuple[int, int, list[Event]]).decode
_V1, _V2 = b"\x93\x01", b"\x9f\x02"
_ARRAYS = frozenset(bytes((0x90 + n,)) for n in range(2, 16))
