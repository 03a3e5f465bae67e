"""The timestamp of the record at an offset: what makes lag in seconds exact on every broker."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from typing import Any

from confluent_kafka import TIMESTAMP_NOT_AVAILABLE, TopicPartition

from stream.kafka.client import Connection

Position = tuple[str, int, int]
"""Topic, partition, offset."""


class FirstRecords:
    """Fetches one record per position and remembers its timestamp for as long as the position is asked for.

    One thread at a time. Nothing is committed and no group is joined.
    """

    def __init__(self, connection: Connection, *, timeout_seconds: float = 2.0) -> None:
        self._connection = connection
        self._timeout = timeout_seconds
        self._known: dict[Position, int] = {}
        self._consumer: Any = None

    def timestamps_ms(self, positions: Iterable[Position]) -> dict[Position, int]:
        """Epoch ms of the first record at or after each position; a position without an answer in time is absent."""
        wanted = set(positions)
        self._known = {p: t for p, t in self._known.items() if p in wanted}
        deadline = time.monotonic() + self._timeout
        left = wanted - self._known.keys()
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
                if message is None or message.error() is not None:
                    continue
                at = (message.topic(), message.partition())
                if (position := missing.pop(at, None)) is None:
                    continue
                # or its next records fill the queue before the other partitions' first
                consumer.pause([TopicPartition(*at)])
                kind, stamp = message.timestamp()
                if kind != TIMESTAMP_NOT_AVAILABLE:
                    self._known[position] = stamp
        finally:
            # a partition stays paused over its next assignment
            consumer.resume([TopicPartition(*at) for at in batch.keys() - missing.keys()])
            consumer.unassign()

    def _open(self) -> Any:
        if self._consumer is None:
            self._consumer = self._connection.consumer(
                "anchorstream-lag",  # only a name: it is never joined
                **{
                    # one record is enough: do not read ahead
                    "queued.min.messages": 1,
                    "fetch.message.max.bytes": 65_536,
                    "fetch.wait.max.ms": 50,
                    "fetch.queue.backoff.ms": 10,
                    "enable.partition.eof": False,
                },
            )
        return self._consumer

    def close(self) -> None:
        """Release the client."""
        if self._consumer is not None:
            self._consumer.close()
            self._consumer = None
