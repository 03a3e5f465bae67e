"""An admin client that is never answered again is replaced once another one is; without a broker none is."""

from __future__ import annotations

import time

import pytest
from confluent_kafka import KafkaError, KafkaException
from structlog.testing import capture_logs

from deploy.brokers.local import LocalKafka
from stream.kafka.client import Connection
from stream.kafka.lasting_admin import ASK_SECONDS, LOST_SECONDS, LastingAdmin

pytestmark = pytest.mark.kafka


def test_one_that_fails_while_another_is_answered_is_replaced(kafka_broker: LocalKafka) -> None:
    now = [0.0]
    admin = LastingAdmin(kafka_broker.connection, clock=lambda: now[0])
    first = admin.client
    for now[0] in (0.0, LOST_SECONDS - 1):
        admin.failed(TimeoutError())
    admin.answered()
    for now[0] in (LOST_SECONDS, 2 * LOST_SECONDS - 1):
        admin.failed(TimeoutError())
    assert admin.client is first
    deadline = time.monotonic() + 60
    with capture_logs() as told:
        while admin.client is first:
            now[0] += LOST_SECONDS
            admin.failed(TimeoutError())  # on a busy machine a new client takes its time
            assert time.monotonic() < deadline
    assert [line["event"] for line in told] == ["client_replaced"]
    assert admin.client.list_topics(timeout=60).brokers


def test_a_refusal_is_an_answer(kafka_broker: LocalKafka) -> None:
    now = [0.0]
    admin = LastingAdmin(kafka_broker.connection, clock=lambda: now[0])
    first = admin.client
    for _ in range(5):
        admin.failed(KafkaException(KafkaError(KafkaError.TOPIC_AUTHORIZATION_FAILED)))
        now[0] += LOST_SECONDS
    assert admin.client is first


def test_without_a_broker_none_is() -> None:
    now = [0.0]
    admin = LastingAdmin(Connection("127.0.0.1:9", {}), clock=lambda: now[0])
    first = admin.client
    for now[0] in (0.0, LOST_SECONDS, 2 * LOST_SECONDS + ASK_SECONDS):
        admin.failed(TimeoutError())
    assert admin.client is first
