"""Partitions of `tokens` that are far behind, read in slices beside those that are followed.

librdkafka hands out what it has fetched in the order of its coming: behind 100,000 records of one partition those of
another would wait. So what is far behind is read through a consumer of its own.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, NamedTuple

from confluent_kafka import TopicPartition

from store.buffer.token_buffer import TokenBuffer
from stream.kafka.client import Connection
from stream.reading.assigned_reader import AssignedReader
from stream.token_log.reader import LogReader

SLICE_SECONDS = 0.05
"""How long what is followed waits for what is far behind, at a time."""
SLICE_ROWS = 500
"""Applied between two looks at the clock."""
NEAR_ROWS = 5000
"""So few may be left to whoever follows."""
_CONFIG: dict[str, Any] = {
    "auto.offset.reset": "error",  # a position that is lost while reading must not be skipped in silence
    "queued.max.messages.kbytes": 32 * 1024,
    "fetch.queue.backoff.ms": 5,  # the default, 1 s, leaves a full queue empty for most of it
}


class Round(NamedTuple):
    """Reading up to `end`, `rows` away when it began."""

    end: int
    rows: int

    def next(self, at: int, high: int) -> Round | None:
        """What follows at `at`, when the log ends at `high`; None: too little is left, or too much to wait for.

        Each is at most half as long as the one before, so that they end, whatever is written meanwhile.
        """
        if at < self.end:
            return self
        left = high - at
        return Round(high, left) if NEAR_ROWS < left <= self.rows // 2 else None


class CatchUp:
    """For one thread. Has no consumer while nothing is far behind.

    clock: seconds, monotonic.
    """

    def __init__(self, connection: Connection, topic: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._connection = connection
        self._topic = topic
        self._clock = clock
        self._consumer: Any = None
        self._reader = LogReader(None, topic)
        self._rounds: dict[int, Round] = {}

    def __bool__(self) -> bool:
        return bool(self._rounds)

    def __contains__(self, partition: object) -> bool:
        return partition in self._rounds

    def add(self, partition: int, buffer: TokenBuffer, *, end: int, mark_from: int) -> TopicPartition:
        """Take a partition on, to be read up to `end` at least. Returns where it stands.

        Raises:
            DataLossError: as `LogReader.add`, which says what `mark_from` is.
        """
        if self._consumer is None:
            self._consumer = AssignedReader(self._connection, f"{self._topic}.catch-up", **_CONFIG)
            self._reader = LogReader(self._consumer, self._topic)
        position = self._reader.add(partition, buffer, mark_from=mark_from)
        self._consumer.incremental_assign([position])
        self._rounds[partition] = Round(end, end - buffer.log_offset)
        return position

    def remove(self, partition: int) -> None:
        """Leave a partition; nothing happens where it is not here. Without the last one the consumer is closed."""
        if self._rounds.pop(partition, None) is None:
            return
        self._reader.remove(partition)
        if self._rounds:
            self._consumer.incremental_unassign([TopicPartition(self._topic, partition)])
        else:
            self._consumer.close()
            self._consumer = None

    def poll(self, wait_s: float) -> int:
        """Read and apply records for SLICE_SECONDS at most, or wait so long for the first; returns how many.

        Users are marked dirty on disk only: whoever follows the partition next finds them there.

        Raises:
            BrokerError, DataLossError: as `LogReader.poll`.
        """
        if not self._rounds:
            return 0
        started, rows = self._clock(), 0
        while True:
            polled = self._reader.poll(SLICE_ROWS, 0.0 if rows else wait_s)
            rows += polled.rows
            if not polled.rows + polled.stale or self._clock() - started >= SLICE_SECONDS:
                return rows

    def near(self) -> list[int]:
        """Partitions that have been read to their end, and of which little has come since, or too much to wait for."""
        out = []
        for partition, round_ in self._rounds.items():
            at = self._reader.buffers[partition].log_offset
            tp = TopicPartition(self._topic, partition)
            following = round_.next(at, self._consumer.get_watermark_offsets(tp, cached=True)[1])
            if following is None:
                out.append(partition)
            else:
                self._rounds[partition] = following
        return out
