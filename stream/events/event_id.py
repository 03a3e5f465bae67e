"""The id of an event that came without one, and how it is written into the event's bytes. Pure."""

from __future__ import annotations

import json

import msgpack

from stream.events.decode import decode, is_msgpack
from stream.events.mapping import TopicMapping
from stream.events.refused import Refused
from stream.rejection import Rejection


def derived_id(topic: str, partition: int, offset: int) -> str:
    """What ingest takes for `event_id` where an event has none: the place of its raw message.

    An id that is written into an event may have 128 characters: where the topic's name is longer than about 100,
    events need ids of their own to be replayed.
    """
    return f"{topic}/{partition}/{offset}"


def with_event_id(value: bytes, event_id: str, mapping: TopicMapping) -> bytes:
    """`value` with this id where it has none (or null); every other byte stays, so the content's digest does too.

    The pair is appended, because of two equal keys the last counts. What cannot be decoded is returned as it is.
    """
    event = decode(value, len(value))
    if isinstance(event, Rejection):
        return value
    any_field = bool(event)
    mapping.prepare(event)
    try:
        if mapping.event_id(event) is not None:
            return value
    except Refused:
        return value
    field = mapping.event_id_field
    if is_msgpack(value):
        pairs, start = _map_header(value)
        header = msgpack.Packer().pack_map_header(pairs + 1)
        return b"".join((header, value[start:], msgpack.packb(field), msgpack.packb(event_id)))
    body = value.rstrip()[:-1]
    pair = f"{json.dumps(field)}:{json.dumps(event_id)}".encode()
    return b"".join((body, b"," if any_field else b"", pair, b"}"))


def _map_header(value: bytes) -> tuple[int, int]:
    """Pairs of a msgpack map, and where they begin."""
    if value[0] == 0xDE:
        return int.from_bytes(value[1:3], "big"), 3
    if value[0] == 0xDF:
        return int.from_bytes(value[1:5], "big"), 5
    return value[0] & 0x0F, 1
