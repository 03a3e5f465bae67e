"""Who has lost the coordinator for good is replaced by a client that is answered; without a broker nobody is."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import pytest
from confluent_kafka import KafkaException, TopicPartition
from confluent_kafka.admin import NewTopic
from structlog.testing import capture_logs

from deploy.brokers.local import LocalKafka
from stream.kafka.client import Connection
from stream.kafka.group_client import GroupClient
from tests.support.broker_proxy import BrokerProxy, port_of

SECONDS = 60.0
LOST_SECONDS = 1.0

pytestmark = pytest.mark.kafka


class Group:
    """A group's client behind a network that can fail, and its answers."""

    def __init__(self, broker: LocalKafka, name: str) -> None:
        admin = broker.connection.admin()
        admin.create_topics([NewTopic(name, 1, 1)])[name].result(SECONDS)
        self.proxy = BrokerProxy(lambda: port_of(broker.connection))
        self.answers: list[tuple[bool, int]] = []
        self.place = TopicPartition(name, 0)
        self.client = GroupClient(
            Connection(self.proxy.bootstrap, {}),
            f"g-{name}",
            lambda error, partitions: self.answers.append((error is None, partitions[0].offset)),
            lost_seconds=LOST_SECONDS,
        )

    def committed(self) -> int:
        """Asked until there is an answer."""
        deadline = time.monotonic() + SECONDS
        while True:
            try:
                (found,) = self.client.committed([self.place], timeout=0.5)
                if found.error is None:
                    return int(found.offset)
            except KafkaException:
                pass
            assert time.monotonic() < deadline

    def commit(self, offset: int) -> None:
        """Until it is answered."""
        before = len(self.answers)
        self.client.commit([TopicPartition(self.place.topic, 0, offset)])
        deadline = time.monotonic() + SECONDS
        while len(self.answers) == before:
            self.client.poll()
            time.sleep(0.02)
            assert time.monotonic() < deadline


@pytest.fixture
def group(kafka_broker: LocalKafka, request: pytest.FixtureRequest) -> Iterator[Group]:
    made = Group(kafka_broker, request.node.name.replace("_", "-")[:60])
    made.commit(1)
    assert made.answers == [(True, 1)]
    assert made.committed() == 1
    yield made
    made.client.close()
    made.proxy.close()


def lose_all_brokers(group: Group) -> None:
    """As librdkafka 2.16 does by itself, see tests/stream/kafka/test_client.py."""
    with group.proxy.nameless():
        assert not group.client.consumer.list_topics(timeout=SECONDS).brokers


def test_a_question_that_is_never_answered_again(group: Group) -> None:
    before = group.client.consumer
    lose_all_brokers(group)
    with capture_logs() as told:
        assert group.committed() == 1
    assert group.client.consumer is not before
    assert [line["event"] for line in told] == ["client_replaced"]


def test_a_commit_that_is_never_answered(group: Group) -> None:
    """It is told to have failed, so that whoever keeps to one at a time goes on."""
    lose_all_brokers(group)
    group.commit(2)
    assert group.answers[1:] == [(False, 2)]
    group.commit(3)
    assert group.answers[2:] == [(True, 3)]
    assert group.committed() == 3


def test_while_no_broker_is_there_nobody_is_replaced(group: Group, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stream.kafka.group_client.RETRY_SECONDS", 0.2)
    before = group.client.consumer
    group.proxy.cut()
    deadline = time.monotonic() + 5 * LOST_SECONDS
    asked: list[Any] = []
    while time.monotonic() < deadline or len(asked) < 5:
        with pytest.raises(KafkaException) as caught:
            group.client.committed([group.place], timeout=0.2)
        asked.append(caught.value)
    assert group.client.consumer is before
    group.proxy.heal()
    assert group.committed() == 1
