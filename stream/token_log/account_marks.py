"""Where the newest account of each partition of `tokens` lies: a committed offset of a group that nobody joins.

The account itself is in the log, in the owner's marker before each batch; so whoever asks needs one record a partition.
The offset's metadata says how far the account goes in `events`, and how many users the partition has.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

from confluent_kafka import KafkaException, TopicPartition

from store.base import logs
from stream.commit_metadata import encode
from stream.kafka.client import Connection
from stream.kafka.group_client import GroupClient

SAY_SECONDS = 1.0
"""Between two commits."""
AGAIN_SECONDS = 60.0
"""Also without news: a commit that was lost, or undone by a frozen former owner, does not stay so."""
_COUNT_SHARE = 100
"""Counting a partition's users may take so small a share of the time."""
log = logs.get(__name__)


class _Mark:
    __slots__ = ("count_at", "counted", "events_next", "offset", "said_at", "unsaid", "users")

    def __init__(self, count: Callable[[], int]) -> None:
        self.offset = self.events_next = self.counted = 0
        self.users = count
        self.count_at = self.said_at = -1e9
        self.unsaid = False


class AccountMarks:
    """Of the partitions that are open. For one thread.

    Args:
        group: whose offsets of `topic` these are.
        clock: seconds, monotonic.
    """

    def __init__(
        self, connection: Connection, topic: str, group: str, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._topic = topic
        self._clock = clock
        self._marks: dict[int, _Mark] = {}
        self._said_at = -1e9
        self._client = GroupClient(connection, group, self._on_commit)

    def open(self, partition: int, users: Callable[[], int]) -> None:
        """From now on a partition is ours. users: how many it has, at least about."""
        self._marks[partition] = _Mark(users)

    def note(self, partition: int, offset: int, events_next: int) -> None:
        """Its newest marker, and the next offset of `events` that is not in the account."""
        mark = self._marks[partition]
        mark.offset, mark.events_next, mark.unsaid = offset, events_next, True

    def say(self) -> None:
        """Commit what is new, now and then; does not wait."""
        self._client.poll()
        now = self._clock()
        if now < self._said_at + SAY_SECONDS:
            return
        due = [n for n, mark in self._marks.items() if mark.unsaid or now >= mark.said_at + AGAIN_SECONDS]
        if due:
            self._said_at = now
            self._commit(due, wait=False)

    def close(self, partitions: Sequence[int]) -> None:
        """These are not ours any more; the last of them is said."""
        there = [number for number in partitions if number in self._marks]
        if due := [number for number in there if self._marks[number].unsaid]:
            self._commit(due, wait=True)
        for number in there:
            del self._marks[number]

    def end(self) -> None:
        """Release the client."""
        self.close(list(self._marks))
        self._client.close()

    def _commit(self, partitions: Sequence[int], *, wait: bool) -> None:
        offsets = [self._offset(number, self._marks[number], final=wait) for number in partitions]
        try:
            (self._client.commit_now if wait else self._client.commit)(offsets)
        except KafkaException as exc:  # the next owner says it
            log.warning(logs.BROKER_UNAVAILABLE, what="commit of the account", error=exc.args[0].str())

    def _offset(self, number: int, mark: _Mark, *, final: bool) -> TopicPartition:
        begun = self._clock()
        mark.unsaid = not final and begun < mark.count_at  # users are told with the next one
        if not mark.unsaid:
            mark.counted = mark.users()
            ended = self._clock()
            mark.count_at = ended + _COUNT_SHARE * (ended - begun)
        mark.said_at = begun
        metadata = encode({"events": mark.events_next, "users": mark.counted})
        return TopicPartition(self._topic, number, mark.offset, metadata=metadata)

    def _on_commit(self, error: Any, partitions: Sequence[TopicPartition]) -> None:
        for tp in partitions:
            if (error or tp.error) is not None and (mark := self._marks.get(tp.partition)) is not None:
                mark.unsaid = True
