"""Writes changes of the scenarios to the control topics, each whole: fenced on Kafka, plain on an embedded broker.

On Kafka every change is a transaction of a producer that is opened for it. So one that was cut off on its way is not
seen any more once another serve has made a change: its late record would undo what is newer. An embedded broker has one
serve.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from contextlib import closing
from typing import Any, NamedTuple, Protocol

from store.base.errors import BrokerError
from stream.kafka.client import Connection
from stream.kafka.fenced_producer import Aborted, FencedProducer
from stream.topics import Topics


class ChangeRecord(NamedTuple):
    """Of a topic of one partition. value: None = gone."""

    topic: str
    key: str
    value: bytes | None


class ChangeWriter(Protocol):
    """For one thread at a time."""

    def write(self, records: Sequence[ChangeRecord]) -> None:
        """On return they are durable.

        Raises:
            BrokerError: they are not, and will not be written later.
        """

    def close(self) -> None:
        """Release the client."""


def change_writer(connection: Connection, topics: Topics, timeout_seconds: float) -> ChangeWriter:
    """As the broker needs it."""
    if connection.embedded:
        return PlainChangeWriter(connection, timeout_seconds)
    return FencedChangeWriter(connection, topics, timeout_seconds)


class PlainChangeWriter:
    """One producer for all changes."""

    def __init__(self, connection: Connection, timeout_seconds: float) -> None:
        self._connection = connection
        self._timeout = timeout_seconds
        self._producer: Any = None

    def write(self, records: Sequence[ChangeRecord]) -> None:
        if self._producer is None:
            # a message is either acknowledged or given up when `flush` returns, never sent later
            self._producer = self._connection.producer(**{"delivery.timeout.ms": int(self._timeout * 900)})
        failed: list[Any] = []

        def delivered(error: Any, _: Any) -> None:
            if error is not None:
                failed.append(error)

        for topic, key, value in records:
            self._producer.produce(topic, value, key.encode(), 0, delivered)
        left = self._producer.flush(self._timeout)
        if left or failed:
            raise _not_taken(failed[0].str() if failed else "no answer")

    def close(self) -> None:
        if self._producer is not None:
            self._producer.flush(1.0)
            self._producer = None


class FencedChangeWriter:
    """A transaction for each change."""

    def __init__(self, connection: Connection, topics: Topics, timeout_seconds: float) -> None:
        self._connection = connection
        self._id = topics.scenarios
        self._timeout = timeout_seconds

    def write(self, records: Sequence[ChangeRecord]) -> None:
        deadline = time.monotonic() + self._timeout
        half = {"open_seconds": self._timeout / 2, "commit_seconds": self._timeout / 2}
        with closing(FencedProducer(self._connection, self._id, threading.Event, **half)) as producer:
            try:
                producer.open()
                if time.monotonic() > deadline:  # stopped meanwhile: nobody waits for this change any more
                    raise _not_taken("it took too long")
                for topic, key, value in records:
                    producer.produce(topic, value, key.encode(), 0)
                producer.commit()
            except Aborted as exc:
                raise _not_taken(f"another serve made a change, or the broker went away: {exc}") from exc

    def close(self) -> None:
        pass


def _not_taken(why: str) -> BrokerError:
    return BrokerError(
        f"the broker did not take it: {why}",
        action="check that it runs, and that this user may write to topics, and use transactional ids, that begin with "
        "kafka.topic_prefix; then ask again",
        code="delivery_failed",
    )
