"""Reads a small topic of one partition whole, and follows it: `scenarios`, `back-fills`."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

from confluent_kafka import KafkaError, KafkaException, TopicPartition

from store.base.errors import BrokerError
from stream.kafka.client import Connection
from stream.kafka.consumer_errors import ConsumerErrors
from stream.kafka.patience import PATIENCE_SECONDS, patiently
from stream.reading.assigned_reader import AssignedReader

BATCH_MESSAGES = 500
ANSWER_SECONDS = 10.0
_FETCH_SECONDS = 0.05
_READING: dict[str, Any] = {"auto.offset.reset": "earliest", "enable.partition.eof": True, "fetch.wait.max.ms": 100}


class ControlTopic:
    """A reader of its own, outside any group's membership: nothing is committed, every start reads all. One thread.

    Args:
        group: names the reader to the broker, which may restrict who reads what.
        on_message: called with every confluent_kafka.Message, oldest first.
    """

    def __init__(self, connection: Connection, topic: str, group: str, on_message: Callable[[Any], None]) -> None:
        self.position = 0
        """Next offset: everything below it was handed to `on_message`, or compacted away."""
        self._connection = connection
        self._topic = topic
        self._on_message = on_message
        self._errors = ConsumerErrors(group)
        self._consumer = AssignedReader(connection, group, **_READING)

    def load(self, stop: threading.Event) -> None:
        """Read to the end as of now; leaves early when `stop` is set.

        Raises:
            BrokerError: the broker refuses us, or tells nothing for PATIENCE_SECONDS.
        """
        whole = TopicPartition(self._topic, 0)
        try:
            start, end = patiently(
                lambda: self._consumer.get_watermark_offsets(whole, timeout=ANSWER_SECONDS, cached=False),
                stop,
                seconds=PATIENCE_SECONDS,
            )
        except KafkaException as exc:
            raise self._silent(exc.args[0].str()) from exc
        self._consumer.assign([TopicPartition(self._topic, 0, start)])
        deadline = time.monotonic() + PATIENCE_SECONDS
        while self.position < end and not stop.is_set():
            if self._read(_FETCH_SECONDS):
                deadline = time.monotonic() + PATIENCE_SECONDS
            elif time.monotonic() > deadline:
                raise self._silent(f"offsets {self.position} to {end} did not come")

    def poll(self) -> int:
        """Hand over what has come; does not wait. Returns how many messages. Raises BrokerError."""
        return self._read(0)

    def close(self) -> None:
        """Release the consumer."""
        self._consumer.close()

    def _read(self, seconds: float) -> int:
        handed = 0
        for message in self._consumer.consume(BATCH_MESSAGES, seconds):
            if (error := message.error()) is None:
                self._on_message(message)
                handed += 1
                self.position = message.offset() + 1
            elif error.code() == KafkaError._PARTITION_EOF:  # noqa: SLF001
                self.position = max(self.position, message.offset())
            else:
                self._errors.judge(message)
        return handed

    def _silent(self, why: str) -> BrokerError:
        return BrokerError(
            f"{self._topic} cannot be read from {self._connection.bootstrap}: {why}",
            action="check that the broker runs and that the topic is there (`anchorstream doctor`)",
        )
