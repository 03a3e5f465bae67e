"""What is said of errors that pass by themselves, and of those that do not."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import structlog.testing
from confluent_kafka import KafkaError

from store.base.errors import BrokerError
from stream.kafka.consumer_errors import LOG_INTERVAL_SECONDS, ConsumerErrors, UnreadTopics


def test_each_cause_is_said_once_a_minute() -> None:
    """E11: 20 s without a broker were thousands of lines."""
    clock = [0.0]
    errors = ConsumerErrors("g", clock=lambda: clock[0])
    with structlog.testing.capture_logs() as said:
        for second in range(int(LOG_INTERVAL_SECONDS) + 1):
            clock[0] = float(second)
            errors.passing(KafkaError(KafkaError._TRANSPORT), what="read")
            errors.passing(KafkaError(KafkaError._ALL_BROKERS_DOWN), what="read")
            errors.passing(KafkaError(KafkaError._TRANSPORT), what="commit")
    assert len(said) == 6


def test_what_is_denied_is_named() -> None:
    """E12."""
    message = SimpleNamespace(
        error=lambda: KafkaError(KafkaError.TOPIC_AUTHORIZATION_FAILED), topic=lambda: "shop.raw", partition=lambda: 0
    )
    with pytest.raises(BrokerError) as caught:
        ConsumerErrors("as.ingest").judge(message)
    assert "shop.raw" in caught.value.detail
    assert "as.ingest" in caught.value.action


def test_a_role_that_goes_on_names_what_is_denied_once_a_minute_until_it_is_read() -> None:
    """E12."""

    def failed(topic: str | None, code: int) -> SimpleNamespace:
        return SimpleNamespace(error=lambda: KafkaError(code), topic=lambda: topic)

    clock = [0.0]
    denied = UnreadTopics("g", clock=lambda: clock[0])
    assert not denied.take(failed("a", KafkaError._TRANSPORT))
    assert not denied.take(failed(None, KafkaError.TOPIC_AUTHORIZATION_FAILED))
    assert denied.take(failed("a", KafkaError.TOPIC_AUTHORIZATION_FAILED))
    assert denied.take(failed("b", KafkaError.TOPIC_AUTHORIZATION_FAILED))
    with structlog.testing.capture_logs() as said:
        for second in range(150):
            clock[0] = float(second)
            denied.say()
            if second == 70:
                denied.read("b")
    assert [line["topic"] for line in said] == ["a", "b", "a", "b", "a"]


def test_a_missing_topic_is_named_once_a_minute_until_it_is_there() -> None:
    clock = [0.0]
    unread = UnreadTopics("g", clock=lambda: clock[0])
    with structlog.testing.capture_logs() as said:
        for second in range(150):
            clock[0] = float(second)
            unread.missing(frozenset({"a", "b"} if second < 70 or second > 75 else {"a"}))
            unread.say()
    told = [(line["event"], line["topic"]) for line in said]
    assert told == [("topic_missing", topic) for topic in "ababbab"]
