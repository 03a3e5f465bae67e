"""Which field is the event's time, and how it is written: unit by magnitude, pattern by trial. Pure.

Candidates are read by ingest's own rules (`stream/events/event_time.py`).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from itertools import islice, pairwise
from typing import Any, NamedTuple

from deploy.init.columns import Column, Table
from deploy.init.words import IDENTIFIER, NO_EVENT_TIME, TIME, TIME_FIRST, compact, words
from stream.events.event_time import EventTime
from stream.events.refused import Refused
from stream.settings import MappingSettings, TimeUnit

FROM_S, TO_S = 978_307_200, 2_240_524_800
"""2001 to 2040, seconds."""
_PER_SECOND = {
    TimeUnit.SECONDS: 1,
    TimeUnit.MILLISECONDS: 10**3,
    TimeUnit.MICROSECONDS: 10**6,
    TimeUnit.NANOSECONDS: 10**9,
}
UNIT_NAMES = {
    TimeUnit.SECONDS: "seconds",
    TimeUnit.MILLISECONDS: "milliseconds",
    TimeUnit.MICROSECONDS: "microseconds",
    TimeUnit.NANOSECONDS: "nanoseconds",
}
ENOUGH = 0.9
"""Of the values, so many must be times."""
_TRIED = 500
_LIKELY_FROM, _LIKELY_TO = 631_152_000_000, 2_240_524_800_000
"""1990 to 2040, ms: of texts, which may be codes of digits."""
_MAX_CHARS = 48
_DATES = (
    *("%Y-%m-%d", "%Y/%m/%d", "%Y.%m.%d"),
    *("%d/%m/%Y", "%m/%d/%Y", "%d.%m.%Y", "%d-%m-%Y", "%m-%d-%Y"),
    *("%d/%m/%y", "%m/%d/%y", "%d.%m.%y", "%d-%m-%y", "%m-%d-%y"),
    *("%d %b %Y", "%d-%b-%Y", "%d/%b/%Y", "%d-%b-%y", "%b %d %Y", "%b %d, %Y", "%d %B %Y", "%B %d, %Y"),
    *("%a, %d %b %Y", "%a %d %b %Y", "%Y%m%d"),
)
_CLOCKS = (
    *("", " %H:%M:%S", " %H:%M", " %H:%M:%S.%f", " %I:%M:%S %p", " %I:%M %p", " %I:%M:%S%p", " %I:%M%p"),
    *("T%H:%M:%S", "T%H:%M", "T%H:%M:%S.%f", ", %H:%M:%S", ", %H:%M", ":%H:%M:%S", " %H.%M", " %H.%M.%S"),
)
_ZONES = ("", " %z", "%z", " GMT", " UTC")
PATTERNS = (
    *(date + clock + zone for date in _DATES for clock in _CLOCKS for zone in (_ZONES if clock else ("",))),
    *("%a %b %d %H:%M:%S %Y", "%a %b %d %H:%M:%S UTC %Y", "%Y%m%d%H%M%S", "%Y%m%d%H%M"),
)
"""Tried in this order: year first, then day first, then month first."""


_RUNS = re.compile(r"[0-9]+|[^\W\d_]+|\s+")
_DIRECTIVE = re.compile(r"%([a-zA-Z])")
_OFFSET = re.compile(r"([+-]9(:9)?|A)$")
_LETTERS = frozenset("abBp")


def _shape(text: str) -> str:
    """Runs of digits as 9, of letters as A, spaces as one."""
    return _RUNS.sub(lambda run: "9" if run[0][0].isdigit() else " " if run[0].isspace() else "A", text)


def _shapes(text: str) -> set[str]:
    """Those that a pattern of this text may have; an offset is z."""
    shape = _shape(text)
    return {shape, _OFFSET.sub("z", shape)}


def _shape_of_pattern(pattern: str) -> str:
    body = pattern.removesuffix("%z")
    letters = _DIRECTIVE.sub(lambda found: "x" if found[1] in _LETTERS else "9", body)
    return _shape(letters) + ("z" if body != pattern else "")


_BY_SHAPE: dict[str, list[str]] = {}
for _pattern in PATTERNS:
    _BY_SHAPE.setdefault(_shape_of_pattern(_pattern), []).append(_pattern)


class Reading(NamedTuple):
    """How a column's values become times. settings: of the mapping, without `ts`. why, unsure: in words."""

    settings: dict[str, Any]
    why: str
    unsure: tuple[str, ...] = ()

    @property
    def from_text(self) -> bool:
        """Whether they are numbers written as text."""
        return bool(self.settings.get("numbers_from_text"))


class TimeGuess(NamedTuple):
    """The event's time. times: one a row, epoch milliseconds; None where there is none. readable: of the values."""

    column: str
    reading: Reading
    times: tuple[int | None, ...]
    readable: float
    score: float


def unit_of(values: Sequence[float]) -> TimeUnit | None:
    """The unit in which nearly all are times of 2001 to 2040; None: there is none."""
    for unit, per_second in _PER_SECOND.items():
        inside = sum(FROM_S * per_second <= value < TO_S * per_second for value in values)
        if values and inside >= ENOUGH * len(values):
            return unit
    return None


def guess_times(table: Table, wall_ms: int, *, ordered: bool = True) -> list[TimeGuess]:
    """Columns that are times, the likeliest for the event's first. ordered: the rows lie as they were written."""
    found = [guess for column in table.columns.values() if (guess := _guess(column, wall_ms, ordered=ordered))]
    return sorted(found, key=lambda guess: -guess.score)


def in_order(times: Iterable[int | None]) -> float:
    """Share of the steps that do not go back."""
    known = [ts for ts in times if ts is not None]
    steps = [later >= earlier for earlier, later in pairwise(known)]
    return sum(steps) / len(steps) if steps else 1.0


def _guess(column: Column, wall_ms: int, *, ordered: bool) -> TimeGuess | None:
    hint = _hint(column.name)
    reading = _numbers(column, hint) or _texts(column, wall_ms, ordered=ordered)
    if reading is None or column.nested:
        return None
    times = read(column, reading)
    known = [ts for ts in times if ts is not None]
    readable = len(known) / column.present
    if readable < ENOUGH:
        return None
    late = sum(ts > wall_ms + 600_000 for ts in known) / len(known)
    score = hint + 2 * column.share + in_order(known) + min(len(set(known)), 100) / 100 - 4 * late
    score -= 0.2 * column.name.count(".")
    return TimeGuess(column.name, reading, times, readable, score)


def _hint(name: str) -> float:
    own = words(name.split(".")[-1])
    if any(word in NO_EVENT_TIME for word in own):
        return -1.5
    for tier, names in zip((4.0, 3.0), TIME_FIRST, strict=True):
        if (found := compact(name)) in names:
            return tier - names.index(found) / 100
    return 2.0 if any(word in TIME for word in own) else -1.0 if any(word in IDENTIFIER for word in own) else 0.0


def _numbers(column: Column, hint: float) -> Reading | None:
    if not column.are_numbers or (unit := unit_of(column.numbers)) is None:
        return None
    if hint < 0 and not any(word in NO_EVENT_TIME for word in words(column.name)):
        return None  # an id of ten digits
    settings: dict[str, Any] = {"ts_unit": unit.value}
    if column.texts:
        settings["numbers_from_text"] = True
    name = UNIT_NAMES[unit]
    first = datetime.fromtimestamp(min(column.numbers) / _PER_SECOND[unit], UTC) if column.numbers else None
    why = f"Numbers of this size are {name} since 1970 (the first is of {first:%Y-%m-%d})"
    if all(number % (60 * _PER_SECOND[unit]) == 0 for number in column.numbers):
        doubt = (
            f"{column.name} is read as {name} since 1970 in UTC. All are whole minutes, as a table of local times may "
            "have written them: if so, set ts_local = true and ts_zone"
        )
        return Reading(settings, why, (doubt,))
    return Reading(settings, why)


def _texts(column: Column, wall_ms: int, *, ordered: bool) -> Reading | None:
    if not column.texts or column.texts < ENOUGH * column.present:
        return None
    counts = Counter({str(value): count for (kind, value), count in column.counts.items() if kind is str})
    texts = dict(counts.most_common(_TRIED))
    if not any(char.isdigit() for text in islice(texts, 3) for char in text) or column.mean_chars > _MAX_CHARS:
        return None
    if _all_read(texts, MappingSettings()):
        return Reading({}, "RFC 3339 with an offset")
    if _all_read(texts, MappingSettings(ts_zone="UTC")):
        return Reading({"ts_zone": "UTC"}, "Times without an offset", (_no_zone(column.name),))
    shapes = {shape for text in islice(texts, 3) for shape in _shapes(text.strip())}
    fits = [pattern for shape in sorted(shapes) for pattern in _BY_SHAPE.get(shape, ()) if _parses(texts, pattern)]
    if not fits:
        return None
    best = min(fits, key=lambda pattern: (*_doubts(column, pattern, wall_ms, ordered=ordered), fits.index(pattern)))
    reading = _pattern_settings(best)
    unsure = [] if "%z" in best or best.endswith((" GMT", " UTC")) else [_no_zone(column.name)]
    others = [pattern for pattern in fits if _differ(texts, best, pattern)]
    if others:
        sure = _doubts(column, best, wall_ms, ordered=ordered) < min(
            _doubts(column, pattern, wall_ms, ordered=ordered) for pattern in others
        )
        why = "but then fewer rows are in order" if sure else "and nothing in the rows tells which is right"
        unsure.append(f"{column.name} is read as {best}; {' or '.join(others[:2])} would fit too, {why}")
    return Reading(reading, f"The texts are of the pattern {best}", tuple(unsure))


def read(column: Column, reading: Reading) -> tuple[int | None, ...]:
    """Its values as ingest would read them."""
    rules = EventTime(MappingSettings(**reading.settings))
    known: dict[Any, int | None] = {}
    return tuple(None if value is None else _of(rules, value, known) for value in column.values)


def _of(rules: EventTime, value: Any, known: dict[Any, int | None]) -> int | None:
    if value not in known:
        try:
            known[value] = rules.of(value)
        except Refused:
            known[value] = None
    return known[value]


def _all_read(texts: Mapping[str, int], settings: MappingSettings) -> bool:
    """texts: how often each occurs."""
    rules, known = EventTime(settings), dict[Any, int | None]()
    good = 0
    for text, count in texts.items():
        ts = _of(rules, text, known)
        good += count * (ts is not None and _LIKELY_FROM <= ts < _LIKELY_TO)
    return good >= ENOUGH * sum(texts.values())


def _pattern_settings(pattern: str) -> dict[str, Any]:
    return {"ts_pattern": pattern} if "%z" in pattern else {"ts_pattern": pattern, "ts_zone": "UTC"}


def _moment(text: str, pattern: str) -> datetime | None:
    try:
        return datetime.strptime(text.strip(), pattern)
    except ValueError:
        return None


def _parses(texts: Mapping[str, int], pattern: str) -> bool:
    left = (1 - ENOUGH) * sum(texts.values())
    for text, count in texts.items():
        moment = _moment(text, pattern)
        if moment is None or not 1990 <= moment.year < 2040:
            left -= count
        if left < 0:
            return False
    return bool(texts)


def _doubts(column: Column, pattern: str, wall_ms: int, *, ordered: bool) -> tuple[float, float]:
    """Less is better: share that would lie in the future, steps back."""
    times = [ts for ts in read(column, Reading(_pattern_settings(pattern), "")) if ts is not None]
    late = sum(ts > wall_ms + 600_000 for ts in times) / max(len(times), 1)
    unread = 1 - len(times) / max(column.present, 1)
    return round(late + unread, 3), round(1 - in_order(times), 3) if ordered else 0.0


def _differ(texts: Iterable[str], one: str, other: str) -> bool:
    return one != other and any(_moment(text, one) != _moment(text, other) for text in texts)


def _no_zone(name: str) -> str:
    return f"{name} has no offset: taken for UTC. If it is the time of a place, set ts_zone (Europe/Paris)"
