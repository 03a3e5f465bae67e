"""Raw message → canonical event, or the reason why not. Pure: no I/O, the clocks are passed in; never raises.

Every string that leaves here can be written as UTF-8 and every number is finite as float32.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any

from store.base.settings import ModalitySettings, TimeUnit
from store.base.template import value_at
from store.base.user_id import MAX_CHARS, user_id_fault
from stream.clock import EventClock, Place, Source
from stream.events import foreign_format
from stream.events.content import Content, names
from stream.events.decode import decode
from stream.events.event import Event
from stream.events.event_id import derived_id
from stream.events.event_time import EventTime, looks_like
from stream.events.refused import Refused
from stream.rejection import ErrorCode, Rejection, quote
from stream.settings import IngestSettings

MAX_ID_CHARS = 128
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
    ) -> None:
        """source_of: what a raw topic is called in `covers` and in derived ids."""
        self._settings = settings
        self._clock = clock
        self._source_of = source_of
        self._max_future_ms = int(settings.max_future_seconds * 1000)
        self._rules: dict[str, dict[str, _Rules]] = {}
        self._only: dict[str, _Rules] = {}
        for name, modality in modalities.items():
            self._rules.setdefault(modality.topic, {})[name] = _Rules(name, modality)
        for topic, rules in self._rules.items():
            if len(rules) == 1:
                (self._only[topic],) = rules.values()

    def contents(self) -> dict[str, Content]:
        """What each modality makes of its fields, and has counted of them."""
        return {name: rules.content for known in self._rules.values() for name, rules in known.items()}

    def validate(
        self, value: bytes | None, topic: str, partition: int, offset: int, produced_at: int, wall_ms: int
    ) -> Event | Rejection:
        """Judge one raw message and, if it is accepted, advance the clock.

        TS_AHEAD_OF_STREAM is a verdict on what is known by now: where enough that follow agree, the clock moves
        (stream/ingest/judge.py).

        Args:
            value: its bytes. topic, partition, offset: where it lay. produced_at: its timestamp, ms.
            wall_ms: the wall clock, ms.
        """
        raw = decode(value, self._settings.max_event_bytes)
        if isinstance(raw, Rejection):
            return raw
        try:
            rules = self._modality(raw, topic)
            user_id = raw.get(rules.user_id_field)
            # most ids are of the common form; only the others take a call
            if not (
                user_id.__class__ is str
                and user_id.isascii()
                and user_id.isprintable()
                and 2 < len(user_id) <= MAX_CHARS
            ):
                user_id = rules.user_id(raw)
            name = self._source_of(topic)
            event_id = _event_id(raw) or derived_id(name, partition, offset)
            ts = self._ts(raw, rules, (topic, partition), wall_ms)
            text, numbers, fields = rules.content.of(raw)
        except Refused as refused:
            wrapping = foreign_format.of_map(raw) if refused.rejection.code in _LACKING else None
            return refused.rejection if wrapping is None else Rejection(ErrorCode.FOREIGN_FORMAT, wrapping)
        self._clock.advance((topic, partition), ts)
        return Event(
            user_id, rules.name, ts, event_id, text, numbers, fields, name, partition, offset, produced_at, wall_ms
        )

    def _modality(self, raw: dict[str, Any], topic: str) -> _Rules:
        name = raw.get("modality")
        if name is None and (only := self._only.get(topic)) is not None:
            return only
        known = self._rules.get(topic, {})
        if name is None:
            raise Refused(ErrorCode.MISSING_MODALITY, f"topic {topic} carries {', '.join(sorted(known))}: say which")
        if not isinstance(name, str) or name not in known:
            allowed = ", ".join(sorted(known)) or "none"
            raise Refused(ErrorCode.UNKNOWN_MODALITY, f"{quote(name)}; on topic {topic}: {allowed}")
        return known[name]

    def _ts(self, raw: dict[str, Any], rules: _Rules, source: Source, wall_ms: int) -> int:
        value = raw.get(rules.ts_field)
        if value is None and (value := value_at(raw, rules.ts_field)) is None:
            raise Refused(ErrorCode.MISSING_TS, f"the event has no {rules.ts_field}; it has {names(raw)}")
        # the common form, without a call
        ts = value if value.__class__ is int and rules.in_ms and 0 <= value < _MAX_TS else rules.time.of(value)
        if ts > wall_ms + self._max_future_ms:
            hint = looks_like(value, rules.time.unit, wall_ms)
            raise Refused(ErrorCode.TS_IN_FUTURE, f"{(ts - wall_ms) / 1000:.0f} s ahead of the wall clock{hint}")
        place = self._clock.place(source, ts, rules.window_ms, wall_ms)
        if place is not _FITS:
            raise self._misplaced(place, source, ts, rules, looks_like(value, rules.time.unit, wall_ms))
        return ts

    def _misplaced(self, place: Place, source: Source, ts: int, rules: _Rules, hint: str) -> Refused:
        if place is Place.TOO_OLD:
            moment = (
                datetime.fromtimestamp(ts / 1000, UTC).isoformat(timespec="seconds") if ts < _MAX_SHOWN_MS else str(ts)
            )
            return Refused(ErrorCode.TS_TOO_OLD, f"{moment} is before the window of {rules.name}{hint}")
        newest, bound = self._clock.get(source), self._clock.max_ahead_ms / _DAY_MS
        if newest is None:
            return Refused(ErrorCode.TS_AHEAD_OF_STREAM, f"{source[0]}:{source[1]} has no time yet")
        ahead = (ts - newest) / _DAY_MS
        return Refused(
            ErrorCode.TS_AHEAD_OF_STREAM,
            f"{ahead:.1f} days ahead of {source[0]}:{source[1]}; at most {bound:.4g} (ingest.max_ahead_days)",
        )


class _Rules:
    """One modality's."""

    def __init__(self, name: str, settings: ModalitySettings) -> None:
        self.name = name
        self.window_ms = settings.window_ms
        self.content = Content(settings)
        self.time = EventTime(settings)
        self.ts_field = settings.ts_field
        self.in_ms = settings.ts_unit is TimeUnit.MILLISECONDS
        self.user_id_field = settings.user_id_field
        self._integers = settings.user_id_integers

    def user_id(self, raw: dict[str, Any]) -> str:
        """The event's user. Raises Refused."""
        name = self.user_id_field
        value = raw.get(name)
        if value is None and (value := value_at(raw, name)) is None:
            raise Refused(ErrorCode.MISSING_USER_ID, f"the event has no {name}; it has {names(raw)}")
        if value.__class__ is int and self._integers:
            value = str(value)
        if value.__class__ is not str:
            how = "; user_id_integers = true takes integers" if value.__class__ is int else ""
            raise Refused(ErrorCode.INVALID_USER_ID, f"{quote(value)} is not a string{how}")
        if fault := user_id_fault(value):
            raise Refused(ErrorCode.INVALID_USER_ID, f"{quote(value)}: {fault}")
        return value


def _event_id(raw: dict[str, Any]) -> str | None:
    value = raw.get("event_id")
    if value is None:
        return None
    if not isinstance(value, str) or not 0 < len(value) <= MAX_ID_CHARS:
        raise Refused(ErrorCode.INVALID_EVENT_ID, f"{quote(value)} is not a string of 1 to {MAX_ID_CHARS} characters")
    return value
