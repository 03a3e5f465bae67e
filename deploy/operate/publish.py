"""Replay with a real broker: the connection, the producer and the topics of a configuration."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from store.base.stop import obey
from stream.kafka.pacing import SafeProducer
from stream.replay.replay import Pace, ReplayProgress, Router, read, replay
from stream.replay.row_file import RowFile
from stream.topics import Topics

if TYPE_CHECKING:
    from deploy.settings.config import Settings
    from stream.kafka.client import Connection

MAX_MESSAGE_BYTES = 900_000
"""Of one line; librdkafka and the broker allow 1,000,000 with framing and headers."""


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
    files: Sequence[RowFile],
    *,
    pace: Pace,
    skip: int = 0,
    merge: bool = False,
    topic: str | None = None,
    stop: threading.Event,
    on_progress: Callable[[ReplayProgress], None],
    on_acknowledged: Callable[[int], None] | None = None,
) -> ReplayProgress:
    """Send files to the raw topics of `settings`, as `stream.replay.replay` does.

    Args:
        topic: the raw topic of rows that name no modality.

    Raises:
        BrokerError: the broker cannot be reached, or a message was not delivered.
        TopicError: a raw topic cannot be created.
    """
    from deploy.brokers import connect
    from deploy.kafka import topics as topic_setup

    connection = connect(settings, timeout_s=5.0)
    producer, topics = raw_producer(connection, settings, stop=stop)
    topic_setup.ensure(connection, topics.specs(settings.modalities, settings.scenario_names))
    progress = ReplayProgress()
    router = Router(settings.modalities, topics.dead_letters, settings.mapping, topic=topic)
    max_ahead_ms = settings.ingest.max_ahead_ms(m.window_ms for m in settings.modalities.values())
    messages = read(
        files, router, progress, skip=skip, merge=merge, max_bytes=MAX_MESSAGE_BYTES, max_ahead_ms=max_ahead_ms
    )
    return replay(
        messages,
        producer,
        pace=pace,
        stop=stop,
        on_progress=on_progress,
        on_acknowledged=on_acknowledged,
        progress=progress,
    )
