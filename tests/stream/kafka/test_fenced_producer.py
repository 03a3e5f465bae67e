"""One writer per transactional id, on real Kafka: what another one has under way is never seen, and nobody waits."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

import pytest
from confluent_kafka import KafkaError, KafkaException, TopicPartition

from deploy.brokers.local import LocalKafka
from deploy.kafka.topics import ensure
from store.base.errors import BrokerError
from store.base.stop import Stopped
from stream.kafka import fenced_producer
from stream.kafka.client import Connection
from stream.kafka.fenced_producer import Aborted, Fenced, FencedProducer
from stream.topics import TopicSpec
from tests.support.broker_proxy import END_TXN, BrokerProxy, port_of
from tests.support.offsets import committed

pytestmark = [pytest.mark.kafka, pytest.mark.timeout(180)]
PROPERTIES = {"session.timeout.ms": 6000, "heartbeat.interval.ms": 500}


class Desk:
    """Topics `in` and `out` of one partition, members of a group that reads `in`, and producers of one id."""

    def __init__(self, broker: LocalKafka, prefix: str, closing: ExitStack) -> None:
        self.connection = replace(broker.connection, properties=PROPERTIES)
        self.read, self.out, self.group = f"{prefix}.in", f"{prefix}.out", f"{prefix}.group"
        self._id = f"{prefix}.group.0"
        self.stop = threading.Event()
        self._closing = closing
        ensure(self.connection, [TopicSpec(self.read, 1), TopicSpec(self.out, 1)])

    def member(self) -> tuple[Any, Any]:
        """A consumer to which the group has given the partition, and its metadata as of then."""
        given: list[Any] = []
        consumer = self.connection.consumer(self.group)
        self._closing.callback(consumer.close)
        consumer.subscribe([self.read], on_assign=lambda c, _: given.append(c.consumer_group_metadata()))
        while not given:
            consumer.poll(0.1)
        return consumer, given[0]

    def producer(self, connection: Connection | None = None, **seconds: float) -> FencedProducer:
        producer = FencedProducer(connection or self.connection, self._id, lambda: self.stop, **seconds)
        self._closing.callback(producer.close)
        producer.open()
        return producer

    def put(self, producer: FencedProducer, value: bytes) -> None:
        producer.produce(self.out, value, b"k", 0)

    def at(self, offset: int, metadata: str = "m") -> list[Any]:
        return [TopicPartition(self.read, 0, offset, metadata)]

    def seen(self) -> list[bytes]:
        """What a reader finds, up to an end that is not held up."""
        consumer = self.connection.consumer("reader", **{"enable.partition.eof": True})
        try:
            _, high = consumer.get_watermark_offsets(TopicPartition(self.out, 0), timeout=10, cached=False)
            consumer.assign([TopicPartition(self.out, 0, 0)])
            values = []
            while (message := consumer.poll(30)) is not None and message.error() is None:
                values.append(message.value())
            assert message is not None
            assert message.error().code() == KafkaError._PARTITION_EOF
            assert message.offset() >= high
            return values
        finally:
            consumer.close()

    def committed(self) -> tuple[int, str | None]:
        (found,) = committed(self.connection, self.group, self.read, 1)
        return found.offset, found.metadata


@pytest.fixture
def desk(kafka_broker: LocalKafka, topic_prefix: str) -> Iterator[Desk]:
    with ExitStack() as closing:
        yield Desk(kafka_broker, topic_prefix, closing)


@pytest.fixture
def network(desk: Desk) -> Iterator[BrokerProxy]:
    proxy = BrokerProxy(lambda: port_of(desk.connection))
    yield proxy
    proxy.close()


def test_messages_offset_and_metadata_are_committed_together(desk: Desk) -> None:
    _, member = desk.member()
    producer = desk.producer()
    for i in range(3):
        desk.put(producer, b"%d" % i)
        assert desk.committed() == ((i, "m") if i else (-1001, None))
        producer.commit(desk.at(i + 1), member)
        assert not producer.begun
        assert desk.committed() == (i + 1, "m")
    assert desk.seen() == [b"0", b"1", b"2"]


def test_who_opens_fences_its_predecessor_and_readers_wait_for_nobody(desk: Desk) -> None:
    _, member = desk.member()
    first = desk.producer()
    desk.put(first, b"late")
    first._producer.flush(10)  # it lies in the log, uncommitted
    second = desk.producer()
    desk.put(second, b"new")
    second.commit(desk.at(2), member)
    assert desk.seen() == [b"new"]
    with pytest.raises(Fenced):
        first.commit(desk.at(1), member)
    assert first.begun  # it has something that cannot be committed
    assert (desk.seen(), desk.committed()) == ([b"new"], (2, "m"))


def test_a_fenced_producer_that_had_nothing_under_way_says_so_at_its_next_commit(desk: Desk) -> None:
    _, member = desk.member()
    first = desk.producer()
    desk.put(first, b"old")
    first.commit(desk.at(1), member)
    desk.producer()
    desk.put(first, b"late")
    with pytest.raises(Fenced):
        first.commit(desk.at(2), member)
    assert desk.seen() == [b"old"]


def test_who_lost_its_place_in_the_group_and_opens_late_is_refused(desk: Desk) -> None:
    """It fences the next owner, which opens again; but nothing of its own is ever seen, and nobody waits for it."""
    consumer, former = desk.member()
    consumer.close()
    _, member = desk.member()
    owner = desk.producer()
    late = desk.producer()
    desk.put(late, b"late")
    late._producer.flush(10)
    with pytest.raises(Fenced):
        late.commit(desk.at(1), former)
    assert desk.seen() == []  # to an end that its open transaction does not hold up
    desk.put(owner, b"lost")
    with pytest.raises(Fenced):
        owner.commit(desk.at(2), member)
    again = desk.producer()
    desk.put(again, b"new")
    again.commit(desk.at(2), member)
    assert (desk.seen(), desk.committed()) == ([b"new"], (2, "m"))


def test_a_commit_whose_answer_is_late_is_known_in_the_end(desk: Desk, network: BrokerProxy) -> None:
    _, member = desk.member()
    producer = desk.producer(replace(desk.connection, bootstrap=network.bootstrap))
    held = network.cut_at(END_TXN)
    desk.put(producer, b"once")
    failures: list[BaseException] = []

    def commit() -> None:
        try:
            producer.commit(desk.at(1), member)
        except BaseException as exc:
            failures.append(exc)

    thread = threading.Thread(target=commit)
    thread.start()
    assert held.reached.wait(30)
    thread.join(2 * fenced_producer._STEP_SECONDS)  # it asks again and again
    assert thread.is_alive()
    network.heal()
    thread.join(60)
    assert not failures
    assert (desk.seen(), desk.committed()) == ([b"once"], (1, "m"))


@pytest.mark.parametrize("told_to_stop", [True, False])
def test_a_commit_that_gets_no_answer_ends(desk: Desk, network: BrokerProxy, told_to_stop: bool) -> None:
    _, member = desk.member()
    producer = desk.producer(replace(desk.connection, bootstrap=network.bootstrap), commit_seconds=3.0)
    network.cut_at(END_TXN)
    desk.put(producer, b"unknown")
    if told_to_stop:
        desk.stop.set()
    with pytest.raises(Stopped if told_to_stop else Aborted):
        producer.commit(desk.at(1), member)
    producer.close()  # the network is still away
    desk.stop.clear()
    after = desk.producer()
    desk.put(after, b"next")
    after.commit(desk.at(2), member)
    assert desk.seen() == [b"next"]


def test_a_client_that_knows_no_broker_any_more_is_left_and_another_one_gets_on(
    desk: Desk, network: BrokerProxy
) -> None:
    """Random faults, seed 9308: librdkafka then took two minutes for one call, whatever its time limit."""
    _, member = desk.member()
    producer = desk.producer(replace(desk.connection, bootstrap=network.bootstrap), commit_seconds=2.0)
    desk.put(producer, b"before")
    producer.commit(desk.at(1), member)
    with network.nameless():
        assert not producer._producer.list_topics(timeout=60).brokers
    desk.put(producer, b"lost")
    with pytest.raises(Aborted):
        producer.commit(desk.at(2), member)
    producer.close()
    after = desk.producer(replace(desk.connection, bootstrap=network.bootstrap))
    desk.put(after, b"next")
    after.commit(desk.at(2), member)
    assert (desk.seen(), desk.committed()) == ([b"before", b"next"], (2, "m"))


def test_what_the_broker_refuses_is_an_error_with_its_reason(desk: Desk) -> None:
    _, member = desk.member()
    producer = desk.producer()
    small = f"{desk.out}.small"
    ensure(desk.connection, [TopicSpec(small, 1, {"max.message.bytes": "1000"})])
    producer.produce(small, os.urandom(5000), b"k", 0)
    with pytest.raises(BrokerError, match="refused"):
        producer.commit(desk.at(1), member)


def test_a_refusal_that_spoils_a_call_under_way_is_told_all_the_same(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a busy machine: librdkafka then says only that the transaction's state is another."""
    _, member = desk.member()
    producer = desk.producer()
    small = f"{desk.out}.small"
    ensure(desk.connection, [TopicSpec(small, 1, {"max.message.bytes": "1000"})])
    producer.produce(small, os.urandom(5000), b"k", 0)
    producer._producer.flush(60)
    call, states = producer._call, iter([KafkaException(KafkaError(KafkaError._STATE))])

    def spoilt(act: Callable[[], object], seconds: float) -> None:
        if (error := next(states, None)) is not None:
            raise error
        call(act, seconds)

    monkeypatch.setattr(producer, "_call", spoilt)
    with pytest.raises(BrokerError, match="refused"):
        producer.commit(desk.at(1), member)


def test_a_full_queue_is_waited_for(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(fenced_producer._CONFIG, "queue.buffering.max.messages", 10)
    _, member = desk.member()
    producer = desk.producer()
    for i in range(100):
        desk.put(producer, b"%d" % i)
    producer.commit(desk.at(1), member)
    assert len(desk.seen()) == 100
