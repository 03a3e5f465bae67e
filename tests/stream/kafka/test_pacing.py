"""A paced writer loses nothing on the embedded broker, however slow the reader; an unpaced one does."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable

import pytest
from confluent_kafka import TopicPartition

from deploy.brokers.process import EmbeddedBroker
from deploy.kafka import topics
from store.base.errors import BrokerError, TopicError
from stream.kafka.client import Connection
from stream.kafka.pacing import BUDGET_BYTES, SafeProducer
from stream.kafka.reader_progress import MESSAGE_OVERHEAD_BYTES, PacedTopic
from stream.topics import TopicSpec

RETAINED_BYTES = 5 * 1024 * 1024
"""What the embedded broker keeps of a partition."""


@pytest.fixture
def connection(shared_embedded_broker: EmbeddedBroker) -> Connection:
    """An embedded broker."""
    return shared_embedded_broker.connection


def make_topic(connection: Connection, prefix: str, *readers: str, partitions: int = 1) -> TopicSpec:
    """A topic with readers, there on the broker."""
    spec = TopicSpec(f"{prefix}.t", partitions, readers=tuple(f"{prefix}.{reader}" for reader in readers))
    topics.ensure(connection, [spec])
    return spec


def commit(connection: Connection, group: str, topic: str, offset: int, partition: int = 0) -> None:
    """Commit as a reader would."""
    connection.consumer(group).commit(offsets=[TopicPartition(topic, partition, offset)], asynchronous=False)


def fill(producer: SafeProducer, topic: str, value: bytes, count: int, partition: int = -1) -> None:
    """Write the same value `count` times."""
    for _ in range(count):
        producer.produce(topic, value, partition=partition)


class SlowReader(threading.Thread):
    """Reads one partition, commits every 500 messages, and rests in between."""

    def __init__(self, connection: Connection, group: str, topic: str, expected: int) -> None:
        super().__init__(daemon=True)
        self._consumer = connection.consumer(group)
        self._consumer.assign([TopicPartition(topic, 0, 0)])
        self._topic = topic
        self._expected = expected
        self.offsets: list[int] = []

    def run(self) -> None:
        """Until everything expected was read or nothing comes for 2 s."""
        last = time.monotonic()
        while len(self.offsets) < self._expected and time.monotonic() < last + 2:
            batch = self._consumer.consume(500, 0.1)
            if not batch:
                continue
            last = time.monotonic()
            self.offsets += [message.offset() for message in batch if message.error() is None]
            self._consumer.commit(offsets=[TopicPartition(self._topic, 0, self.offsets[-1] + 1)], asynchronous=False)
            time.sleep(0.01)
        self._consumer.close()


@pytest.mark.parametrize("paced", [True, False])
def test_a_slow_reader_gets_everything_only_if_the_writer_waits(
    connection: Connection, topic_prefix: str, paced: bool
) -> None:
    """16 MiB that do not compress pass through 5 MiB. Nobody waits for a reader that begins when all is written."""
    count, size = 4_000, 4_096
    spec = make_topic(connection, topic_prefix, "reader")
    reader = SlowReader(connection, spec.readers[0], spec.name, count)
    producer = SafeProducer(connection, [spec] if paced else [])
    if paced:
        reader.start()
    for _ in range(count):
        producer.produce(spec.name, os.urandom(size))
    producer.flush()
    if not paced:
        reader.start()
    reader.join(60)
    complete = reader.offsets == list(range(count))
    assert complete is paced, f"{len(reader.offsets)} of {count} read"


def test_the_slowest_of_several_readers_counts(connection: Connection, topic_prefix: str) -> None:
    """With one reader at the end and one that never committed, the writer stops at the budget."""
    spec = make_topic(connection, topic_prefix, "fast", "never")
    waits = 0

    def while_waiting() -> None:
        nonlocal waits
        waits += 1
        if waits == 1:
            end = connection.consumer("x").get_watermark_offsets(TopicPartition(spec.name, 0), timeout=5)[1]
            commit(connection, spec.readers[0], spec.name, end)
        if waits > 5:
            raise KeyboardInterrupt

    producer = SafeProducer(connection, [spec], while_waiting=while_waiting, budget_bytes=100_000)
    with pytest.raises(KeyboardInterrupt):
        fill(producer, spec.name, os.urandom(1_000), 1_000)
    producer.flush()
    low, high = connection.consumer("x").get_watermark_offsets(TopicPartition(spec.name, 0), timeout=5)
    assert low == 0
    assert 0.8 * 100_000 < high * (1_000 + MESSAGE_OVERHEAD_BYTES) <= 100_000


def test_other_partitions_are_not_held_up_by_their_neighbour(connection: Connection, topic_prefix: str) -> None:
    """The budget is a partition's own; -1 goes where the key belongs."""
    spec = make_topic(connection, topic_prefix, "reader", partitions=2)

    def give_up() -> None:
        raise TimeoutError

    producer = SafeProducer(connection, [spec], while_waiting=give_up, budget_bytes=50_000)
    with pytest.raises(TimeoutError):
        fill(producer, spec.name, b"x" * 1_000, 100, partition=0)
    fill(producer, spec.name, b"x" * 1_000, 40, partition=1)
    producer.flush()


def test_a_message_larger_than_the_budget_passes_alone(connection: Connection, topic_prefix: str) -> None:
    """It waits for everything before it to be read, then goes."""
    spec = make_topic(connection, topic_prefix, "reader")
    ends = []

    def read() -> None:
        ends.append(connection.consumer("x").get_watermark_offsets(TopicPartition(spec.name, 0), timeout=5)[1])
        commit(connection, spec.readers[0], spec.name, 1)

    producer = SafeProducer(connection, [spec], while_waiting=read, budget_bytes=10_000)
    producer.produce(spec.name, b"first" * 100)
    assert ends == []
    producer.produce(spec.name, b"x" * 200_000)
    producer.flush()
    assert ends
    assert set(ends) == {1}, "the large one was held back until the first was read"
    assert connection.consumer("x").get_watermark_offsets(TopicPartition(spec.name, 0), timeout=5) == (0, 2)


def test_a_new_writer_waits_for_what_an_earlier_one_left(connection: Connection, topic_prefix: str) -> None:
    """A restarted role does not know how large the unread messages are, so it counts them as large."""
    spec = make_topic(connection, topic_prefix, "reader")
    first = SafeProducer(connection, [spec])
    fill(first, spec.name, b"small", 200)
    first.flush()
    waits = 0

    def read_all() -> None:
        nonlocal waits
        waits += 1
        commit(connection, spec.readers[0], spec.name, 200)

    second = SafeProducer(connection, [spec], while_waiting=read_all)
    second.produce(spec.name, b"small")
    second.flush()
    assert waits == 1


@pytest.mark.slow
def test_the_budget_leaves_room_for_a_batch_that_is_read_in_part(connection: Connection, topic_prefix: str) -> None:
    """A full budget of worst-case batches: the oldest is still there."""
    spec = make_topic(connection, topic_prefix, "reader")

    waits = 0

    def give_up() -> None:
        nonlocal waits
        waits += 1
        if waits > 100:  # it also runs while a slice is being delivered
            raise TimeoutError

    # one tiny message in a batch is where headers weigh most
    config = {"linger.ms": 0, "batch.num.messages": 1}
    producer = SafeProducer(connection, [spec], while_waiting=give_up, config=config)
    with pytest.raises(TimeoutError):
        fill(producer, spec.name, b"", BUDGET_BYTES)
    producer.flush()
    low, high = connection.consumer("x").get_watermark_offsets(TopicPartition(spec.name, 0), timeout=5)
    assert low == 0
    assert high > 0.8 * BUDGET_BYTES / MESSAGE_OVERHEAD_BYTES


def test_without_readers_nothing_waits_but_loss_is_logged(
    connection: Connection, topic_prefix: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Dead letters on an embedded broker: the oldest are lost, and that is said once."""
    spec = make_topic(connection, topic_prefix)
    producer = SafeProducer(connection, [spec])
    for _ in range(2 * RETAINED_BYTES // 10_000):
        producer.produce(spec.name, os.urandom(10_000))
    producer.flush()
    assert capsys.readouterr().out.count("messages_removed") == 1


def test_long_waits_are_logged_once_each_way(
    connection: Connection, topic_prefix: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """INPUT_PAUSED names the reader that is waited for."""
    monkeypatch.setattr("stream.kafka.pacing.PAUSE_LOG_SECONDS", 0.05)
    spec = make_topic(connection, topic_prefix, "stuck")
    until = 0.0

    def while_waiting() -> None:
        nonlocal until
        until = until or time.monotonic() + 0.3
        if time.monotonic() > until:
            commit(connection, spec.readers[0], spec.name, 9)

    producer = SafeProducer(connection, [spec], while_waiting=while_waiting, budget_bytes=10_000)
    fill(producer, spec.name, b"x" * 1_000, 10)
    producer.flush()
    said = capsys.readouterr().out
    assert said.count("input_paused") == 1
    assert spec.readers[0] in said
    assert said.count("input_resumed") == 1


def test_missing_topic_and_partition_are_said(connection: Connection, topic_prefix: str) -> None:
    """Producing to an unknown topic would create it with a partition count nobody asked for."""
    with pytest.raises(TopicError, match="no topic"):
        SafeProducer(connection, [TopicSpec(f"{topic_prefix}.none", 1)]).produce(f"{topic_prefix}.none", b"")
    spec = make_topic(connection, topic_prefix, "reader")
    with pytest.raises(TopicError, match="none numbered 4"):
        SafeProducer(connection, [spec]).produce(spec.name, b"", partition=4)


def test_a_broker_that_is_gone_is_an_error_not_a_hang(
    start_embedded: Callable[[dict[str, int]], EmbeddedBroker], monkeypatch: pytest.MonkeyPatch
) -> None:
    """An embedded broker does not come back."""
    monkeypatch.setattr("stream.kafka.reader_progress.GIVE_UP_SECONDS", 0.2)
    monkeypatch.setattr("stream.kafka.reader_progress.REQUEST_SECONDS", 0.2)
    broker = start_embedded({"t": 1})
    producer = SafeProducer(broker.connection, [TopicSpec("t", 1, readers=("g",))], budget_bytes=1_000)
    producer.produce("t", b"x" * 500)
    producer.flush()
    broker.kill()
    with pytest.raises(BrokerError, match="embedded broker"):
        producer.produce("t", b"x" * 800)


def test_a_delivery_that_succeeds_costs_no_call(
    connection: Connection, topic_prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A Python call per delivered message would cost as much as producing it."""
    spec = make_topic(connection, topic_prefix)
    calls: list[object] = []
    monkeypatch.setattr(SafeProducer, "_delivered", lambda self, error, message: calls.append(error))
    producer = SafeProducer(connection)
    for _ in range(100):
        producer.produce(spec.name, b"x")
    producer.flush()
    consumer = connection.consumer(f"{topic_prefix}.count")
    assert consumer.get_watermark_offsets(TopicPartition(spec.name, 0), timeout=10)[1] == 100
    consumer.close()
    assert calls == []


def test_paced_topic_hashes_like_the_stored_partitioner(connection: Connection, topic_prefix: str) -> None:
    """Messages without a key go round."""
    spec = make_topic(connection, topic_prefix, partitions=3)
    paced = PacedTopic(connection, connection.admin(), spec, 1)
    assert sorted(paced.partition_of(None) for _ in range(3)) == [0, 1, 2]
