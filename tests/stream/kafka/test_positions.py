"""A position that the broker cannot serve is an error, never a silent jump."""

from __future__ import annotations

import os

import pytest
from confluent_kafka import TopicPartition

from deploy.brokers.process import EmbeddedBroker
from deploy.kafka import topics
from store.base.errors import DataLossError
from stream.kafka.client import Connection
from stream.kafka.pacing import SafeProducer
from stream.kafka.positions import check_position, resume_positions
from stream.topics import TopicSpec


@pytest.fixture
def connection(shared_embedded_broker: EmbeddedBroker) -> Connection:
    """An embedded broker."""
    return shared_embedded_broker.connection


@pytest.fixture
def overflowed(connection: Connection, topic_prefix: str) -> TopicPartition:
    """A partition whose oldest messages are gone: 8 MiB through 5."""
    name = f"{topic_prefix}.t"
    topics.ensure(connection, [TopicSpec(name, 1)])
    producer = SafeProducer(connection)
    for _ in range(800):
        producer.produce(name, os.urandom(10_000))
    producer.flush()
    return TopicPartition(name, 0)


def test_every_offset_between_the_watermarks_can_be_read(connection: Connection, overflowed: TopicPartition) -> None:
    """From the oldest message to the end, both included."""
    consumer = connection.consumer(overflowed.topic)
    low, high = consumer.get_watermark_offsets(overflowed, timeout=5)
    assert 0 < low < high == 800
    check_position(consumer, overflowed, low, remedy="none")
    check_position(consumer, overflowed, high, remedy="none")
    with pytest.raises(DataLossError, match="1 message"):
        check_position(consumer, overflowed, low - 1, remedy="none")
    with pytest.raises(DataLossError, match="made anew"):
        check_position(consumer, overflowed, high + 1, remedy="none")


def test_resuming(connection: Connection, overflowed: TopicPartition) -> None:
    """A commit is checked; without one a reader starts at the oldest, unless it needs everything."""
    consumer = connection.consumer(overflowed.topic)
    low = consumer.get_watermark_offsets(overflowed, timeout=5)[0]
    assert [tp.offset for tp in resume_positions(consumer, [overflowed], group="t.ingest")] == [low]
    with pytest.raises(DataLossError):
        resume_positions(consumer, [overflowed], group="t.ingest", from_zero=True)
    consumer.commit(offsets=[TopicPartition(overflowed.topic, 0, low + 3)], asynchronous=False)
    assert [tp.offset for tp in resume_positions(consumer, [overflowed], group="t.ingest", from_zero=True)] == [low + 3]
    consumer.commit(offsets=[TopicPartition(overflowed.topic, 0, low - 1)], asynchronous=False)
    with pytest.raises(DataLossError, match=overflowed.topic):
        resume_positions(consumer, [overflowed], group="t.ingest")
