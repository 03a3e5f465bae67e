"""What every broker must do for us: the same tests on the embedded one and on real Kafka."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import aiokafka
import pytest
from confluent_kafka import TopicPartition
from confluent_kafka.admin import OffsetSpec

from deploy.brokers.process import EmbeddedBroker
from deploy.kafka import topics
from store.base.errors import BrokerError
from stream.kafka.client import Connection
from stream.kafka.pacing import SafeProducer
from stream.kafka.partitioner import partition_of
from stream.kafka.reader_progress import PacedTopic
from stream.kafka.security import aiokafka_security
from stream.topics import TopicSpec

PARTITIONS = 3


@pytest.fixture(params=["embedded", pytest.param("kafka", marks=pytest.mark.kafka)])
def connection(request: pytest.FixtureRequest) -> Connection:
    """A connection to each kind of broker."""
    if request.param == "kafka":
        found: Connection = request.getfixturevalue("kafka_broker").connection
        return found
    broker: EmbeddedBroker = request.getfixturevalue("shared_embedded_broker")
    # its joining members wait session timeout - 1 s; Kafka refuses so short a timeout
    return replace(broker.connection, properties={"session.timeout.ms": 1500, "heartbeat.interval.ms": 200})


@pytest.fixture
def topic(connection: Connection, topic_prefix: str) -> str:
    """A topic of its own, with PARTITIONS partitions."""
    name = f"{topic_prefix}.things"
    topics.ensure(connection, [TopicSpec(name, PARTITIONS)])
    return name


def read(consumer: Any, count: int, timeout_s: float = 20.0) -> list[Any]:
    """The next `count` messages, or fewer if they do not come in time."""
    found: list[Any] = []
    deadline = time.monotonic() + timeout_s
    while len(found) < count and time.monotonic() < deadline:
        message = consumer.poll(0.2)
        if message is not None:
            assert message.error() is None
            found.append(message)
    return found


def assigned(connection: Connection, group: str, *partitions: TopicPartition) -> Any:
    """A consumer that reads `partitions` from their beginning."""
    consumer = connection.consumer(group)
    consumer.assign([TopicPartition(tp.topic, tp.partition, 0) for tp in partitions])
    return consumer


def test_values_keys_headers_timestamps_and_tombstones_arrive(connection: Connection, topic: str) -> None:
    """A tombstone is a message whose value is None: `bool(message)` is False for it."""
    producer = SafeProducer(connection)
    producer.produce(topic, b"v", b"k", 1, [("owner", b"\x00\xff")], 1_700_000_000_123)
    producer.produce(topic, None, b"k", 1)
    producer.produce(topic, b"", b"k", 1)
    producer.flush()
    full, tombstone, empty = read(assigned(connection, "g", TopicPartition(topic, 1)), 3)
    assert (full.key(), full.value(), full.headers()) == (b"k", b"v", [("owner", b"\x00\xff")])
    assert full.timestamp()[1] == 1_700_000_000_123
    assert (tombstone.key(), tombstone.value(), tombstone.offset()) == (b"k", None, 1)
    assert (empty.value(), empty.offset()) == (b"", 2)


def test_keys_go_to_the_partition_we_compute(connection: Connection, topic: str) -> None:
    """The client's partitioner, the pacing's and ours agree, or a user's state would lie in two places."""
    users = [f"user-{n}" for n in range(50)] + ["", "é"]
    producer = SafeProducer(connection)
    for user in users:
        producer.produce(topic, b"x", user.encode())
    producer.flush()
    messages = read(assigned(connection, "g", *(TopicPartition(topic, p) for p in range(PARTITIONS))), len(users))
    assert len(messages) == len(users)
    paced = PacedTopic(connection, connection.admin(), TopicSpec(topic, PARTITIONS), 1)
    for message in messages:
        assert message.partition() == partition_of((message.key() or b"").decode(), PARTITIONS)
        assert message.partition() == paced.partition_of(message.key() or b"")


def test_delivery_reports(connection: Connection, topic: str) -> None:
    """Asked for in the middle of a stream they come for the messages they were asked for, and order is kept."""
    offsets: list[int] = []
    producer = SafeProducer(connection)
    for n in range(5):
        producer.produce(topic, b"%d" % n, partition=0)
    for n in range(5, 8):
        producer.produce(
            topic, b"%d" % n, partition=0, on_delivery=lambda error, message: offsets.append(message.offset())
        )
    producer.flush()
    assert offsets == [5, 6, 7]
    values = [message.value() for message in read(assigned(connection, "g", TopicPartition(topic, 0)), 8)]
    assert values == [b"%d" % n for n in range(8)]


def test_commits_are_ours_and_are_found_by_explicit_partitions(connection: Connection, topic: str) -> None:
    """Nothing is committed by reading; what is committed is where the next life starts."""
    producer = SafeProducer(connection)
    for n in range(10):
        producer.produce(topic, b"%d" % n, partition=2)
    producer.flush()
    tp = TopicPartition(topic, 2)
    consumer = connection.consumer(topic)
    consumer.subscribe([topic])
    assert [m.offset() for m in read(consumer, 10)] == list(range(10))
    assert consumer.committed([tp], timeout=10)[0].offset < 0
    consumer.commit(offsets=[TopicPartition(topic, 2, 4)], asynchronous=False)
    consumer.close()
    outside = connection.consumer(topic)  # same group, without joining it
    assert outside.committed([tp], timeout=10)[0].offset == 4
    again = connection.consumer(topic)
    again.subscribe([topic])
    assert read(again, 1)[0].offset() == 4
    again.close()


def test_ends_and_beginnings(connection: Connection, topic: str) -> None:
    """Both ways to ask agree."""
    producer = SafeProducer(connection)
    for _ in range(7):
        producer.produce(topic, b"x", partition=1)
    producer.flush()
    partitions = [TopicPartition(topic, p) for p in range(PARTITIONS)]
    admin = connection.admin()
    answers = admin.list_offsets({tp: OffsetSpec.latest() for tp in partitions}, request_timeout=10)
    assert [answers[tp].result().offset for tp in partitions] == [0, 7, 0]
    consumer = connection.consumer("g")
    assert consumer.get_watermark_offsets(partitions[1], timeout=10) == (0, 7)


def test_two_members_share_and_inherit(connection: Connection, topic: str) -> None:
    """A second member gets partitions of its own, and all of them when the first leaves."""
    held: dict[str, set[int]] = {"a": set(), "b": set()}

    def member(name: str) -> Any:
        consumer = connection.consumer(topic)

        def on_assign(_: Any, partitions: list[TopicPartition]) -> None:
            held[name] = {tp.partition for tp in partitions}

        consumer.subscribe([topic], on_assign=on_assign)
        return consumer

    def poll_until(true: Callable[[], bool], *consumers: Any) -> None:
        deadline = time.monotonic() + 30
        while not true():
            assert time.monotonic() < deadline, held
            for consumer in consumers:
                consumer.poll(0.1)

    everything = set(range(PARTITIONS))
    first = member("a")
    poll_until(lambda: held["a"] == everything, first)
    second = member("b")
    poll_until(
        lambda: bool(held["b"]) and held["a"] | held["b"] == everything and not held["a"] & held["b"], first, second
    )
    first.close()
    poll_until(lambda: held["b"] == everything, second)
    second.close()


def test_aiokafka_reads_and_writes_zstd(connection: Connection, topic: str) -> None:
    """Faust's client and librdkafka read each other's compressed batches (it needs cramjam for that)."""
    text = b"the same text again " * 50

    options = {"bootstrap_servers": connection.bootstrap, **aiokafka_security(connection.properties)}

    async def exchange() -> list[bytes]:
        producer = aiokafka.AIOKafkaProducer(**options, compression_type="zstd", enable_idempotence=True)
        await producer.start()
        await producer.send_and_wait(topic, text, partition=0, headers=[("h", b"1")])
        await producer.stop()
        consumer = aiokafka.AIOKafkaConsumer(
            topic,
            **options,
            group_id=topic,
            auto_offset_reset="earliest",
            enable_auto_commit=False,
            session_timeout_ms=connection.session_timeout_ms,
            heartbeat_interval_ms=connection.heartbeat_interval_ms,
        )
        await consumer.start()
        try:
            found = [await asyncio.wait_for(consumer.getone(), 20) for _ in range(101)]
            await consumer.commit({aiokafka.TopicPartition(topic, 0): 101})
        finally:
            await consumer.stop()
        return [message.value for message in found]

    ours = SafeProducer(connection, config={"compression.type": "zstd"})
    for _ in range(100):
        ours.produce(topic, text, partition=0)
    ours.flush()
    assert asyncio.run(exchange()) == [text] * 101
    assert [m.value() for m in read(assigned(connection, "g", TopicPartition(topic, 0)), 101)] == [text] * 101
    assert connection.consumer(topic).committed([TopicPartition(topic, 0)], timeout=10)[0].offset == 101


def test_a_failed_delivery_is_raised_for_good(connection: Connection, topic: str) -> None:
    """A message to a partition that is not there fails later, in the background; nobody may overlook it."""
    producer = SafeProducer(connection)
    producer.produce(topic, b"good", partition=0)
    producer.flush()
    # as long as the client does not know the topic's partitions, it takes what it is given
    fresh = SafeProducer(connection)
    fresh.produce(topic, b"bad", partition=PARTITIONS + 5)
    with pytest.raises(BrokerError, match=topic):
        fresh.flush()
    fresh.produce(topic, b"good", partition=0)
    with pytest.raises(BrokerError, match="1 message"):
        fresh.flush()
    with pytest.raises(BrokerError):
        fresh.check()
    with pytest.raises(BrokerError, match="refused"):  # now it knows
        fresh.produce(topic, b"bad", partition=PARTITIONS + 5)


def test_a_message_too_large_is_refused_at_once(connection: Connection, topic: str) -> None:
    """By the client, before it is queued; what comes after it is fine."""
    producer = SafeProducer(connection)
    with pytest.raises(BrokerError) as caught:
        producer.produce(topic, b"x" * 2_000_000, partition=0)
    assert caught.value.code == "message_refused"
    producer.produce(topic, b"good", partition=0)
    producer.flush()


def test_a_full_queue_waits(connection: Connection, topic: str) -> None:
    """Ten times the queue goes through it, and the callback runs meanwhile."""
    waited = 0

    def while_waiting() -> None:
        nonlocal waited
        waited += 1

    producer = SafeProducer(
        connection, while_waiting=while_waiting, config={"queue.buffering.max.messages": 100, "linger.ms": 50}
    )
    for _ in range(1000):
        producer.produce(topic, b"x", partition=0)
    producer.flush()
    assert connection.consumer("g").get_watermark_offsets(TopicPartition(topic, 0), timeout=10) == (0, 1000)
    assert waited > 0
