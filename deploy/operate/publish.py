"""Replay with a real broker: the connection, the producer and the topics of a configuration."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from store.base.stop import obey
from stream.kafka.pacing import SafeProducer
from stream.replay.order import Merging, read
from stream.replay.pace import Pace
from stream.replay.replay import ReplayProgress, Router, replay
from stream.replay.resume import ResumeFile
from stream.replay.row_file import RowFile
from stream.topics import Topics

if TYPE_CHECKING:
    from deploy.settings.config import Settings
    from stream.kafka.client import Connection

MAX_MESSAGE_BYTES = 900_000
"""Of one row; librdkafka and the broker allow 1,000,000 with framing and headers."""
_TICK_SECONDS = 0.2


@dataclass(frozen=True, slots=True)
class Publishing:
    """How files are sent. topic: the raw topic of rows that name no modality. merge: by event time.

    position, skip: where it is kept how far the replay is, and how far it was: rows of each file.
    """

    pace: Pace
    topic: str | None = None
    merge: Merging | None = None
    position: ResumeFile | None = None
    skip: Sequence[int] = ()


def router_of(settings: Settings, topic: str | None) -> Router:
    """Which topic a row goes to, by the configuration. topic: as of `Publishing`."""
    return Router(settings.modalities, Topics(settings.kafka).dead_letters, settings.mapping, topic=topic)


def open_broker(settings: Settings) -> Connection:
    """The broker, with the topics of the configuration.

    Raises:
        BrokerError: it cannot be reached.
        TopicError: a topic cannot be created, or is not as it must be.
    """
    from deploy import brokers
    from deploy.kafka import topics as topic_setup

    connection = brokers.connect(settings, timeout_s=5.0)
    topic_setup.ensure(connection, brokers.specs(settings))
    return connection


def wait_until_restored(settings: Settings, stop: threading.Event, on_wait: Callable[[int], object]) -> None:
    """Until an embedded broker has been given back what it kept: what is sent now is to come behind it.

    on_wait: called with how many messages are left. Raises Stopped.
    """
    from deploy.brokers import restoring

    while left := restoring(settings):
        on_wait(left)
        obey(stop)
        stop.wait(_TICK_SECONDS)


def raw_producer(
    connection: Connection,
    settings: Settings,
    *,
    stop: threading.Event,
    while_waiting: Callable[[], object] = lambda: None,
) -> tuple[SafeProducer, Topics]:
    """A producer for the raw topics, and the topics' names.

    On an embedded broker it keeps within what ingest has read, and leaves `produce` by Stopped once `stop` is set.
    """

    def waiting() -> None:
        while_waiting()
        obey(stop)

    topics = Topics(settings.kafka)
    specs = topics.specs(settings.modalities, settings.scenario_names)
    return SafeProducer(connection, specs, while_waiting=waiting), topics


def publish_files(
    settings: Settings,
    connection: Connection,
    files: Sequence[RowFile],
    how: Publishing,
    *,
    stop: threading.Event,
    on_progress: Callable[[ReplayProgress], None],
    progress: ReplayProgress,
) -> ReplayProgress:
    """Send files to the raw topics of `settings`, as `stream.replay.replay` does.

    Raises:
        BrokerError: a message was not delivered.
        AnchorstreamError: `file_unreadable`, when all before it is acknowledged.
    """
    shown = time.monotonic()

    def while_waiting() -> None:
        nonlocal shown
        if time.monotonic() - shown >= _TICK_SECONDS:
            shown = time.monotonic()
            show(progress)

    def show(now: ReplayProgress) -> None:
        now.waiting = producer.waiting_for
        if now.started is not None:
            now.seconds = time.monotonic() - now.started
        on_progress(now)

    def tick() -> None:
        while_waiting()
        obey(stop)

    producer, _ = raw_producer(connection, settings, stop=stop, while_waiting=while_waiting)
    skip = list(how.skip) or [0] * len(files)
    messages = read(
        files,
        router_of(settings, how.topic),
        progress,
        skip=skip,
        merge=how.merge,
        whole_only=how.position is not None,
        max_bytes=MAX_MESSAGE_BYTES,
        tick=tick,
    )

    def save(taken: Mapping[int, int]) -> None:
        if how.position is not None:
            producer.wait_kept()
            how.position.save([before + taken.get(number, 0) for number, before in enumerate(skip)])

    return replay(
        messages,
        producer,
        pace=how.pace,
        stop=stop,
        on_progress=show,
        on_acknowledged=None if how.position is None else save,
        progress=progress,
    )
