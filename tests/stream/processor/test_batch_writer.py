"""What of `events` reaches a partition, and in which order: nothing may be passed over."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from confluent_kafka import TopicPartition

from deploy.brokers.local import LocalKafka
from deploy.brokers.process import EmbeddedBroker
from deploy.kafka import topics as deploy_topics
from store.base.errors import BrokerError, TopicError
from store.base.settings import ModalitySettings
from store.base.stop import Stopped
from store.buffer.partition_buffers import PartitionBuffers
from store.buffer.resources import BufferResources
from stream.events.event import Event, pack
from stream.kafka.client import Connection
from stream.processor.batch_writer import UNKNOWN_MODALITY_SECONDS, BatchWriter
from stream.processor.faust_app import Message
from stream.processor.partition import PartitionConfig
from stream.settings import KafkaSettings
from stream.token_log.restore import restore
from stream.topics import Topics
from tests.support.hash_encoder import HashEncoder

NOW = 1_700_000_000_000
MODALITIES = {"click": ModalitySettings(topic="web", text="{page}", window_days=10, max_events=15)}
NEVER = threading.Event()


def pack_of(n: int) -> bytes:
    return pack(NOW, [Event("u", "click", NOW + n, f"e{n}", f"text {n}", (), None, "raw", 0, n, NOW, NOW)])


def writer_of(
    connection: Connection,
    prefix: str,
    path: Path,
    *,
    modalities: dict[str, ModalitySettings] = MODALITIES,
    wall: Callable[[], float] = time.time,
    clock: Callable[[], float] = time.monotonic,
    wall_passes: bool = False,
) -> BatchWriter:
    topics = Topics(KafkaSettings(topic_prefix=prefix, partitions=1))
    deploy_topics.ensure(connection, topics.specs(MODALITIES, ()))
    resources = BufferResources.create(block_cache_bytes=8 << 20, write_buffer_bytes=4 << 20)
    encoder = HashEncoder()
    buffers = PartitionBuffers(path, connection.identity, modalities, encoder.id, encoder.dim, 3_600_000, resources)
    return BatchWriter(
        PartitionConfig(connection, topics, buffers),
        encoder,
        NEVER,
        group=topics.group_processor,
        wall=wall,
        clock=clock,
        wall_passes=wall_passes,
    )


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


def test_an_event_of_a_modality_to_come_waits_for_a_processor_that_knows_it(
    embedded_broker: EmbeddedBroker, tmp_path: Path
) -> None:
    """E10: with a rolling restart that reached ingest first, old processors sent its events to dead-letters."""
    connection = embedded_broker.connection
    news = pack(NOW, [Event("u", "view", NOW, "v0", "text", (), None, "raw", 0, 0, NOW, NOW)])
    message = Message(0, 0, news)
    letters = TopicPartition("t.dead-letters", 0)

    def refused() -> int:
        consumer = connection.consumer("t")
        try:
            return int(consumer.get_watermark_offsets(letters, timeout=10, cached=False)[1])
        finally:
            consumer.close()

    replaced = threading.Event()

    def soon() -> float:
        return NOW / 1000 + UNKNOWN_MODALITY_SECONDS - 1

    class UntilReplaced(threading.Event):
        """Wait once, and the process is replaced."""

        def wait(self, timeout: float | None = None) -> bool:
            replaced.set()
            return False

    old = writer_of(connection, "t", tmp_path, wall=soon, clock=lambda: 0.0)
    old._stop = UntilReplaced()
    producer = connection.producer()
    producer.produce("t.events", news, partition=0)
    assert producer.flush(10) == 0
    with pytest.raises(Stopped):
        old.apply([message], replaced)
    assert (old.durable(0), refused()) == (0, 0)
    old.close()

    both = {**MODALITIES, "view": ModalitySettings(topic="web", text="{page}", window_days=10, max_events=15)}
    new = writer_of(connection, "t", tmp_path, modalities=both, wall=soon)
    new.apply([message], NEVER)
    assert (new.durable(0), refused()) == (1, 0)
    new.close()

    ticks = itertools.count(0.0, UNKNOWN_MODALITY_SECONDS / 3)
    gone_back = (lambda: NOW / 1000 - 3600), "never"
    for wall, modality in ((soon, "view"), (lambda: NOW / 1000 + UNKNOWN_MODALITY_SECONDS, "never"), gone_back):
        before = refused()
        # one that was removed does not wait, one that nobody knows not for ever, wherever the wall's clock goes
        without = writer_of(connection, "t", tmp_path, wall=wall, clock=lambda: next(ticks))
        value = pack(NOW, [Event("u", modality, NOW, "w", "text", (), None, "raw", 0, 1, NOW, NOW)])
        producer.produce("t.events", value, partition=0)
        assert producer.flush(10) == 0
        without.apply([Message(0, 1 + before, value)], NEVER)
        assert refused() == before + 1
        without.close()


def test_a_partition_that_was_added_to_events_is_refused(writer: BatchWriter) -> None:
    """E13: a raw traceback in a loop."""
    with pytest.raises(TopicError, match="partitions were added") as caught:
        writer.open(1, NEVER)
    assert "replay the source" in caught.value.action


def test_time_passes_by_the_wall_and_is_known_to_everybody_who_reads_the_log(
    embedded_broker: EmbeddedBroker, send: Callable[[int], Message], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """docs/adr/0014: told each hour, by the owner; expiry follows; a lost disk, and a replica, find it in the log."""
    connection, hour = embedded_broker.connection, 3_600_000
    wall = [NOW / 1000 + 60]
    monkeypatch.setattr("stream.processor.batch_writer.SETTLE_SECONDS", 0.0)
    writer = writer_of(connection, "t", tmp_path / "a", wall=lambda: wall[0], wall_passes=True)
    writer.apply([send(0)], NEVER)
    buffer = writer._partitions[0].buffer
    writer.say_time()
    assert buffer.wall_time == 0, "the hour of the newest event is known"
    wall[0] += 11 * 86_400
    writer._arrivals.batch({0: NOW}, NOW + 9999, time.monotonic())
    writer.say_time()
    assert buffer.wall_time == 0, "it is behind"
    writer._arrivals.forget([0])
    for _ in range(2):
        writer.say_time()
        assert buffer.stream_time == buffer.wall_time == int(wall[0] * 1000) // hour * hour
    assert buffer.window("u").events == {}, "what is older than the window has expired"
    told, end = buffer.stream_time, buffer.log_offset
    writer.say_time()
    assert buffer.log_offset == end, "once an hour"
    writer.close()
    fresh = writer_of(connection, "t", tmp_path / "b", wall=lambda: wall[0], wall_passes=False)
    fresh.apply([Message(0, 0, pack_of(0)), send(1)], NEVER)
    restored = fresh._partitions[0].buffer
    assert (restored.wall_time, restored.stream_time) == (told, told)
    fresh.close()
    replica = PartitionBuffers(
        tmp_path / "r", connection.identity, MODALITIES, HashEncoder().id, HashEncoder().dim, hour,
        BufferResources.create(block_cache_bytes=8 << 20, write_buffer_bytes=4 << 20), True,
    ).open(0)  # fmt: skip
    restore(connection, "t.tokens", 0, replica)
    assert replica.stream_time == told
    replica.close()
