"""Which errors pass: a consumer's and an admin client's never say so themselves."""

from __future__ import annotations

import threading
from types import SimpleNamespace
from typing import Any

import pytest
from confluent_kafka import KafkaError, KafkaException

from store.base.errors import BrokerError, DataLossError
from stream.kafka.patience import passes, patiently
from stream.token_log.reader import LogReader

PASSING = (
    KafkaError.NOT_COORDINATOR,
    KafkaError.COORDINATOR_LOAD_IN_PROGRESS,
    KafkaError.NETWORK_EXCEPTION,
    KafkaError.NOT_LEADER_FOR_PARTITION,
    KafkaError._TRANSPORT,
    KafkaError._ALL_BROKERS_DOWN,
    KafkaError._RESOLVE,
)
FINAL = (
    KafkaError.TOPIC_AUTHORIZATION_FAILED,
    KafkaError.OFFSET_METADATA_TOO_LARGE,
    KafkaError.TOPIC_EXCEPTION,
)


@pytest.mark.parametrize("code", PASSING)
def test_what_passes_is_asked_again(code: int) -> None:
    """B11: `retriable()` of these is false."""
    assert not KafkaError(code).retriable()
    answers: list[Any] = [KafkaException(KafkaError(code)), "there"]

    def ask() -> Any:
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    assert patiently(ask, threading.Event()) == "there"


@pytest.mark.parametrize("code", FINAL)
def test_what_is_final_is_said_at_once(code: int) -> None:
    assert not passes(KafkaError(code))


class Consumer:
    """Hands out errors."""

    def __init__(self, *codes: int) -> None:
        self._left = [
            SimpleNamespace(
                error=lambda code=code: KafkaError(code),
                topic=lambda: "as.tokens",
                partition=lambda: 0,
                offset=lambda: 3,
            )
            for code in codes
        ]

    def poll(self, _: float) -> Any:
        return self._left.pop(0) if self._left else None

    def consume(self, n: int, _: float) -> list[Any]:
        found, self._left = self._left[:n], self._left[n:]
        return found


def test_a_reader_of_tokens_lives_through_what_passes() -> None:
    """B11: one transport error ended the worker, the standby and a restore."""
    reader = LogReader(Consumer(*PASSING, KafkaError._PARTITION_EOF), "as.tokens")
    assert reader.poll().rows == 0


@pytest.mark.parametrize(
    ("code", "error"),
    [(KafkaError.TOPIC_AUTHORIZATION_FAILED, BrokerError), (KafkaError._AUTO_OFFSET_RESET, DataLossError)],
)
def test_a_reader_of_tokens_ends_of_what_is_final(code: int, error: type[Exception]) -> None:
    with pytest.raises(error):
        LogReader(Consumer(KafkaError._PARTITION_EOF, code), "as.tokens").poll()
