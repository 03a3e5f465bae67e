"""Commits offsets of a group without being a member of it, and without ever blocking its caller for long.

Several processes may commit for one group, each as far as it has come itself: the group's commit is that of the one
that has come furthest, and never goes back. Where each of them is, it says by itself.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

from confluent_kafka import KafkaException, TopicPartition

from stream.kafka.client import Connection
from stream.kafka.consumer_errors import ConsumerErrors
from stream.kafka.group_client import GroupClient

_POLL_SECONDS = 0.02
RENEW_SECONDS = 3600.0
"""A broker forgets the commits of a group without members after `offsets.retention.minutes` (7 days by default, one on
old brokers), so those of a quiet topic are made again."""
LOOK_SECONDS = 10.0
"""Between two looks at what the group has: somebody may have deleted it, and where nothing comes nothing would tell."""
ASK_SECONDS = 0.5
RETRY_SECONDS = 2.0
"""After a question that was not answered."""

Partition = tuple[str, int]
"""Topic, partition."""
Offsets = Mapping[Partition, int]
"""(topic, partition) → next offset."""


class OffsetCommitter:
    """Keeps a group's committed offsets up with what it is told. For one thread.

    At most one commit is under way; what failed is part of the next one, as long as it has not been acknowledged.

    Args:
        clock: monotonic seconds.
    """

    def __init__(self, connection: Connection, group: str, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.group = group
        self._clock = clock
        self._errors = ConsumerErrors(group)
        self._wanted: dict[Partition, int] = {}
        self._done: dict[Partition, int] = {}
        self._in_flight = False
        self._renew_at = clock() + RENEW_SECONDS
        self._renewed: set[Partition] = set()
        self._look_at = clock() + LOOK_SECONDS
        self._ask_at = clock()
        self._client = GroupClient(connection, group, self._acknowledged)

    @property
    def consumer(self) -> Any:
        """For reading this group's committed offsets, now."""
        return self._client.consumer

    def offer(self, offsets: Offsets) -> None:
        """Commit these, and no others, in the next `step`s."""
        self._wanted = dict(offsets)

    def step(self) -> None:
        """Serve acknowledgements and send what is new; does not wait for it."""
        self._client.poll()
        now = self._clock()
        if self._in_flight or now < self._ask_at:
            return
        if now >= self._renew_at:
            self._renew_at = now + RENEW_SECONDS
            self._renewed = set(self._done)
            self._done.clear()
        if now >= self._look_at:
            self._look_at = now + LOOK_SECONDS
            self._done.clear()
        new = {tp: offset for tp, offset in self._wanted.items() if self._done.get(tp) != offset}
        if not new:
            return
        try:
            due = self._above(new)
            if due:
                self._in_flight = True
                self._client.commit([TopicPartition(*tp, of) for tp, of in due.items()])
        except KafkaException as exc:
            self._in_flight = False
            self._ask_at = now + RETRY_SECONDS
            self._errors.passing(exc.args[0], what="commit")

    def close(self, timeout_seconds: float = 3.0) -> None:
        """Commit what is left, waiting no longer than this, and close."""
        deadline = time.monotonic() + timeout_seconds
        self._ask_at = self._clock()
        while time.monotonic() < deadline:
            self.step()
            if not self._in_flight and self._done.items() >= self._wanted.items():
                break
            time.sleep(_POLL_SECONDS)
        self._client.close()

    def _above(self, new: Offsets) -> dict[Partition, int]:
        """Those of `new` that are above what the group has by now, and those that are due anew; the others are done."""
        due = {}
        for tp in self._client.committed([TopicPartition(*tp) for tp in new], timeout=ASK_SECONDS):
            if tp.error is not None:
                raise KafkaException(tp.error)
            at = (tp.topic, tp.partition)
            if new[at] > tp.offset or (new[at] == tp.offset and at in self._renewed):
                due[at] = new[at]
            else:
                self._done[at] = new[at]
                self._renewed.discard(at)
        return due

    def _acknowledged(self, error: Any, partitions: list[Any]) -> None:
        self._in_flight = False
        failed = error
        for tp in partitions or ():
            if error is None and tp.error is None:
                at = (tp.topic, tp.partition)
                self._done[at] = tp.offset
                self._renewed.discard(at)
            else:
                failed = failed or tp.error
        if failed is not None:
            self._ask_at = self._clock() + RETRY_SECONDS
            self._errors.passing(failed, what="commit")
