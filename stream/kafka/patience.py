"""Questions to a broker that is starting, electing a leader, or has just been told of a topic."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import TypeVar

from confluent_kafka import KafkaError, KafkaException

T = TypeVar("T")

PATIENCE_SECONDS = 30.0
_PAUSE_SECONDS = 0.2
_PASSING = frozenset(
    {
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
            if exc.args[0].code() not in _PASSING or stop.is_set() or time.monotonic() > deadline:
                raise
        stop.wait(_PAUSE_SECONDS)
