"""Questions to a broker that is starting, electing a leader, or has just been told of a topic."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any, TypeVar

from confluent_kafka import KafkaError, KafkaException

T = TypeVar("T")

PATIENCE_SECONDS = 30.0
_PAUSE_SECONDS = 0.2
_PASSING = frozenset(
    {
        KafkaError.NETWORK_EXCEPTION,
        KafkaError.BROKER_NOT_AVAILABLE,
        KafkaError.REPLICA_NOT_AVAILABLE,
        KafkaError.KAFKA_STORAGE_ERROR,
        KafkaError.OFFSET_NOT_AVAILABLE,
        KafkaError.FENCED_LEADER_EPOCH,
        KafkaError.UNKNOWN_LEADER_EPOCH,
        KafkaError.UNKNOWN_TOPIC_ID,
        KafkaError.NOT_ENOUGH_REPLICAS,
        KafkaError.NOT_ENOUGH_REPLICAS_AFTER_APPEND,
        KafkaError._RESOLVE,  # noqa: SLF001
        KafkaError._TIMED_OUT_QUEUE,  # noqa: SLF001
        KafkaError.NOT_LEADER_FOR_PARTITION,
        KafkaError.LEADER_NOT_AVAILABLE,
        KafkaError.UNKNOWN_TOPIC_OR_PART,
        KafkaError.COORDINATOR_LOAD_IN_PROGRESS,
        KafkaError.COORDINATOR_NOT_AVAILABLE,
        KafkaError.NOT_COORDINATOR,
        KafkaError.REQUEST_TIMED_OUT,
        KafkaError._TIMED_OUT,  # noqa: SLF001
        KafkaError._TRANSPORT,  # noqa: SLF001
        KafkaError._ALL_BROKERS_DOWN,  # noqa: SLF001
        KafkaError._WAIT_COORD,  # noqa: SLF001
    }
)


def passes(error: KafkaError) -> bool:
    """Whether an error goes away by itself. `KafkaError.retriable` is only told of transactions, else always False."""
    return bool(error.retriable()) or error.code() in _PASSING


def patiently(ask: Callable[[], T], stop: threading.Event, *, seconds: float = PATIENCE_SECONDS) -> T:
    """The answer of `ask`, asked again while the broker's error is one that passes by itself.

    Raises:
        KafkaException: the last error, after `seconds`, when `stop` is set, or if it will not pass.
    """
    deadline = time.monotonic() + seconds
    while True:
        try:
            return ask()
        except KafkaException as exc:
            if not passes(exc.args[0]) or stop.is_set() or time.monotonic() > deadline:
                raise
        stop.wait(_PAUSE_SECONDS)


def within(seconds: float, call: Callable[[], object], name: str) -> bool:
    """Whether `call` has ended by then; what it raises is raised. One that has not is left to a thread of its own, and
    to the end of the process: whatever it works on is of no use any more."""
    failures: list[BaseException] = []

    def run() -> None:
        try:
            call()
        except BaseException as exc:
            failures.append(exc)

    thread = threading.Thread(target=run, name=name, daemon=True)
    thread.start()
    thread.join(seconds)
    if failures:
        raise failures[0]
    return not thread.is_alive()


def close_aside(client: Any) -> None:
    """Close a client that is given up, on a thread of its own: one that has lost its way may never end to close."""
    threading.Thread(target=client.close, name="close-client", daemon=True).start()
