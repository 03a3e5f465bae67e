"""Ingest must never wait for what cannot come: an acknowledgement that was lost, a partition that nobody resumes."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from confluent_kafka import TopicPartition

from deploy.brokers.process import EmbeddedBroker
from store.base.errors import BrokerError
from store.base.settings import ModalitySettings
from stream.ingest.ingest import MAX_IN_FLIGHT, Ingest
from stream.kafka.client import Connection
from stream.settings import IngestSettings, KafkaSettings
from stream.topics import Topics

MESSAGES = 20
MODALITIES = {"click": ModalitySettings(topic="raw", text="{page}")}


def test_a_lost_message_ends_the_wait_for_acknowledgements() -> None:
    """The broker was away for longer than message.timeout.ms while as much as may be was in flight."""
    connection = Connection("127.0.0.1:1", {"message.timeout.ms": 200})
    topics = Topics(KafkaSettings(topic_prefix="lost", partitions=1))
    ingest = Ingest(connection, topics, MODALITIES, IngestSettings())
    for _ in range(MAX_IN_FLIGHT):
        batch = ingest._in_flight.open()
        batch.sent()
        ingest._producer.produce(topics.events, b"pack", partition=0, on_delivery=batch.on_delivery)
        batch.seal({})
    failures: list[BaseException] = []

    def go_on() -> None:
        try:
            ingest._round()
        except BrokerError as exc:
            failures.append(exc)

    thread = threading.Thread(target=go_on, daemon=True)
    thread.start()
    thread.join(10)
    ingest._stopping = lambda: True
    thread.join(10)
    assert [getattr(failure, "code", "") for failure in failures] == ["delivery_failed"]


def test_a_partition_that_was_paused_is_read_when_it_comes_back(
    start_embedded: Callable[[dict[str, int]], EmbeddedBroker],
) -> None:
    """It was paused while the producer was blocked, moved to another member, and came back after the block."""
    topics = Topics(KafkaSettings(topic_prefix="back", partitions=1))
    connection = start_embedded({s.name: 1 for s in topics.specs(MODALITIES, ())}).connection
    ingest = Ingest(connection, topics, MODALITIES, IngestSettings())
    consumer, raw = ingest._consumer, [TopicPartition("raw", 0)]
    ingest._on_assign(consumer, raw)
    ingest._stay_in_group()
    ingest._on_lost(consumer, raw)
    ingest._resume()
    ingest._on_assign(consumer, raw)
    producer = connection.producer()
    for i in range(MESSAGES):
        producer.produce("raw", b"%d" % i, partition=0)
    assert producer.flush(10) == 0
    found = 0
    deadline = time.monotonic() + 10
    while found < MESSAGES and time.monotonic() < deadline:
        found += len(ingest._read()[0])
    consumer.close()
    assert found == MESSAGES
