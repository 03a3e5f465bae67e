"""Who writes what the worker publishes, partition by partition of `tokens`: fenced on Kafka, plain when embedded.

On Kafka each partition that is ours has a producer of its own (`stream/kafka/fenced_producer.py`), opened when the
group gives the partition and before anything is read of it: from then on nothing that a former owner has under way
lands any more. What it publishes and its offset of `tokens` are one transaction.

An embedded broker has one worker, so nobody is to be fenced.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple, Protocol

from confluent_kafka import TopicPartition

from store.base.stop import Stop, obey
from stream.kafka.client import Connection
from stream.kafka.fenced_producer import Aborted, FencedProducer
from stream.kafka.pacing import SafeProducer
from stream.topics import Topics, TopicSpec

DELIVERY_SECONDS = 60.0
"""A batch that is not acknowledged within this stops the worker; the supervisor restarts it."""
THREADS = 16
"""Producers opened, or transactions committed, at once; they wait for the broker nearly all of the time."""

Position = tuple[int, str]
"""An offset of `tokens`, and the metadata to be committed with it."""


class Written(NamedTuple):
    """published: of these partitions everything is acknowledged. committed: with it their positions. fenced: theirs
    could not be committed, since another member opened them, the group has moved on, or the broker went away."""

    published: frozenset[int]
    committed: frozenset[int]
    fenced: Mapping[int, str]


class Writers(Protocol):
    """For the worker's thread."""

    def add_topics(self, specs: Iterable[TopicSpec]) -> None:
        """More topics are to be written."""

    def open(self, partitions: Sequence[int], consumer: Any) -> None:
        """These are ours: whatever their former owners have under way is not seen from now on.

        Args:
            consumer: the group's member; its group has just given it the partitions.

        Raises:
            BrokerError, Stopped.
        """

    def close(self, partitions: Collection[int]) -> None:
        """These are ours no more; what is not committed is not seen."""

    def produce(self, partition: int, topic: str, value: bytes | None, key: bytes, *, to: int | None = None) -> None:
        """Queue a record on behalf of a partition. to: the topic's partition, the same unless given.

        Raises:
            BrokerError, Stopped.
        """

    def queued(self) -> frozenset[int]:
        """Partitions with records that no `commit` has covered."""

    def commit(self, positions: Mapping[int, Position]) -> Written:
        """Make what was produced for these partitions visible, and wait for it.

        Raises:
            BrokerError: not acknowledged in time, or refused. Stopped.
        """

    def check(self) -> None:
        """Raises BrokerError if a delivery has failed so far; does not wait."""


def writers(connection: Connection, topics: Topics, specs: Sequence[TopicSpec], stop: Callable[[], Stop]) -> Writers:
    """As the broker needs them. specs: topics to be written. stop: obeyed while the broker lets us wait."""
    if connection.embedded:
        return PlainWriters(connection, specs, stop)
    return FencedWriters(connection, topics, stop)


class PlainWriters:
    """One producer for all partitions; offsets are committed by the group's consumer alone."""

    def __init__(self, connection: Connection, specs: Sequence[TopicSpec], stop: Callable[[], Stop]) -> None:
        self._producer = SafeProducer(connection, specs, while_waiting=lambda: obey(stop()))
        self._queued: set[int] = set()

    def add_topics(self, specs: Iterable[TopicSpec]) -> None:
        self._producer.add_topics(specs)

    def open(self, partitions: Sequence[int], consumer: Any) -> None:
        pass

    def close(self, partitions: Collection[int]) -> None:
        self._queued.difference_update(partitions)

    def produce(self, partition: int, topic: str, value: bytes | None, key: bytes, *, to: int | None = None) -> None:
        self._queued.add(partition)
        self._producer.produce(topic, value, key=key, partition=partition if to is None else to)

    def queued(self) -> frozenset[int]:
        return frozenset(self._queued)

    def commit(self, positions: Mapping[int, Position]) -> Written:
        self._producer.flush(DELIVERY_SECONDS)
        self._queued.clear()
        return Written(frozenset(positions), frozenset(), {})

    def check(self) -> None:
        self._producer.check()


class FencedWriters:
    """A transactional producer for each partition that is ours."""

    def __init__(self, connection: Connection, topics: Topics, stop: Callable[[], Stop]) -> None:
        self._connection = connection
        self._topics = topics
        self._stop = stop
        self._producers: dict[int, FencedProducer] = {}
        self._member: Any = None
        self._pool = ThreadPoolExecutor(THREADS, thread_name_prefix="writers")

    def add_topics(self, specs: Iterable[TopicSpec]) -> None:
        pass

    def open(self, partitions: Sequence[int], consumer: Any) -> None:
        self.close(partitions)
        # of the generation that gave these, so that a commit is refused once another one has begun
        self._member = consumer.consumer_group_metadata()
        if not consumer.memberid():
            return  # dropped by the group meanwhile. The broker would take the metadata for that of no group at all
        prefix = f"{self._topics.group_worker}."
        opened = self._all(lambda p: FencedProducer(self._connection, f"{prefix}{p}", self._stop), partitions)
        self._producers |= opened
        self._all(lambda p: opened[p].open(), partitions)

    def close(self, partitions: Collection[int]) -> None:
        gone = {p: self._producers.pop(p) for p in partitions if p in self._producers}
        self._all(lambda p: gone[p].close(), gone)

    def produce(self, partition: int, topic: str, value: bytes | None, key: bytes, *, to: int | None = None) -> None:
        if (producer := self._producers.get(partition)) is not None:  # else `commit` tells
            producer.produce(topic, value, key, partition if to is None else to)

    def queued(self) -> frozenset[int]:
        return frozenset(p for p, producer in self._producers.items() if producer.begun)

    def commit(self, positions: Mapping[int, Position]) -> Written:
        fenced = dict.fromkeys(positions.keys() - self._producers.keys(), "the group has dropped this member")
        due = {p: at for p, at in positions.items() if p not in fenced and self._producers[p].begun}
        fenced |= {p: why for p, why in self._all(lambda p: self._commit(p, due[p]), due).items() if why is not None}
        done = frozenset(due.keys() - fenced.keys())
        return Written(frozenset(positions.keys() - fenced.keys()), done, fenced)

    def check(self) -> None:
        pass

    def _commit(self, partition: int, position: Position) -> str | None:
        """None, or why the partition is fenced."""
        offset, metadata = position
        at = TopicPartition(self._topics.tokens, partition, offset, metadata)
        try:
            self._producers[partition].commit([at], self._member)
        except Aborted as exc:
            return str(exc)
        return None

    def _all(self, act: Callable[[int], Any], partitions: Collection[int]) -> dict[int, Any]:
        """act of each, at once; every one has ended on return. Raises the first error."""
        if len(partitions) == 1:
            return {p: act(p) for p in partitions}
        futures = {p: self._pool.submit(act, p) for p in partitions}
        failures = [failure for f in futures.values() if (failure := f.exception()) is not None]
        if failures:
            raise failures[0]
        return {p: f.result() for p, f in futures.items()}
