"""Event times: numbers in a unit, RFC 3339 and what is as unambiguous, local times in a zone. Pure.

    2025-11-21T10:00:00Z   2025-11-21T10:00Z   …+0100   …,123Z   … UTC   …+01:00[Europe/Paris]   20251121T100000Z

A time without an offset is taken only where the topic's mapping says which zone it is in (`ts_zone`). Of an hour that
occurs twice there the first is meant; one that is skipped is read with the offset before the change. Where it gives a
pattern (`ts_pattern`), texts are RFC 3339 or of that pattern and nothing else: a day that is read as a month makes no
error.
"""

from __future__ import annotations

import math
import re
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any
from zoneinfo import ZoneInfo

from stream.events.refused import Refused
from stream.rejection import ErrorCode, quote
from stream.settings import MappingSettings, TimeUnit

_MAX_TS = 2**63
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MS = timedelta(milliseconds=1)
_PER_MS = {TimeUnit.SECONDS: 0.001, TimeUnit.MILLISECONDS: 1, TimeUnit.MICROSECONDS: 1000, TimeUnit.NANOSECONDS: 10**6}
_UNIT_NAMES = {
    TimeUnit.SECONDS: "seconds",
    TimeUnit.MILLISECONDS: "milliseconds",
    TimeUnit.MICROSECONDS: "microseconds",
    TimeUnit.NANOSECONDS: "nanoseconds",
}
_LIKELY_FROM_MS = 946_684_800_000
"""The year 2000: no number of seconds, micro- or nanoseconds of these years is a likely number of milliseconds."""
_RFC3339 = re.compile(
    r"[0-9]{4}-[0-9]{2}-[0-9]{2}[Tt ][0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]+)?([Zz]|[+-][0-9]{2}:[0-9]{2})"
)
_TIME = re.compile(
    r"([0-9]{4})(-?)([0-9]{2})\2([0-9]{2})[Tt ]([0-9]{2})(?::?([0-9]{2})(?::?([0-9]{2})(?:[.,]([0-9]+))?)?)?"
    r" ?(?:([Zz]|UTC|utc|GMT)|([+-][0-9]{2})(?::?([0-9]{2}))?)?(\[[A-Za-z0-9_+/-]+\])?"
)
_DATE = re.compile(r"[0-9]{4}-?[0-9]{2}-?[0-9]{2}")
_MAX_DIGITS = 25
"""As many as decimals are multiplied with exactly."""
_DIGITS = re.compile(r"-?[0-9]+(\.[0-9]+)?")
_DAY_FIRST = re.compile(r"[0-9]{1,2}[./-][0-9]{1,2}[./-][0-9]{2,4}.*", re.DOTALL)


class EventTime:
    """Reads the event times of one raw topic."""

    def __init__(self, settings: MappingSettings) -> None:
        self.unit = settings.ts_unit
        self._zone = None if settings.ts_zone is None else ZoneInfo(settings.ts_zone)
        self._pattern = settings.ts_pattern
        self._numbers_from_text = settings.numbers_from_text
        self._local = settings.ts_local
        self.is_ms = self.unit is TimeUnit.MILLISECONDS and not self._local

    def of(self, value: Any) -> int:
        """Epoch milliseconds. Raises Refused."""
        if value.__class__ is int and self.is_ms:
            ts = value
        elif value.__class__ is str:
            ts = self._text(value)
        elif value.__class__ is int or (value.__class__ is float and math.isfinite(value) and value >= 0):
            ts = self._number(value)
        else:
            raise _invalid(value, "neither a number nor text")
        if not 0 <= ts < _MAX_TS:
            raise _invalid(value, "before 1970" if ts < 0 else f"too large{looks_like(value, self.unit, _MAX_TS)}")
        return ts

    def _text(self, value: str) -> int:
        try:
            if _RFC3339.fullmatch(value):
                return (datetime.fromisoformat(value.upper()) - _EPOCH) // _MS
            if self._numbers_from_text and _DIGITS.fullmatch(text := value.strip()) and len(text) <= _MAX_DIGITS:
                return -1 if text[0] == "-" else self._number(Decimal(text))
            if self._pattern is not None:
                return self._by_pattern(value.strip(), self._pattern)
            found = _TIME.fullmatch(value.strip())
            if found is None:
                raise _invalid(value, _why(value))
            return self._lenient(value, found)
        except (ValueError, OverflowError) as exc:
            raise _invalid(value, f"no such time: {exc}") from None

    def _number(self, value: float | Decimal) -> int:
        ts = in_ms(value, self.unit)
        if not self._local or not 0 <= ts < _LIKELY_TO_MS:
            return ts
        return self._in_zone(_EPOCH + ts * _MS)

    def _in_zone(self, moment: datetime) -> int:
        """Of a local time."""
        return (moment.replace(tzinfo=self._zone).astimezone(UTC) - _EPOCH) // _MS

    def _by_pattern(self, text: str, pattern: str) -> int:
        try:
            moment = datetime.strptime(text, pattern)
        except ValueError:
            raise _invalid(text, f"not of ts_pattern {pattern}") from None
        return self._in_zone(moment) if moment.tzinfo is None else (moment - _EPOCH) // _MS

    def _lenient(self, value: str, found: re.Match[str]) -> int:
        year, _, month, day, hour, minute, second, fraction, utc, offset, offset_minutes, _ = found.groups()
        if minute is None:
            raise _invalid(value, "no minutes")
        text = f"{year}-{month}-{day}T{hour}:{minute}:{second or '00'}.{(fraction or '0')[:6]}"
        if utc or offset:
            return (
                datetime.fromisoformat(text + (f"{offset}:{offset_minutes or '00'}" if offset else "Z")) - _EPOCH
            ) // _MS
        if self._zone is None:
            raise _invalid(value, "no offset from UTC: send one, or set ts_zone")
        return self._in_zone(datetime.fromisoformat(text))


def in_ms(value: float | Decimal, unit: TimeUnit) -> int:
    """A number of units as whole milliseconds, rounded down; exact for integers and decimals."""
    if unit is TimeUnit.SECONDS:
        return int(value * 1000)
    return int(value) // int(_PER_MS[unit])


def looks_like(value: Any, unit: TimeUnit, wall_ms: int) -> str:
    """What a number that is no likely time in its unit is in another: "; looks like seconds…", or ""."""
    if value.__class__ is str and _DIGITS.fullmatch(value.strip()):
        value = float(value)
    elif value.__class__ is not int and value.__class__ is not float:
        return ""
    for other, name in _UNIT_NAMES.items():
        if other is not unit and _LIKELY_FROM_MS <= in_ms(value, other) <= min(wall_ms, _LIKELY_TO_MS) + 86_400_000:
            return f"; looks like {name}: send {_UNIT_NAMES[unit]}, or set ts_unit"
    return ""


_LIKELY_TO_MS = 4_102_444_800_000
"""The year 2100, where nothing says what time it is."""


def _invalid(value: Any, why: str) -> Refused:
    return Refused(
        ErrorCode.INVALID_TS, f"{quote(value)} is neither epoch milliseconds nor RFC 3339 with an offset: {why}"
    )


def _why(value: str) -> str:
    text = value.strip()
    if not text:
        return "empty"
    if _DIGITS.fullmatch(text):
        return "a number sent as text: send it as a number"
    if _DATE.fullmatch(text):
        return "a date without a time"
    if _DAY_FIRST.fullmatch(text):
        return "day and month stand in an unclear order: send year, month, day"
    return "not in a known form"
