"""Raw message → canonical event, skipped, or the reason why not. Pure: no I/O, clocks are passed in; never raises.

Every string that leaves here can be written as UTF-8 and every number is finite as float32.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any

from store.base.settings import ERASURE, ModalitySettings
from store.base.user_id import MAX_CHARS
from stream.clock import EventClock, Place, Source
from stream.events import foreign_format
from stream.events.content import Content
from stream.events.decode import decode
from stream.events.event import Event
from stream.events.event_id import derived_id
from stream.events.event_time import looks_like
from stream.events.mapping import MAX_ID_CHARS, TopicMapping, TopicMappings
from stream.events.refused import Refused
from stream.rejection import ErrorCode, Rejection, Skipped, SkipReason
from stream.settings import IngestSettings, MappingSettings

_DAY_MS = 86_400_000
_MAX_TS = 2**63
_FITS = Place.FITS
_MAX_SHOWN_MS = 253_402_300_800_000
_LACKING = frozenset(
    {ErrorCode.MISSING_USER_ID, ErrorCode.MISSING_TS, ErrorCode.MISSING_MODALITY, ErrorCode.NO_CONTENT}
)


class Validator:
    """The rules of one configuration."""

    def __init__(
        self,
        modalities: Mapping[str, ModalitySettings],
        settings: IngestSettings,
        clock: EventClock,
        source_of: Callable[[str], str] = lambda topic: topic,
        mapping: Mapping[str, MappingSettings] | None = None,
    ) -> None:
        """source_of: what a raw topic is called in `covers` and in derived ids. mapping: by raw topic."""
        self._settings = settings
        self._clock = clock
        self._source_of = source_of
        self._max_future_ms = int(settings.max_future_seconds * 1000)
        self._topics = {
            topic: _Topic(of, {name: modalities[name] for name in modalities if modalities[name].topic == topic})
            for topic, of in TopicMappings(modalities, mapping).by_topic.items()
        }

    def contents(self) -> dict[str, Content]:
        """What each modality makes of its fields, and has counted of them."""
        return {name: rules.content for topic in self._topics.values() for name, rules in topic.rules.items()}

    def mappings(self) -> dict[str, TopicMapping]:
        """How each raw topic is read, and what was counted of that."""
        return {topic: of.mapping for topic, of in self._topics.items()}

    def validate(
        self,
        value: bytes | None,
        topic: str,
        partition: int,
        offset: int,
        produced_at: int,
        wall_ms: int,
        key: bytes | None = None,
    ) -> Event | Rejection | Skipped:
        """Judge one raw message and, if it is accepted, advance the clock.

        TS_AHEAD_OF_STREAM is a verdict on what is known by now: where enough that follow agree, the clock moves
        (stream/ingest/judge.py).

        Args:
            value: its bytes. topic, partition, offset: where it lay. produced_at: its timestamp, ms.
            wall_ms: the wall clock, ms. key: the message's; it names who is to be erased.
        """
        raw = decode(value, self._settings.max_event_bytes)
        own = self._topics.get(topic) or _Topic(TopicMapping(topic, ()), {})
        mapping = own.mapping
        if isinstance(raw, Rejection):
            if raw.code is not ErrorCode.NULL_VALUE:
                return raw
            if mapping.null_erases:
                return self._erasure(mapping, key, (topic, partition), offset, produced_at, wall_ms)
            return Skipped(SkipReason.WITHOUT_VALUE) if mapping.skip_without_value else raw
        try:
            if own.is_mapped:
                mapping.prepare(raw)
                if (reason := mapping.skipped(raw)) is not None:
                    return Skipped(reason)
            # most events are of the common form; only the others take calls
            if (rules := own.only) is None or raw.get(mapping.modality_field) is not None:
                rules = own.rules[mapping.modality(raw)]
            user_id = raw.get(mapping.user_id_field)
            if not (
                user_id.__class__ is str
                and user_id.isascii()
                and user_id.isprintable()
                and 2 < len(user_id) <= MAX_CHARS
                and not mapping.reads_ids
            ):
                user_id = mapping.user_id(raw)
            name = self._source_of(topic)
            event_id = raw.get(mapping.event_id_field)
            if not (event_id.__class__ is str and 0 < len(event_id) <= MAX_ID_CHARS):
                event_id = mapping.event_id(raw) or derived_id(name, partition, offset)
            ts = self._ts(raw, mapping, rules, (topic, partition), wall_ms)
            text, numbers, fields = rules.content.of(raw)
        except Refused as refused:
            wrapping = foreign_format.of_map(raw) if refused.rejection.code in _LACKING else None
            return refused.rejection if wrapping is None else Rejection(ErrorCode.FOREIGN_FORMAT, wrapping)
        self._clock.advance((topic, partition), ts)
        return Event(
            user_id, rules.name, ts, event_id, text, numbers, fields, name, partition, offset, produced_at, wall_ms
        )

    def _erasure(
        self, mapping: TopicMapping, key: bytes | None, source: Source, offset: int, produced_at: int, wall_ms: int
    ) -> Event | Rejection:
        """Who is erased is told by the key, up to when by the message's time; it moves no clock."""
        try:
            user_id = mapping.user_of_key(key)
        except Refused as refused:
            return refused.rejection
        if (ahead := produced_at - wall_ms) > self._max_future_ms:
            return Rejection(ErrorCode.TS_IN_FUTURE, f"{ahead / 1000:.0f} s ahead of the wall clock")
        topic, partition = self._source_of(source[0]), source[1]
        name, ts = derived_id(topic, partition, offset), max(produced_at, 0)
        return Event(user_id, ERASURE, ts, name, "", (), None, topic, partition, offset, produced_at, wall_ms)

    def event_time(self, value: bytes | None, topic: str) -> int | None:
        """When it says that it happened, ms; None where that cannot be read. No verdict."""
        raw = decode(value, self._settings.max_event_bytes)
        own = self._topics.get(topic)
        if isinstance(raw, Rejection) or own is None:
            return None
        try:
            return own.mapping.ts(raw)
        except Refused:
            return None

    def _ts(self, raw: dict[str, Any], mapping: TopicMapping, rules: _Rules, source: Source, wall_ms: int) -> int:
        value = raw.get(mapping.ts_field)
        if value is None:
            value = mapping.ts_value(raw)
        ts = value if value.__class__ is int and mapping.time.is_ms and 0 <= value < _MAX_TS else mapping.time.of(value)
        if ts > wall_ms + self._max_future_ms:
            hint = looks_like(value, mapping.time.unit, wall_ms)
            raise Refused(ErrorCode.TS_IN_FUTURE, f"{(ts - wall_ms) / 1000:.0f} s ahead of the wall clock{hint}")
        place = self._clock.place(source, ts, rules.kept_ms, wall_ms)
        if place is not _FITS:
            raise self._misplaced(place, source, ts, rules, looks_like(value, mapping.time.unit, wall_ms))
        return ts

    def _misplaced(self, place: Place, source: Source, ts: int, rules: _Rules, hint: str) -> Refused:
        if place is Place.TOO_OLD:
            moment = (
                datetime.fromtimestamp(ts / 1000, UTC).isoformat(timespec="seconds") if ts < _MAX_SHOWN_MS else str(ts)
            )
            return Refused(ErrorCode.TS_TOO_OLD, f"{moment} is before the {rules.reach} of {rules.name}{hint}")
        newest, bound = self._clock.get(source), self._clock.max_ahead_ms / _DAY_MS
        if newest is None:
            return Refused(ErrorCode.TS_AHEAD_OF_STREAM, f"{source[0]}:{source[1]} has no time yet")
        ahead = (ts - newest) / _DAY_MS
        return Refused(
            ErrorCode.TS_AHEAD_OF_STREAM,
            f"{ahead:.1f} days ahead of {source[0]}:{source[1]}; at most {bound:.4g} (ingest.max_ahead_days)",
        )


class _Topic:
    """One raw topic's. only: of events that name no modality, where the field is not inside others."""

    def __init__(self, mapping: TopicMapping, modalities: Mapping[str, ModalitySettings]) -> None:
        self.mapping = mapping
        self.is_mapped = mapping.may_skip or mapping.empty_is_absent
        self.rules = {name: _Rules(name, modality, mapping) for name, modality in modalities.items()}
        is_flat = "." not in mapping.modality_field
        self.only = None if mapping.only is None or not is_flat else self.rules[mapping.only]


class _Rules:
    """One modality's."""

    def __init__(self, name: str, settings: ModalitySettings, mapping: TopicMapping) -> None:
        self.name = name
        self.kept_ms = settings.kept_ms
        self.reach = "memory" if settings.memory_ms else "window"
        self.content = Content(settings, mapping)
