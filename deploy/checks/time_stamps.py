"""Whether Kafka's time stamps of the last raw messages can be the moments of their producing: lag in seconds and
freshness count from those. An event's own time has its own field. Reads, commits nothing."""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from collections.abc import Iterable
from datetime import UTC, datetime
from enum import Enum
from typing import Any

from deploy.checks.broker import opened
from deploy.checks.events import last_messages
from deploy.checks.finding import Finding, Level
from deploy.settings.config import Settings

NAME = "time stamps"
AHEAD_MS = 60_000
"""Clocks differ; lag and freshness take no more either."""
OLD_MS = 30 * 86_400_000
"""Freshness takes nothing older for the time of producing."""
SMALLEST_MS = 100_000_000_000
"""1973; in seconds the year 5138."""


class Kind(Enum):
    """Of a time stamp."""

    GOOD = 0
    APPENDED = 1
    ABSENT = 2
    SECONDS = 3
    AHEAD = 4
    OLD = 5


def check_time_stamps(settings: Settings) -> Finding:
    """Judge those of the last messages of the raw topics."""
    connection = opened(settings)
    if connection is None:
        return Finding(NAME, Level.OK, "none yet: no broker runs")
    raw_topics = {m.topic for m in settings.modalities.values()}
    return judged(last_messages(connection, raw_topics), int(time.time() * 1000))


def kind_of(stamp: tuple[int, int], now_ms: int) -> Kind:
    """stamp: as confluent-kafka gives it. Pure."""
    from confluent_kafka import TIMESTAMP_LOG_APPEND_TIME, TIMESTAMP_NOT_AVAILABLE

    kind, ms = stamp
    if kind == TIMESTAMP_LOG_APPEND_TIME:
        return Kind.APPENDED
    if kind == TIMESTAMP_NOT_AVAILABLE or ms < 0:
        return Kind.ABSENT
    if ms < SMALLEST_MS:
        return Kind.SECONDS
    if ms > now_ms + AHEAD_MS:
        return Kind.AHEAD
    return Kind.OLD if ms < now_ms - OLD_MS else Kind.GOOD


def judged(messages: Iterable[Any], now_ms: int) -> Finding:
    """The finding of these messages. Pure."""
    kinds: dict[str, Counter[Kind]] = defaultdict(Counter)
    stamps: dict[tuple[str, Kind], list[int]] = defaultdict(list)
    for message in messages:
        kind = kind_of(message.timestamp(), now_ms)
        kinds[message.topic()][kind] += 1
        stamps[message.topic(), kind].append(message.timestamp()[1])
    if not kinds:
        return Finding(NAME, Level.OK, "none yet")
    said = {kind: _said(kind, kinds, stamps) for kind in Kind}
    wrong = [text for kind in (Kind.ABSENT, Kind.SECONDS, Kind.AHEAD, Kind.OLD) for text in said[kind]]
    if wrong:
        return Finding(
            NAME,
            Level.WARN,
            "; ".join([*wrong, "lag in seconds and freshness pass them over"]),
            "let the producer leave the record's time stamp to its client library (an event's own time is in the "
            "event), or set message.timestamp.type=LogAppendTime of the topic",
        )
    count = sum(of.total() for of in kinds.values())
    detail = f"of the last {count}, all may be the time of producing"
    return Finding(NAME, Level.OK, "; ".join([detail, *said[Kind.APPENDED]]))


def _said(kind: Kind, kinds: dict[str, Counter[Kind]], stamps: dict[tuple[str, Kind], list[int]]) -> list[str]:
    """A text a topic that has such."""
    texts = []
    for topic, counts in sorted(kinds.items()):
        if not (found := counts[kind]):
            continue
        first, last = (_moment(of(stamps[topic, kind])) for of in (min, max))
        span = first if first == last else f"{first} to {last}"
        what = {
            Kind.GOOD: "",
            Kind.APPENDED: "are the broker's (LogAppendTime): the way to the broker is in no freshness",
            Kind.ABSENT: "have no time stamp (-1)",
            Kind.SECONDS: f"have {min(stamps[topic, kind])}, which looks like seconds, not milliseconds",
            Kind.AHEAD: f"are ahead of now: {span}",
            Kind.OLD: f"are of {span}: the event's own time, a wrong clock, or nothing has come since",
        }[kind]
        texts.append(f"{topic}: {found} of the last {counts.total()} {what}")
    return texts


def _moment(ms: int) -> str:
    try:
        return datetime.fromtimestamp(ms / 1000, UTC).strftime("%Y-%m-%d %H:%M")
    except (OverflowError, ValueError, OSError):
        return str(ms)
