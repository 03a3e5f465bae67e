"""Messages of `events` → events, and dead letters for what ingest cannot have written under this configuration."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from store.base.settings import ModalityKind, ModalitySettings
from stream.dead_letter import DeadLetter, dead_letter
from stream.events.event import Event, check_types, pack, unpack
from stream.processor.faust_app import Message
from stream.rejection import ErrorCode, Rejection, quote


class Contents(NamedTuple):
    """What some messages held, in order."""

    events: list[Event]
    refused: list[DeadLetter]


def read_packs(messages: Sequence[Message], topic: str, modalities: Mapping[str, ModalitySettings]) -> Contents:
    """Unpack; a foreign message becomes a dead letter, and an event whose modality is not configured, or not as it was.

    Args:
        topic: name of the `events` topic, for the dead letters.
        modalities: the configured ones.
    """
    events: list[Event] = []
    refused: list[DeadLetter] = []
    forms = {
        name: (None if m.kind is ModalityKind.TABULAR else len(m.numbers)) for name, m in modalities.items()
    }  # how many numbers an event has
    for message in messages:
        try:
            now, found = unpack(message.value)
            check_types(found)
        except (ValueError, TypeError) as exc:  # wrong bytes, wrong shape, wrong types
            why = Rejection(ErrorCode.INVALID_PACK, quote(str(exc)))
            refused.append(dead_letter(why, None, message.value, topic, message.partition, message.offset))
            continue
        for event in found:
            if forms.get(event.modality, -1) == (len(event.numbers) if event.fields is None else None):
                events.append(event)
            else:
                why = _refusal(event, known=event.modality in modalities)
                key, value = event.user_id.encode(), pack(now, [event])
                refused.append(dead_letter(why, key, value, topic, message.partition, message.offset))
    return Contents(events, refused)


def _refusal(event: Event, *, known: bool) -> Rejection:
    if not known:
        return Rejection(ErrorCode.UNKNOWN_MODALITY, f"{quote(event.modality)} is not configured here")
    found = "tabular" if event.fields is not None else f"an event with {len(event.numbers)} numbers"
    return Rejection(ErrorCode.MODALITY_CHANGED, f"{quote(event.modality)} is configured otherwise, this is {found}")
