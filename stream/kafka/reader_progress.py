"""How far the readers of a topic on an embedded broker are, and how much may be written until that is asked again."""

from __future__ import annotations

import time
from functools import lru_cache
from typing import Any

from confluent_kafka import ConsumerGroupTopicPartitions, KafkaException, TopicPartition
from confluent_kafka.admin import OffsetSpec

from store.base import logs
from store.base.errors import BrokerError, TopicError
from stream.commit_metadata import read_waiting
from stream.kafka.backlog import Backlog
from stream.kafka.client import Connection
from stream.kafka.partitioner import murmur2
from stream.topics import TopicSpec

MESSAGE_OVERHEAD_BYTES = 100
"""Batch and record headers of a message that travels alone, on the safe side."""
REQUEST_SECONDS = 3.0
GIVE_UP_SECONDS = 30.0
"""An embedded broker that does not answer for this long is gone, with everything in it."""
log = logs.get(__name__)

_hash = lru_cache(maxsize=262_144)(murmur2)


class PacedTopic:
    """One topic's unread bytes against a budget. A topic without readers is never waited for; its loss is logged.

    Writing takes from a slice of the budget per partition; a used-up slice means asking the broker for the readers'
    commits and the end of the log, for all partitions at once: about 1.5 ms.
    """

    def __init__(self, connection: Connection, admin: Any, spec: TopicSpec, budget_bytes: int) -> None:
        self.name = spec.name
        self._connection = connection
        self._admin = admin
        self._readers = spec.readers
        self._budget = budget_bytes
        self._slice = budget_bytes // 4
        self._backlogs: list[Backlog] = []
        self._unread: list[int] = []
        self._committed: dict[str, list[int]] = {}
        self._turn = 0
        self._overflowed = False
        self._silent_since: float | None = None

    def partition_of(self, key: bytes | None) -> int:
        """Partition of a key as the producer's partitioner chooses it; round robin without one.

        Raises:
            TopicError: the topic does not exist.
        """
        count = len(self._backlogs) or self._discover()
        if key is None:
            self._turn = (self._turn + 1) % count
            return self._turn
        return (_hash(key) & 0x7FFFFFFF) % count

    def take(self, partition: int, size: int) -> bool:
        """Take `size` bytes of the partition's slice; False if it is used up, and nothing is taken.

        Raises:
            TopicError: the topic does not exist, or has no such partition.
        """
        try:
            return self._backlogs[partition].take(size)
        except IndexError:
            if partition < self._discover():
                return self._backlogs[partition].take(size)
            raise TopicError(
                f"{self.name} has {len(self._backlogs)} partitions, none numbered {partition}",
                action="kafka.partitions must be what the embedded broker was started with: restart it",
            ) from None

    def take_after_refresh(self, partition: int, size: int) -> bool:
        """As `take`, right after `refresh`; a message larger than the whole budget passes when nothing is unread.

        Not before an eighth of the budget is free: else each message to a slow reader would cost a round of requests.
        """
        backlog = self._backlogs[partition]
        if self._unread[partition] > 0 and backlog.room < max(size, self._budget // 8):
            return False
        backlog.wrote(size)
        return True

    def refresh(self) -> bool:
        """Ask how far the readers are and hand out new slices; all that was taken must have been acknowledged.

        Returns:
            False if the broker did not answer: ask again.

        Raises:
            BrokerError: it has not answered for GIVE_UP_SECONDS.
        """
        partitions = [TopicPartition(self.name, p) for p in range(len(self._backlogs))]
        try:
            # commits before ends: what is read in between counts as unread, never the other way round
            self._committed = self._ask_committed(partitions)
            ends = self._ask_offsets(partitions, OffsetSpec.latest())
            if not self._readers and not self._overflowed:
                self._warn_if_removed(self._ask_offsets(partitions, OffsetSpec.earliest()))
        except KafkaException as exc:
            now = time.monotonic()
            self._silent_since = self._silent_since or now
            if now - self._silent_since > GIVE_UP_SECONDS:
                raise BrokerError(
                    f"the embedded broker has not answered for {GIVE_UP_SECONDS:g} s: {exc.args[0].str()}",
                    action="restart `anchorstream up`; what was in the broker is gone, so replay the source",
                ) from exc
            return False
        self._silent_since = None
        for partition, (backlog, end) in enumerate(zip(self._backlogs, ends, strict=True)):
            slowest = min((offsets[partition] for offsets in self._committed.values()), default=end)
            self._unread[partition] = unread = backlog.unread(slowest, end)
            backlog.room = max(0, min(self._slice, self._budget - unread))
        return True

    def read_by(self, group: str) -> bool:
        """Whether a reader has committed the topic's end; True of a group that does not read it."""
        if group not in self._readers:
            return True
        partitions = [TopicPartition(self.name, p) for p in range(len(self._backlogs) or self._discover())]
        try:
            ends = self._ask_offsets(partitions, OffsetSpec.latest())
            return all(map(int.__ge__, self._ask_committed(partitions)[group], ends))
        except KafkaException:
            return False  # the broker is asked again

    def slowest(self, partition: int) -> str:
        """Name of the reader that is furthest behind, as of the last `refresh`."""
        return min(self._committed, key=lambda group: self._committed[group][partition], default="")

    def _discover(self) -> int:
        found = self._connection.metadata().topics.get(self.name)
        if found is None:
            raise TopicError(
                f"there is no topic {self.name} on the embedded broker",
                action="it creates the topics of the config it was started with: restart `anchorstream up`",
            )
        count = len(found.partitions)
        self._backlogs = [Backlog() for _ in range(count)]
        self._unread = [0] * count
        return count

    def _ask_committed(self, partitions: list[Any]) -> dict[str, list[int]]:
        # explicit partitions: the embedded broker does not answer "all partitions of a group"
        futures = {
            group: self._admin.list_consumer_group_offsets(
                [ConsumerGroupTopicPartitions(group, partitions)], request_timeout=REQUEST_SECONDS
            )[group]
            for group in self._readers
        }
        committed = {}
        for group, future in futures.items():
            offsets = [0] * len(partitions)  # a reader that never committed has read nothing
            for tp in future.result().topic_partitions:
                said = read_waiting(tp.metadata)
                # what is read and kept need not be kept here, though the commit says that nothing came of it yet
                offsets[tp.partition] = max(0, tp.offset, (said and said.read) or 0)
            committed[group] = offsets
        return committed

    def _ask_offsets(self, partitions: list[Any], spec: Any) -> list[int]:
        answers = self._admin.list_offsets(dict.fromkeys(partitions, spec), request_timeout=REQUEST_SECONDS)
        return [answers[tp].result().offset for tp in partitions]

    def _warn_if_removed(self, lows: list[int]) -> None:
        if any(lows):
            self._overflowed = True
            log.warning(
                logs.MESSAGES_REMOVED,
                topic=self.name,
                removed=sum(lows),
                detail="the embedded broker keeps 5 MiB a partition; use `local` or your own Kafka to keep them all",
            )
