"""Messages of `events` → packs, and dead letters for what ingest cannot have written under this configuration."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from store.account.account import RefusedEvent
from store.base.settings import ERASURE, ModalityKind, ModalitySettings
from stream.dead_letter import DeadLetter, dead_letter
from stream.events import behind
from stream.events.event import Event, Pack, pack, unpack
from stream.processor.faust_app import Message
from stream.raw_counts import SINCE_HEADER, read_since
from stream.rejection import ErrorCode, Rejection, quote


class Contents(NamedTuple):
    """What some messages held, in order.

    since: per pack, since when ingest counts each of its sources, ms (0 = it does not).
    events: how many there are in `packs`. refused_events: those of `refused` that ingest had accepted.
    unknown: {modality that is not configured: newest ingestion of its, ms}.
    arrived: when the newest event came in, ms: its ingestion, less the time ingest was behind by; None = no event.
    """

    packs: list[Pack]
    since: list[list[int]]
    events: int
    refused: list[DeadLetter]
    refused_events: list[RefusedEvent]
    unknown: dict[str, int]
    arrived: int | None


def read_packs(messages: Sequence[Message], topic: str, modalities: Mapping[str, ModalitySettings]) -> Contents:
    """Unpack; a foreign message becomes a dead letter, and an event whose modality is not configured, or not as it was.

    Args:
        topic: name of the `events` topic, for the dead letters.
        modalities: the configured ones.
    """
    packs: list[Pack] = []
    since_of_packs: list[list[int]] = []
    refused: list[DeadLetter] = []
    refused_events: list[RefusedEvent] = []
    unknown: dict[str, int] = {}
    arrived: int | None = None
    forms = {name: (None if m.kind is ModalityKind.TABULAR else len(m.numbers)) for name, m in modalities.items()} | {
        ERASURE: 0
    }  # how many numbers an event has
    for message in messages:
        try:
            found = unpack(message.value)
        except ValueError as exc:  # wrong bytes, wrong shape, wrong types
            why = Rejection(ErrorCode.INVALID_PACK, quote(str(exc)))
            refused.append(dead_letter(why, None, message.value, topic, message.partition, message.offset))
            continue
        headers = dict(message.headers)
        since = read_since(headers.get(SINCE_HEADER), len(found.sources))
        if found.ingested_at:
            newest = max(found.ingested_at) - behind.read(headers.get(behind.HEADER))
            arrived = newest if arrived is None else max(arrived, newest)
        of = [forms.get(name, -1) for name in found.modalities]
        if _forms(found) != [of[place] for place in found.modality_of]:
            kept, since_of = [], dict(zip(found.sources, since, strict=True))
            for event in found.events:
                if forms.get(event.modality, -1) == (len(event.numbers) if event.fields is None else None):
                    kept.append(event)
                    continue
                if event.modality not in modalities:
                    unknown[event.modality] = max(event.ingested_at, unknown.get(event.modality, 0))
                why = _refusal(event, known=event.modality in modalities)
                source = (event.source_topic, event.source_partition)
                refused_events.append(
                    RefusedEvent(event.source, event.source_offset, since_of[source], event.modality, str(why.code))
                )
                key, value = event.user_id.encode(), pack(found.now, [event])
                refused.append(dead_letter(why, key, value, topic, message.partition, message.offset))
            found = Pack.of(found.now, kept)
            since = [since_of[source] for source in found.sources]
        packs.append(found)
        since_of_packs.append(since)
    return Contents(packs, since_of_packs, sum(map(len, packs)), refused, refused_events, unknown, arrived)


def _forms(found: Pack) -> list[int | None]:
    """How many numbers each event has; None = tabular."""
    widths: list[int | None] = list(map(len, found.numbers))
    if found.fields is None:
        return widths
    return [width if own is None else None for width, own in zip(widths, found.fields, strict=True)]


def _refusal(event: Event, *, known: bool) -> Rejection:
    if not known:
        return Rejection(ErrorCode.UNKNOWN_MODALITY, f"{quote(event.modality)} is not configured here")
    found = "tabular" if event.fields is not None else f"an event with {len(event.numbers)} numbers"
    return Rejection(ErrorCode.MODALITY_CHANGED, f"{quote(event.modality)} is configured otherwise, this is {found}")
