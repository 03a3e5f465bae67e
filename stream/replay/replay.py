"""Publish recorded events to the raw topics, as fast as the broker takes them or at a chosen pace.

Lines are sent as they are, bad ones too: ingest judges them. A line whose modality is not configured goes to the first
raw topic and is refused there. Only a line without any `modality`, where several are configured and none of their
topics is shared, is put into dead letters from here: a topic of one modality would take it for its own.
"""

from __future__ import annotations

import json
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

from store.base.errors import AnchorstreamError
from store.base.settings import ModalitySettings
from store.base.stop import Stopped
from stream.dead_letter import NO_PARTITION, dead_letter
from stream.events.mapping import TopicMapping, TopicMappings
from stream.events.refused import Refused
from stream.rejection import ErrorCode, Rejection
from stream.replay.pace import Pace, PaceClock, timed
from stream.replay.row_file import FILE_UNREADABLE, Row
from stream.settings import MappingSettings

Headers = list[tuple[str, bytes | None]]

SHOWN_UNSENT = 10
"""So many lines that could not be sent are named in the result."""


class Outgoing(NamedTuple):
    """One message: where it goes and what is in it.

    ts: event time, ms, where one can be read. unsendable: why it cannot be sent at all; empty = it can. file: number of
    the file it comes from. skipped: why ingest will pass it over; empty = it will not.
    """

    topic: str
    key: bytes | None
    value: bytes | None
    ts: int | None = None
    headers: Headers | None = None
    unsendable: str = ""
    file: int = 0
    skipped: str = ""


class Producer(Protocol):
    """What replay needs of a producer; `stream.kafka.pacing.SafeProducer` is one."""

    def produce(
        self, topic: str, value: bytes | None, key: bytes | None = None, *, headers: Headers | None = None
    ) -> None:
        """Queue a message; blocks while the queue is full or readers are too far behind. Raises Stopped: not sent."""

    def flush(self, timeout: float) -> None:
        """Wait until all are delivered. Raises BrokerError if one was not."""


class Router:
    """Which topic a row goes to, by the rules that ingest reads it by there."""

    def __init__(
        self,
        modalities: Mapping[str, ModalitySettings],
        dead_letters: str,
        mapping: Mapping[str, MappingSettings] | None = None,
        *,
        topic: str | None = None,
    ) -> None:
        """mapping: by raw topic. topic: of lines that name no modality, or none that there is; None = as the
        configuration tells."""
        self._topic = topic
        self._modalities = tuple(modalities)
        self._mappings = TopicMappings(modalities, mapping)
        topics = [modality.topic for modality in modalities.values()]
        self._first = topic or topics[0]
        shared = [name for name in topics if topics.count(name) > 1]
        self._missing = topic or (self._first if len(topics) == 1 else shared[0] if shared else None)
        self._dead_letters = dead_letters

    def route_row(self, row: Row) -> Outgoing:
        """The same for a row of a file."""
        if row.value is None:
            return Outgoing(self._first, None, None, unsendable=f"{row.place}: {row.fault}")
        return self.route(row.value, row)

    def route(self, value: bytes, origin: Row | None = None) -> Outgoing:
        """Topic, key and time of one line. Never raises: what cannot be read goes where it will be refused."""
        event = _object(value)
        if event is None:
            return Outgoing(self._first, None, value)
        topic = self._mappings.topic_named(event, self._topic) or self._missing
        mapping = self._mappings.by_topic[topic or self._first]
        mapping.prepare(event)
        user = mapping.user_text(event)
        key = _utf8(user) if isinstance(user, str) else None
        ts = event_ts(event, mapping)
        if topic is not None:
            skipped = mapping.skipped(event) if mapping.may_skip else None
            return Outgoing(topic, key, value, ts, skipped=skipped.value if skipped else "")
        where = origin.place if origin else "the event"
        detail = ascii(f"{where} names no modality; configured: {', '.join(self._modalities)}")
        why = Rejection(ErrorCode.MISSING_MODALITY, detail)
        letter = dead_letter(why, key, value, self._first, NO_PARTITION, origin.number if origin else -1)
        return Outgoing(self._dead_letters, letter.key, letter.value, ts, letter.headers)


@dataclass(slots=True)
class ReplayProgress:
    """What has been done so far. `sent` counts messages queued; after `replay` returns, all are acknowledged.

    skipped: rows passed over by `resume`. unsent: rows no broker would take, as `file:line: why`. left: last lines that
    may go on, as `file:line`. letters: of those sent, put into dead letters, by code. passed_over: of those sent, what
    ingest will skip, by reason. phase: what is done before anything is sent. waiting: what it waits for.
    """

    sent: int = 0
    bytes: int = 0
    skipped: int = 0
    unsent: int = 0
    first_unsent: list[str] = field(default_factory=list)
    seconds: float = 0.0
    done: float = 0.0
    """Share of the input read, 0 … 1; 0 where it is not known."""
    interrupted: bool = False
    left: list[str] = field(default_factory=list)
    letters: Counter[str] = field(default_factory=Counter)
    passed_over: Counter[str] = field(default_factory=Counter)
    phase: str = ""
    waiting: str = ""
    started: float | None = None
    """When the first message was due, by the clock of `replay`."""

    @property
    def rate(self) -> float:
        """Messages a second so far."""
        return self.sent / self.seconds if self.seconds > 0 else 0.0

    @property
    def eta_seconds(self) -> float | None:
        """Time left at the rate so far; None where the size of the input is not known."""
        return self.seconds * (1 - self.done) / self.done if self.done > 0.001 else None


def replay(
    messages: Iterable[Outgoing],
    producer: Producer,
    *,
    pace: Pace | None = None,
    stop: threading.Event | None = None,
    on_progress: Callable[[ReplayProgress], None] | None = None,
    on_acknowledged: Callable[[Mapping[int, int]], None] | None = None,
    progress: ReplayProgress | None = None,
    progress_seconds: float = 0.2,
    acknowledge_seconds: float = 10.0,
    flush_seconds: float = 120.0,
    clock: Callable[[], float] = time.monotonic,
) -> ReplayProgress:
    """Send messages in order; return when all are acknowledged, or `stop` was set.

    Args:
        on_progress: called about every `progress_seconds`, and once at the end.
        on_acknowledged: called with how many messages of each file are safe at the broker.

    Raises:
        BrokerError: a message could not be delivered within `flush_seconds`.
        AnchorstreamError: `file_unreadable`, when all before it is acknowledged.
    """
    paced = PaceClock(pace or Pace())
    stop = stop or threading.Event()
    now = progress or ReplayProgress()
    started = shown = acknowledged = clock()
    taken: Counter[int] = Counter()
    failure: AnchorstreamError | None = None

    def tick(at: float) -> None:
        now.seconds = at - started
        if on_progress:
            on_progress(now)

    try:
        for message, ts in timed(messages) if paced.by_time else ((m, None) for m in messages):
            if not taken:  # reading may have begun with sorting
                now.started = started = shown = acknowledged = clock()
            due = started + paced.due(ts)
            while (wait := due - clock()) > 0 and not stop.wait(min(wait, progress_seconds)):
                tick(clock())
            if stop.is_set():
                raise Stopped
            if message.unsendable:
                _note_unsent(now, message.unsendable)
            else:
                producer.produce(message.topic, message.value, message.key, headers=message.headers)
                now.sent += 1
                if message.skipped:
                    now.passed_over[message.skipped] += 1
                elif message.headers:
                    now.letters[ErrorCode.MISSING_MODALITY.value] += 1
                now.bytes += len(message.value or b"") + len(message.key or b"")
            taken[message.file] += 1
            at = clock()
            if at - shown >= progress_seconds:
                shown = at
                tick(at)
            if on_acknowledged and at - acknowledged >= acknowledge_seconds:
                producer.flush(flush_seconds)
                on_acknowledged(taken.copy())
                acknowledged = clock()
    except Stopped:
        now.interrupted = True
    except AnchorstreamError as exc:
        if exc.code != FILE_UNREADABLE:
            raise
        failure = exc
    producer.flush(flush_seconds)
    if on_acknowledged:
        on_acknowledged(taken.copy())
    if failure is not None:
        raise failure
    if not now.interrupted:
        now.done = 1.0
    tick(clock())
    return now


def _note_unsent(progress: ReplayProgress, what: str) -> None:
    progress.unsent += 1
    if len(progress.first_unsent) < SHOWN_UNSENT:
        progress.first_unsent.append(what)


def event_ts(event: dict[str, Any], mapping: TopicMapping) -> int | None:
    """Event time in ms by the rules of its topic; None where it has none. For pacing and merging only."""
    try:
        return mapping.ts(event)
    except Refused:
        return None


def _object(value: bytes) -> dict[str, Any] | None:
    try:
        event = json.loads(value)
    except (ValueError, RecursionError):
        return None
    return event if isinstance(event, dict) else None


def _utf8(text: str) -> bytes | None:
    try:
        return text.encode()
    except UnicodeEncodeError:  # half a surrogate pair; ingest refuses the event
        return None
