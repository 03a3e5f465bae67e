"""What clients do while no broker is there."""

from __future__ import annotations

import time
from pathlib import Path
from threading import Event
from typing import Any

import pytest
from confluent_kafka import KafkaException, TopicCollection, TopicPartition
from confluent_kafka.admin import NewTopic, OffsetSpec

from deploy.brokers.local import LocalKafka
from stream.kafka.client import Connection
from stream.kafka.patience import patiently
from tests.support.broker_proxy import BrokerProxy, port_of

WAIT_SECONDS = 3.0
SECONDS = 60.0


@pytest.mark.kafka
def test_a_question_to_a_broker_that_is_away_costs_no_core(tmp_path: Path) -> None:
    """librdkafka 2.16 with `metadata.recovery.strategy = none`: 0.9 cores until its time-out, in every role."""
    broker = LocalKafka(tmp_path)
    try:
        admins = [broker.connection.admin() for _ in range(2)]
        admins[0].create_topics([NewTopic("t", 1, 1)])["t"].result(30)
        for admin in admins:
            admin.describe_topics(TopicCollection(["t"]), request_timeout=30)["t"].result(30)
    finally:
        broker.stop()
    before = time.process_time()
    (described,) = admins[0].describe_topics(TopicCollection(["t"]), request_timeout=WAIT_SECONDS).values()
    latest = {TopicPartition("t", 0): OffsetSpec.latest()}
    (offset,) = admins[1].list_offsets(latest, request_timeout=WAIT_SECONDS).values()
    for answer in (described, offset):
        with pytest.raises(KafkaException):
            answer.result(30)
    assert time.process_time() - before < WAIT_SECONDS / 3


@pytest.mark.kafka
def test_who_is_told_of_no_broker_at_all_finds_it_again(kafka_broker: LocalKafka) -> None:
    """Random faults, seed 9201, and librdkafka 5301: a Kafka that is alone says so for some milliseconds while it is
    being stopped. With `metadata.recovery.strategy = none` the client has no broker from then on."""
    name = "told-of-no-broker"
    proxy = BrokerProxy(lambda: port_of(kafka_broker.connection))
    connection = Connection(proxy.bootstrap, {})
    reader, producer, admin = connection.reader(name), connection.producer(), connection.admin()
    try:
        admin.create_topics([NewTopic(name, 1, 1)])[name].result(30)
        reader.assign([TopicPartition(name, 0, 0)])
        producer.produce(name, "before")
        assert producer.flush(SECONDS) == 0
        assert next_value(reader) == b"before"
        with proxy.nameless():
            for client in (reader, producer, admin):
                assert not client.list_topics(timeout=SECONDS).brokers
        producer.produce(name, "after")
        assert producer.flush(SECONDS) == 0
        assert next_value(reader) == b"after"
        # a question that the breaking connection carried fails at once, and is not asked again by librdkafka
        assert patiently(lambda: admin.list_topics(timeout=SECONDS), Event(), seconds=SECONDS).brokers
    finally:
        reader.close()
        proxy.close()


def next_value(consumer: Any) -> bytes:
    """Errors on the way are passed over: connections broke."""
    deadline = time.monotonic() + SECONDS
    while True:
        assert time.monotonic() < deadline
        if (message := consumer.poll(0.2)) is not None and message.error() is None:
            value: bytes = message.value()
            return value
