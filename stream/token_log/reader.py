"""Following the `tokens` log with several token buffers, as a worker and a standby do."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any, NamedTuple

from confluent_kafka import TopicPartition

from store.buffer.token_buffer import TokenBuffer
from store.window.layout import Arrival, marked_arrival
from stream.kafka.consumer_errors import ConsumerErrors
from stream.kafka.patience import patiently
from stream.kafka.positions import REBUILD, check_position
from stream.token_log.log_runs import apply, reached, split_runs
from stream.token_log.ownership import Ownership


class Polled(NamedTuple):
    """What `LogReader.poll` applied. live, swept: users marked dirty, by events and by expiry alone.

    behind: by partition, how old its newest rows were, seconds, since their events came in; where that was said. So
    who sees `tokens` nearly drained knows that raw topics or `events` are not. Where nothing follows them in `tokens`,
    how old they were when they were sent: that the reader had something else to do is no backlog.
    """

    rows: int
    stale: int
    live: list[str]
    swept: list[str]
    behind: dict[int, float]


class LogReader:
    """Follows `tokens` with one replica buffer per assigned partition, marking users dirty. For one thread.

    The consumer is the caller's (its group decides the partitions). On assignment, call `add` for each partition and
    assign the positions it returns; on revocation call `remove` before closing the buffer.
    """

    def __init__(self, consumer: Any, topic: str, wall: Callable[[], float] = time.time) -> None:
        """wall: seconds since the epoch."""
        self._wall = wall
        self._consumer = consumer
        self._topic = topic
        self._errors = ConsumerErrors(topic)
        self._buffers: dict[int, TokenBuffer] = {}
        self._ownership: dict[int, Ownership] = {}
        self._mark_from: dict[int, int] = {}

    @property
    def buffers(self) -> dict[int, TokenBuffer]:
        """Buffers by partition."""
        return self._buffers

    def add(self, partition: int, buffer: TokenBuffer, *, mark_from: int = 0) -> TopicPartition:
        """Take a partition on; returns where to read on.

        Args:
            mark_from: records below this offset mark nobody dirty (their embeddings are known to be published).

        Raises:
            DataLossError: the log no longer begins at the buffer's position, or ends before it.
        """
        tp = TopicPartition(self._topic, partition, buffer.log_offset)
        patiently(lambda: check_position(self._consumer, tp, buffer.log_offset, remedy=REBUILD), threading.Event())
        self._buffers[partition] = buffer
        self._ownership[partition] = Ownership(buffer.owner)
        self._mark_from[partition] = mark_from
        return tp

    def remove(self, partition: int) -> TokenBuffer | None:
        """Leave a partition; returns its buffer, which is up to date with everything polled."""
        self._ownership.pop(partition, None)
        return self._buffers.pop(partition, None)

    def poll(self, max_rows: int = 5000, timeout: float = 0.1) -> Polled:
        """Read at most `max_rows` records and apply them.

        Raises:
            BrokerError: the broker refuses us for good. DataLossError: the position is gone.
        """
        rows = stale = 0
        live: list[str] = []
        swept: list[str] = []
        behind: dict[int, float] = {}
        by_partition: dict[int, list[Any]] = {}
        first = self._consumer.poll(timeout)  # `consume` would wait for all of `max_rows`
        if first is None:
            return Polled(0, 0, live, swept, behind)
        for message in (first, *self._consumer.consume(max_rows, 0)):
            by_partition.setdefault(message.partition(), []).append(message)
        for partition, messages in by_partition.items():
            reached(messages, 0, self._errors)
            buffer = self._buffers.get(partition)
            if buffer is None:
                continue  # revoked since it was fetched
            mark_from = self._mark_from[partition]
            arrival: Arrival | None = None
            for mark_dirty, part in (
                (False, [m for m in messages if m.offset() < mark_from]),
                (True, [m for m in messages if m.offset() >= mark_from]),
            ):
                for run in split_runs(part, self._ownership[partition], buffer.log_offset):
                    (swept if run.sweep else live).extend(apply(buffer, run, mark_dirty=mark_dirty))
                    rows += len(run.rows)
                    stale += len(run.stale)
                    arrival = marked_arrival(run.marker) or arrival
            if arrival is not None:
                behind[partition] = self._behind_seconds(arrival, messages[-1])
        return Polled(rows, stale, live, swept, behind)

    def _behind_seconds(self, arrival: Arrival, last: Any) -> float:
        tp = TopicPartition(self._topic, last.partition())
        if self._consumer.get_watermark_offsets(tp, cached=True)[1] <= last.offset() + 1:
            return arrival.behind_ms / 1000
        return max(0.0, self._wall() - arrival.at / 1000)
