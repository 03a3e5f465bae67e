"""Taking a partition of `tokens` over, and writing to it as its owner (steps 4 of docs/commit-protocol.md)."""

from __future__ import annotations

import secrets
import time
from collections.abc import Sequence
from typing import Any

from confluent_kafka import TopicPartition

from store.base import logs
from store.base.errors import BrokerError, PartitionTaken
from store.base.stop import Stop
from store.buffer.token_buffer import Row, TokenBuffer
from store.window.changes import Changes
from store.window.layout import Arrival
from stream.kafka.client import Connection
from stream.kafka.pacing import SafeProducer
from stream.reading.assigned_reader import AssignedReader
from stream.token_log.ownership import MARKER_KEY, OWNER_HEADER, SWEEP_HEADER, Ownership, epoch
from stream.token_log.restore import OnRestoreProgress, Restored, restore

_ATTEMPTS = 10
"""Each loses only to another processor that takes over at the same instant."""
_LOOK_SECONDS = 60.0
_TO_THE_END: dict[str, Any] = {"enable.partition.eof": True}

log = logs.get(__name__)


class OwnedLog:
    """One partition of `tokens` as its owner writes it. For one thread; `producer` may be shared by partitions.

    Use: `send(changes)`, `producer.flush()`, `log_offset = delivered()`, then `buffer.commit(changes, log_offset=…)`.
    """

    def __init__(
        self,
        connection: Connection,
        topic: str,
        partition: int,
        buffer: TokenBuffer,
        producer: SafeProducer,
        owner: bytes,
    ) -> None:
        self.owner = owner
        self._connection = connection
        self._topic = topic
        self._partition = partition
        self._buffer = buffer
        self._producer = producer
        self._sent = 0
        self._last: int | None = None
        self.marked: int | None = None
        """Offset of the newest marker."""

    def send(self, changes: Changes, arrival: Arrival | None = None) -> int:
        """Queue a batch's rows, in order, before them the account after it; returns how many records. Blocks while the
        producer's queue is full.

        The account comes first so that what became of an event is what was found when it was judged first: after a
        crash those of which rows have come are found to be duplicates.

        Args:
            arrival: when the batch's events came in; for who computes what is behind the rows.

        Raises:
            BrokerError: an earlier delivery failed.
        """
        owner, topic, partition, produce = (
            (OWNER_HEADER, self.owner),
            self._topic,
            self._partition,
            self._producer.produce,
        )
        runs: tuple[tuple[Sequence[Row], list[tuple[str, bytes]]], ...] = (
            (changes.rows, [owner]),
            (changes.sweep_rows, [owner, (SWEEP_HEADER, b"")]),
        )
        self._sent, self._last = sum(len(rows) for rows, _ in runs), None
        if changes.account is not None:
            self._sent += 1
            marker = self._buffer.marker(changes.account, arrival, changes.wall_time)
            produce(topic, marker, MARKER_KEY, partition, [owner], 0, self._marked)
        left = self._sent - (changes.account is not None)
        for rows, headers in runs:
            for key, value in rows:
                left -= 1
                produce(topic, value, key, partition, headers, 0, None if left else self._delivered)
        return self._sent

    def delivered(self) -> int:
        """The position after the last row of the last `send`, once the producer is flushed: commit it with the batch.

        If somebody else wrote in between, looks who: a former owner's rows are logged again with the next batch.

        Raises:
            PartitionTaken: a newer owner wrote; the batch must not be committed.
        """
        start = self._buffer.log_offset
        if not self._sent:
            return start
        if self._last is None:
            raise BrokerError("the last row was not acknowledged", action="flush the producer first")
        end = self._last + 1
        if end - start != self._sent:
            self._look_between(start, end)
        return end

    def _marked(self, error: Any, message: Any) -> None:
        if error is None:
            self._last = self.marked = message.offset()

    def _delivered(self, error: Any, message: Any) -> None:
        if error is None:
            self._last = message.offset()

    def _look_between(self, start: int, end: int) -> None:
        consumer = AssignedReader(self._connection, f"{self._topic}.restore", **_TO_THE_END)
        foreign: set[bytes] = set()
        try:
            consumer.assign([TopicPartition(self._topic, self._partition, start)])
            at = start
            deadline = time.monotonic() + _LOOK_SECONDS
            while at < end:
                if time.monotonic() > deadline:
                    raise BrokerError(
                        f"{self._topic}:{self._partition} could not be read back from {at} to {end} within "
                        f"{_LOOK_SECONDS:g} s",
                        action="check that the broker runs; nothing of the batch was committed",
                    )
                for message in consumer.consume(1000, 1.0):
                    at = max(at, message.offset() + (1 if message.error() is None else 0))
                    if message.error() is not None or message.offset() >= end:
                        continue
                    owner = dict(message.headers() or ()).get(OWNER_HEADER, b"")
                    if owner > self.owner:
                        raise PartitionTaken(
                            f"{self._topic}:{self._partition} has been taken over by another processor",
                            action="nothing: the group gives this processor other partitions; if it happens often, "
                            "raise kafka.properties session.timeout.ms",
                        )
                    if owner < self.owner and message.key() != MARKER_KEY:
                        foreign.add(message.key())
        finally:
            consumer.close()
        if foreign:
            log.warning(logs.STALE_ROWS, partition=self._partition, rows=len(foreign), next_offset=end)
            self._buffer.note_stale(foreign)


def take_over(
    connection: Connection,
    topic: str,
    partition: int,
    buffer: TokenBuffer,
    producer: SafeProducer,
    *,
    on_progress: OnRestoreProgress | None = None,
    stop: Stop | None = None,
) -> tuple[OwnedLog, Restored] | None:
    """Bring `buffer` up to date with the log and become the partition's owner. Flushes `producer`.

    Returns None if `stop` was set before it was done.

    Raises:
        DataLossError: the log no longer begins at the buffer's position.
        StateError: the log's rows were made under another schema; nothing was written.
        BrokerError: the marker could not be delivered.
        PartitionTaken: others kept taking over at the same time.
    """
    result = restore(connection, topic, partition, buffer, on_progress=on_progress, stop=stop, finish=False)
    for _ in range(_ATTEMPTS):
        if not result.complete:
            return None
        owner = Ownership(buffer.owner).successor(secrets.randbits(32))
        marker: list[int] = []
        producer.produce(
            topic,
            buffer.marker(),
            MARKER_KEY,
            partition,
            [(OWNER_HEADER, owner)],
            on_delivery=lambda error, message: marker.append(message.offset()) if error is None else None,  # noqa: B023
        )
        producer.flush()
        more = restore(connection, topic, partition, buffer, stop=stop, upto=marker[0] + 1)
        result = Restored(
            result.rows + more.rows,
            result.stale + more.stale,
            more.recomputed,
            result.seconds + more.seconds,
            more.complete,
        )
        if more.complete and buffer.owner == owner:
            log.info(logs.PARTITION_OWNED, partition=partition, epoch=epoch(owner), log_offset=buffer.log_offset)
            owned = OwnedLog(connection, topic, partition, buffer, producer, owner)
            owned.marked = marker[0]
            return owned, result
    raise PartitionTaken(
        f"{topic}:{partition} was taken over by others {_ATTEMPTS} times in a row",
        action="check that no two processors run with the same configuration outside one consumer group",
    )
