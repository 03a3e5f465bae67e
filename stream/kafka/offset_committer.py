"""Commits offsets of a group without being a member of it, and without ever blocking its caller for long."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from confluent_kafka import KafkaException, TopicPartition

from store.base import logs
from stream.kafka.client import Connection

log = logs.get(__name__)
_POLL_SECONDS = 0.02

Offsets = Mapping[tuple[str, int], int]
"""(topic, partition) → next offset."""


class OffsetCommitter:
    """Keeps a group's committed offsets up with what it is told. For one thread.

    At most one commit is under way; what failed is part of the next one, as long as it has not been acknowledged.
    """

    def __init__(self, connection: Connection, group: str) -> None:
        self.group = group
        self._wanted: dict[tuple[str, int], int] = {}
        self._committed: dict[tuple[str, int], int] = {}
        self._in_flight = False
        callback: Any = self._acknowledged
        self._consumer = connection.consumer(group, on_commit=callback)

    @property
    def consumer(self) -> Any:
        """For reading this group's committed offsets."""
        return self._consumer

    def offer(self, offsets: Offsets) -> None:
        """Commit these in the next `step`s."""
        self._wanted.update(offsets)

    def step(self) -> None:
        """Serve acknowledgements and send what is new; does not wait."""
        self._consumer.poll(0)
        if self._in_flight:
            return
        new = {tp: offset for tp, offset in self._wanted.items() if self._committed.get(tp) != offset}
        if not new:
            return
        self._in_flight = True
        try:
            self._consumer.commit(
                offsets=[TopicPartition(*tp, offset) for tp, offset in new.items()], asynchronous=True
            )
        except KafkaException as exc:
            self._in_flight = False
            log.warning(logs.BROKER_UNAVAILABLE, what="commit", group=self.group, error=exc.args[0].str())

    def close(self, timeout_seconds: float = 3.0) -> None:
        """Commit what is left, waiting no longer than this, and close."""
        deadline = time.monotonic() + timeout_seconds
        while time.monotonic() < deadline:
            self.step()
            if not self._in_flight and self._committed.items() >= self._wanted.items():
                break
            time.sleep(_POLL_SECONDS)
        self._consumer.close()

    def _acknowledged(self, error: Any, partitions: list[Any]) -> None:
        self._in_flight = False
        failed = error
        for tp in partitions or ():
            if error is None and tp.error is None:
                self._committed[tp.topic, tp.partition] = tp.offset
            else:
                failed = failed or tp.error
        if failed is not None:
            log.warning(logs.BROKER_UNAVAILABLE, what="commit", group=self.group, error=str(failed))
