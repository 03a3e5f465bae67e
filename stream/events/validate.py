"""Raw message → canonical event, or the reason why not. Pure: no I/O, the clocks are passed in; never raises.

Rules: numbers are numbers (a numeric string is refused), null = missing, what the config does not name is ignored
unless the modality has no template or is tabular, and then every scalar at the top level counts.
Every string that leaves here can be written as UTF-8 and every number is finite as float32.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from store.base.settings import ModalityKind, ModalitySettings
from store.base.template import Template
from stream.clock import EventClock, Place, Source
from stream.events.decode import decode
from stream.events.event import Event, FieldValue
from stream.events.event_id import derived_id
from stream.rejection import ErrorCode, Rejection, quote
from stream.settings import IngestSettings

MAX_ID_CHARS = 128
MAX_TEXT_CHARS = 2000
RESERVED = frozenset({"event_id", "user_id", "ts", "modality"})

_MAX_TS = 2**63
_DAY_MS = 86_400_000
_MAX_F4 = 3.4028235e38
_NUMBERS = (float, int)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MS = timedelta(milliseconds=1)
_RFC3339 = re.compile(
    r"[0-9]{4}-[0-9]{2}-[0-9]{2}[Tt ][0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]+)?([Zz]|[+-][0-9]{2}:[0-9]{2})"
)


class Refused(Exception):
    """Carries a rejection out of a nested rule; never leaves this module."""

    def __init__(self, code: ErrorCode, detail: str) -> None:
        super().__init__(detail)
        self.rejection = Rejection(code, detail)


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
            user_id = _user_id(raw)
            rules = self._modality(raw, topic)
            name = self._source_of(topic)
            event_id = _event_id(raw) or derived_id(name, partition, offset)
            ts = self._ts(raw, rules, (topic, partition), wall_ms)
            text, numbers, fields = rules.content(raw)
        except Refused as refused:
            return refused.rejection
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
        ts = parse_ts(raw.get("ts"))
        if ts > wall_ms + self._max_future_ms:
            raise Refused(ErrorCode.TS_IN_FUTURE, f"{(ts - wall_ms) / 1000:.0f} s ahead of the wall clock")
        place = self._clock.place(source, ts, rules.window_ms, wall_ms)
        if place is not Place.FITS:
            raise self._misplaced(place, source, ts, rules, wall_ms)
        return ts

    def _misplaced(self, place: Place, source: Source, ts: int, rules: _Rules, wall_ms: int) -> Refused:
        if place is Place.TOO_OLD:
            oldest = self._clock.oldest(source, rules.window_ms, wall_ms)
            return Refused(ErrorCode.TS_TOO_OLD, f"{(oldest - ts) / 1000:.0f} s before the window of {rules.name}")
        newest, bound = self._clock.get(source), self._clock.max_ahead_ms / _DAY_MS
        if newest is None:
            return Refused(ErrorCode.TS_AHEAD_OF_STREAM, f"{source[0]}:{source[1]} has no time yet")
        ahead = (ts - newest) / _DAY_MS
        return Refused(
            ErrorCode.TS_AHEAD_OF_STREAM,
            f"{ahead:.1f} days ahead of {source[0]}:{source[1]}; at most {bound:.4g} (ingest.max_ahead_days)",
        )


class _Rules:
    """What one modality makes of an event's own fields."""

    def __init__(self, name: str, settings: ModalitySettings) -> None:
        self.name = name
        self.window_ms = settings.window_ms
        self._numbers = settings.numbers
        self._tabular = settings.kind is ModalityKind.TABULAR
        self._template = Template(settings.text) if settings.text else None
        self._not_text = RESERVED | set(settings.numbers)

    def content(self, raw: dict[str, Any]) -> tuple[str, tuple[float | None, ...], dict[str, FieldValue] | None]:
        """Text, numbers and fields of an event."""
        if self._tabular:
            return "", (), _fields(raw)
        numbers = tuple([number(name, raw.get(name)) for name in self._numbers]) if self._numbers else ()
        if self._template is None:
            parts = [f"{k}: {scalar(k, raw[k])}" for k in sorted(raw.keys() - self._not_text) if _is_scalar(raw[k])]
            text = ", ".join(parts)
        else:
            text = self._template.render(raw, scalar)
        return " ".join(text.split())[:MAX_TEXT_CHARS], numbers, None


def parse_ts(value: Any) -> int:
    """Epoch milliseconds of a `ts`. Raises Refused."""
    if value is None:
        raise Refused(ErrorCode.MISSING_TS, "the event has no ts")
    ts = -1
    if isinstance(value, int) and not isinstance(value, bool):
        ts = value
    elif isinstance(value, float) and math.isfinite(value) and value >= 0:
        ts = int(value)
    elif isinstance(value, str) and _RFC3339.fullmatch(value):
        try:
            ts = (datetime.fromisoformat(value.upper()) - _EPOCH) // _MS
        except (ValueError, OverflowError):
            ts = -1
    if not 0 <= ts < _MAX_TS:
        raise Refused(ErrorCode.INVALID_TS, f"{quote(value)} is neither epoch milliseconds nor RFC 3339 with an offset")
    return ts


def number(name: str, value: Any) -> float | None:
    """A configured number as a float that is finite in float32, or None. Raises Refused."""
    if value is None:
        return None
    if value.__class__ in _NUMBERS and -_MAX_F4 <= value <= _MAX_F4:  # bool is neither class
        return float(value)
    raise Refused(ErrorCode.INVALID_FIELD, f"{quote(name)} = {quote(value)} is not a finite number")


def scalar(name: str, value: Any) -> str:
    """A field as text: null is empty, booleans are lower case. Raises Refused for anything nested."""
    if isinstance(value, str):
        return value
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int) or (isinstance(value, float) and math.isfinite(value)):
        return str(value)
    raise Refused(ErrorCode.INVALID_FIELD, f"{quote(name)} = {quote(value)} is not a string, number, boolean or null")


def _is_scalar(value: Any) -> bool:
    return isinstance(value, (str, int, float))


def _fields(raw: dict[str, Any]) -> dict[str, FieldValue]:
    fields: dict[str, FieldValue] = {}
    for name, value in raw.items():
        if name in RESERVED or not (value is None or _is_scalar(value)):
            continue
        if not 0 < len(name) <= MAX_ID_CHARS:
            raise Refused(ErrorCode.INVALID_FIELD, f"a field name has 1 to {MAX_ID_CHARS} characters: {quote(name)}")
        if isinstance(value, (str, bool)):
            fields[name] = " ".join(scalar(name, value).split())[:MAX_TEXT_CHARS]
        else:
            fields[name] = number(name, value)
    return dict(sorted(fields.items()))


def _user_id(raw: dict[str, Any]) -> str:
    value = raw.get("user_id")
    if value is None:
        raise Refused(ErrorCode.MISSING_USER_ID, "the event has no user_id")
    if not isinstance(value, str) or not 0 < len(value) <= MAX_ID_CHARS:
        raise Refused(ErrorCode.INVALID_USER_ID, f"{quote(value)} is not a string of 1 to {MAX_ID_CHARS} characters")
    return value


def _event_id(raw: dict[str, Any]) -> str | None:
    value = raw.get("event_id")
    if value is None:
        return None
    if not isinstance(value, str) or not 0 < len(value) <= MAX_ID_CHARS:
        raise Refused(ErrorCode.INVALID_EVENT_ID, f"{quote(value)} is not a string of 1 to {MAX_ID_CHARS} characters")
    return value
