"""The canonical event and its packs: what travels in the `events` topic.

A message of `events` is one pack: up to `ingest.pack_events` events of users of one partition, in arrival order,
as msgpack `[version, now_ms, [event, …]]`. Its key is empty and its partition explicit (murmur2 of `user_id`).
Packing is why the processor is not bound by Faust's cost per message (docs/adr/0002).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import msgpack

VERSION = 1

FieldValue = str | float | None


class Event(NamedTuple):
    """One accepted event.

    ts: event time, ms. text: rendered by the modality's template. numbers: as configured, None = missing.
    fields: {name: value} of a tabular modality, else None (then `text` and `numbers` are empty).
    source_topic, source_partition, source_offset: the raw message; a topic that was deleted and made anew has a name of
    its own here (stream/raw_topics/registry.py).
    produced_at: timestamp of the raw message, ms. ingested_at: when ingest accepted it, ms.
    """

    user_id: str
    modality: str
    ts: int
    event_id: str
    text: str
    numbers: tuple[float | None, ...]
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


class Pack(NamedTuple):
    """Events of one message. `now` is the stream's clock when they were accepted, ms."""

    now: int
    events: list[Event]


def pack(now: int, events: Sequence[Event]) -> bytes:
    """Bytes of one message of `events`."""
    return msgpack.packb((VERSION, now, events))  # type: ignore[no-any-return]


def unpack(value: bytes) -> Pack:
    """Inverse of `pack`. Raises ValueError on another version or anything that is not a pack."""
    try:
        version, now, rows = msgpack.unpackb(value, use_list=False)
    except (ValueError, TypeError, msgpack.UnpackException) as exc:
        raise ValueError("not an event pack") from exc
    if version != VERSION:
        raise ValueError(f"event pack v{version}; this version reads v{VERSION}")
    return Pack(now, [Event(*row) for row in rows])


def check_types(events: Iterable[Event]) -> None:
    """Raise TypeError unless every part has its type. One expression per event: this runs for each."""
    for user_id, modality, ts, event_id, text, numbers, fields, topic, partition, offset, _, ingested_at in events:
        if not (
            user_id.__class__ is modality.__class__ is event_id.__class__ is text.__class__ is topic.__class__ is str
            and ts.__class__ is partition.__class__ is offset.__class__ is ingested_at.__class__ is int
            and numbers.__class__ is tuple
            and (fields is None or fields.__class__ is dict)
            and 0 <= ts < 2**63
        ):
            raise TypeError("an event's part has the wrong type")
        for number in numbers:
            if number.__class__ is not float and number is not None:
                raise TypeError("a number is not a float")
        if fields is not None and not all(
            name.__class__ is str and (value is None or value.__class__ in (str, float))
            for name, value in fields.items()
        ):
            raise TypeError("a field is neither text nor number")
