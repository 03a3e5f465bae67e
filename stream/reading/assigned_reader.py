"""A consumer that is assigned its partitions and reads on whatever becomes of its client."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from confluent_kafka import TopicPartition

from store.base import logs, metrics
from store.base.errors import BrokerError
from stream.broker_properties import Property
from stream.kafka.client import Connection
from stream.kafka.patience import close_aside
from stream.reading.stillness import Partition
from stream.reading.watch import STILL_SECONDS, ReadingWatch, positions_of

TRIES = 3
"""New clients in a row that are given nothing either."""
log = logs.get(__name__)


class AssignedReader:
    """A confluent_kafka.Consumer that is never subscribed: its methods, of the same meaning, for one thread.

    When it is given nothing for a while, though another client is given records from the same position on, its client
    is replaced by a new one that reads on there: nothing is skipped, and nothing is handed over twice. It is logged as
    `client_replaced`.

    Args:
        make: its client. Default: `connection.reader(group, **config)`.
        still_seconds: see ReadingWatch. clock: seconds, monotonic.
    """

    def __init__(
        self,
        connection: Connection,
        group: str,
        *,
        make: Callable[[], Any] | None = None,
        still_seconds: float = STILL_SECONDS,
        clock: Callable[[], float] = time.monotonic,
        **config: Property,
    ) -> None:
        self._group = group
        self._make = make or (lambda: connection.reader(group, **config))
        self._watch = ReadingWatch(connection, group, still_seconds=still_seconds, clock=clock)
        self._client = self._make()
        self._starts: dict[Partition, int] = {}
        self._paused: set[Partition] = set()
        self._replaced_at: dict[Partition, int] = {}
        self._tries = 0

    # What is read

    def assign(self, partitions: Sequence[TopicPartition]) -> None:
        """Read these, from their offsets on, and no others."""
        self._client.assign(partitions)
        self._starts = {}
        self._begin(partitions)

    def incremental_assign(self, partitions: Sequence[TopicPartition]) -> None:
        """Read these too."""
        self._client.incremental_assign(partitions)
        self._begin(partitions)

    def incremental_unassign(self, partitions: Sequence[TopicPartition]) -> None:
        """Read these no more."""
        self._client.incremental_unassign(partitions)
        for at in _places(partitions):
            self._starts.pop(at, None)

    def pause(self, partitions: Sequence[TopicPartition]) -> None:
        """Hand nothing of these over, until they are resumed."""
        self._client.pause(partitions)
        self._paused |= _places(partitions)

    def resume(self, partitions: Sequence[TopicPartition]) -> None:
        """Read on."""
        self._client.resume(partitions)
        self._paused -= _places(partitions)

    def _begin(self, partitions: Iterable[TopicPartition]) -> None:
        for tp in partitions:
            self._starts[tp.topic, tp.partition] = tp.offset

    # What comes

    def poll(self, timeout: float) -> Any:
        """The next message, or None. Raises BrokerError: `client_stuck`."""
        if (message := self._client.poll(timeout)) is None:
            self._look()
        return message

    def consume(self, num_messages: int, timeout: float) -> list[Any]:
        """The next messages. Raises BrokerError: `client_stuck`."""
        messages: list[Any] = self._client.consume(num_messages, timeout)
        if not messages:
            self._look()
        return messages

    # Questions

    def position(self, partitions: Sequence[TopicPartition]) -> list[TopicPartition]:
        """As the client says."""
        found: list[TopicPartition] = self._client.position(partitions)
        return found

    def get_watermark_offsets(self, partition: TopicPartition, **how: Any) -> tuple[int, int]:
        """Oldest offset and end of a partition. Raises KafkaException."""
        low, high = self._client.get_watermark_offsets(partition, **how)
        return low, high

    def close(self) -> None:
        """Release the clients."""
        self._watch.close()
        self._client.close()

    # A client that is given nothing

    def _look(self) -> None:
        if stuck := self._watch.look(self._reading):
            self._replace(stuck)

    def _reading(self) -> dict[Partition, int]:
        if not self._starts:
            return {}
        found = positions_of(self._client, self._starts)
        if any(found.get(partition, at) != at for partition, at in self._replaced_at.items()):
            self._replaced_at, self._tries = {}, 0
        return {partition: at for partition, at in found.items() if partition not in self._paused}

    def _replace(self, stuck: dict[Partition, tuple[int, int]]) -> None:
        told = {f"{topic}:{n}": {"position": at, "end": end} for (topic, n), (at, end) in stuck.items()}
        self._tries += 1
        if self._tries > TRIES:
            raise BrokerError(
                f"{TRIES} new clients of {self._group} in a row were given nothing, another client is: {told}",
                action="a role under `anchorstream up` or Kubernetes starts anew by itself; else start it again",
                code="client_stuck",
            )
        log.warning(
            logs.CLIENT_REPLACED,
            group=self._group,
            partitions=told,
            tries=self._tries,
            detail="its client was given nothing, another client is: a new client reads on at the same position",
        )
        metrics.CLIENTS_REPLACED.inc()
        self._replaced_at = {partition: at for partition, (at, _) in stuck.items()}
        # a logical start that nothing has come of stays one
        self._starts |= positions_of(self._client, self._starts)
        old, self._client = self._client, self._make()
        close_aside(old)
        self._client.assign([TopicPartition(*partition, at) for partition, at in self._starts.items()])
        if paused := [TopicPartition(*partition) for partition in self._paused & self._starts.keys()]:
            self._client.pause(paused)


def _places(partitions: Iterable[TopicPartition]) -> set[Partition]:
    return {(tp.topic, tp.partition) for tp in partitions}
