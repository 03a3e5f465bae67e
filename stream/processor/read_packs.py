"""Messages of `events` → events, and dead letters for what ingest cannot have written under this configuration."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import NamedTuple

from stream.dead_letter import DeadLetter, dead_letter
from stream.events.event import Event, check_types, pack, unpack
from stream.processor.faust_app import Message
from stream.rejection import ErrorCode, Rejection, quote


class Contents(NamedTuple):
    """What some messages held, in order."""

    events: list[Event]
    refused: list[DeadLetter]


def read_packs(messages: Sequence[Message], topic: str, modalities: Collection[str]) -> Contents:
    """Unpack; a foreign message or an event of a modality that is not configured becomes a dead letter.

    Args:
        topic: name of the `events` topic, for the dead letters.
        modalities: the configured ones.
    """
    events: list[Event] = []
    refused: list[DeadLetter] = []
    for message in messages:
        try:
            now, found = unpack(message.value)
            check_types(found)
        except (ValueError, TypeError) as exc:  # wrong bytes, wrong shape, wrong types
            why = Rejection(ErrorCode.INVALID_PACK, quote(str(exc)))
            refused.append(dead_letter(why, None, message.value, topic, message.partition, message.offset))
            continue
        for event in found:
            if event.modality in modalities:
                events.append(event)
            else:
                why = Rejection(ErrorCode.UNKNOWN_MODALITY, f"{quote(event.modality)} is no longer configured")
                key, value = event.user_id.encode(), pack(now, [event])
                refused.append(dead_letter(why, key, value, topic, message.partition, message.offset))
    return Contents(events, refused)
