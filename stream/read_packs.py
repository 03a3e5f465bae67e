"""Messages of `events` → events, and dead letters for what ingest cannot have written under this configuration."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from typing import NamedTuple

from stream.dead_letter import DeadLetter, dead_letter
from stream.event import Event, pack, unpack
from stream.faust_app import Message
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
            _check(found)
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


def _check(events: Iterable[Event]) -> None:
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
