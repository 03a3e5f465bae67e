"""What of `events` reaches a partition, and in which order: nothing may be passed over."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from deploy.brokers.local import LocalKafka
from deploy.brokers.process import EmbeddedBroker
from deploy.kafka import topics as deploy_topics
from store.base.errors import BrokerError
from store.base.settings import ModalitySettings
from store.base.stop import Stopped
from store.buffer.partition_buffers import PartitionBuffers
from store.buffer.resources import BufferResources
from stream.events.event import Event, pack
from stream.kafka.client import Connection
from stream.processor.batch_writer import BatchWriter
from stream.processor.faust_app import Message
from stream.processor.partition import PartitionConfig
from stream.settings import KafkaSettings
from stream.topics import Topics
from tests.support.hash_encoder import HashEncoder

NOW = 1_700_000_000_000
MODALITIES = {"click": ModalitySettings(topic="web", text="{page}", window_days=10, max_events=15)}
NEVER = threading.Event()


def pack_of(n: int) -> bytes:
    return pack(NOW, [Event("u", "click", NOW + n, f"e{n}", f"text {n}", (), None, "raw", 0, n, NOW, NOW)])


def writer_of(connection: Connection, prefix: str, path: Path) -> BatchWriter:
    topics = Topics(KafkaSettings(topic_prefix=prefix, partitions=1))
    deploy_topics.ensure(connection, topics.specs(MODALITIES, ()))
    resources = BufferResources.create(block_cache_bytes=8 << 20, write_buffer_bytes=4 << 20)
    encoder = HashEncoder()
    buffers = PartitionBuffers(path, connection.identity, MODALITIES, encoder.id, encoder.dim, 3_600_000, resources)
    return BatchWriter(PartitionConfig(connection, topics, buffers), encoder, NEVER, group=topics.group_processor)


@pytest.fixture
def send(embedded_broker: EmbeddedBroker) -> Callable[[int], Message]:
    producer = embedded_broker.connection.producer()

    def send(n: int) -> Message:
        producer.produce("t.events", pack_of(n), partition=0)
        assert producer.flush(10) == 0
        return Message(0, n, pack_of(n))

    return send


@pytest.fixture
def writer(embedded_broker: EmbeddedBroker, tmp_path: Path) -> Iterator[BatchWriter]:
    writer = writer_of(embedded_broker.connection, "t", tmp_path)
    yield writer
    writer.close()


def test_a_message_passed_over_stops_the_processor(writer: BatchWriter, send: Callable[[int], Message]) -> None:
    """Faust goes on with the next batch when one was given up: that one must not be applied, whoever is to blame."""
    zero, one, two = send(0), send(1), send(2)
    writer.apply([zero], NEVER)
    with pytest.raises(BrokerError) as caught:
        writer.apply([two], NEVER)
    assert caught.value.code == "messages_passed_over"
    assert writer.durable(0) == 1
    writer.apply([one, two], NEVER)
    assert writer.durable(0) == 3


def test_no_partition_is_opened_for_a_batch_once_it_is_revoked(
    writer: BatchWriter, send: Callable[[int], Message]
) -> None:
    revoked = threading.Event()
    revoked.set()
    with pytest.raises(Stopped):
        writer.apply([send(0)], revoked)
    assert writer.durable(0) is None


def test_a_sweep_on_a_new_disk_does_not_move_the_position_back(
    writer: BatchWriter, send: Callable[[int], Message]
) -> None:
    for n in range(3):
        message = send(n)
    writer.apply([message._replace(offset=n, value=pack_of(n)) for n in range(3)], NEVER)
    writer._next[0] = 7  # what the group has committed, of a life with another disk
    writer.sweep()
    assert writer.durable(0) == 7


@pytest.mark.kafka
def test_offsets_that_hold_no_message_are_not_missed(
    kafka_broker: LocalKafka, topic_prefix: str, tmp_path: Path
) -> None:
    """The end of a transaction takes an offset."""
    connection = kafka_broker.connection
    writer = writer_of(connection, topic_prefix, tmp_path)
    producer = connection.producer(**{"transactional.id": topic_prefix})
    producer.init_transactions(10)
    for n in range(2):
        producer.begin_transaction()
        producer.produce(f"{topic_prefix}.events", pack_of(n), partition=0)
        producer.commit_transaction(10)
    writer.apply([Message(0, 0, pack_of(0))], NEVER)
    writer.apply([Message(0, 2, pack_of(1))], NEVER)
    assert writer.durable(0) == 3
    writer.close()
