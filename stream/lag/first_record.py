"""The timestamp of the record at an offset: what makes lag in seconds exact on every broker.

Offsets are not records: control records of transactions, aborted messages and what compaction removed take offsets too.
A position with nothing but those behind it waits for nothing."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any, NamedTuple

from confluent_kafka import TIMESTAMP_NOT_AVAILABLE, KafkaError, TopicPartition

from stream.kafka.client import Connection

Position = tuple[str, int, int]
"""Topic, partition, offset."""


class First(NamedTuple):
    """timestamp_ms: of the first record; None = it has none, or there is no record.

    nothing_below: there is no record below this offset; 0 = there is one.
    """

    timestamp_ms: int | None
    nothing_below: int = 0


class FirstRecords:
    """Fetches one record per position and remembers its timestamp for as long as the position is asked for.

    One thread at a time. Nothing is committed and no group is joined.
    """

    def __init__(self, connection: Connection, *, timeout_seconds: float = 2.0) -> None:
        self._connection = connection
        self._timeout = timeout_seconds
        self._known: dict[Position, First] = {}
        self._consumer: Any = None

    def at(self, positions: Mapping[Position, int]) -> dict[Position, First]:
        """The first record at or after each position; a position without an answer in time is absent.

        Args:
            positions: each with the end of its log: what is known to be empty is asked again once that has grown.
        """
        self._known = {
            position: first
            for position, first in self._known.items()
            if position in positions and not 0 < first.nothing_below < positions[position]
        }
        deadline = time.monotonic() + self._timeout
        left = positions.keys() - self._known.keys()
        while left and time.monotonic() < deadline:
            # a partition can be assigned at one offset only; two groups in one partition take two rounds
            batch = {(topic, partition): (topic, partition, offset) for topic, partition, offset in sorted(left)}
            self._fetch(batch, deadline)
            left -= set(batch.values())
        return dict(self._known)

    def _fetch(self, batch: Mapping[tuple[str, int], Position], deadline: float) -> None:
        consumer = self._open()
        consumer.assign([TopicPartition(*position) for position in batch.values()])
        missing = dict(batch)
        try:
            while missing and (left := deadline - time.monotonic()) > 0:
                message = consumer.poll(min(left, 0.2))
                if message is None:
                    continue
                ended = message.error() is not None
                if ended and message.error().code() != KafkaError._PARTITION_EOF:  # noqa: SLF001
                    continue
                at = (message.topic(), message.partition())
                if (position := missing.pop(at, None)) is None:
                    continue
                # or its next records fill the queue before the other partitions' first
                consumer.pause([TopicPartition(*at)])
                if ended:
                    self._known[position] = First(None, max(message.offset(), 1))
                else:
                    kind, stamp = message.timestamp()
                    self._known[position] = First(None if kind == TIMESTAMP_NOT_AVAILABLE else stamp)
        finally:
            # a partition stays paused over its next assignment
            consumer.resume([TopicPartition(*at) for at in batch.keys() - missing.keys()])
            consumer.unassign()

    def _open(self) -> Any:
        if self._consumer is None:
            self._consumer = self._connection.reader(
                "anchorstream-lag",  # only a name: it is never joined
                **{
                    # one record is enough: do not read ahead
                    "queued.min.messages": 1,
                    "fetch.message.max.bytes": 65_536,
                    "fetch.wait.max.ms": 50,
                    "fetch.queue.backoff.ms": 10,
                    "enable.partition.eof": True,
                },
            )
        return self._consumer

    def close(self) -> None:
        """Release the client, and forget. `at` makes another one."""
        self._known = {}
        if self._consumer is not None:
            self._consumer.close()
            self._consumer = None
