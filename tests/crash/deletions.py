"""Topics deleted, and records removed, so that it is known what is lost: nothing that was not read."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from confluent_kafka import KafkaError, KafkaException, TopicPartition

from deploy.kafka.topics import ensure
from store.base.errors import BrokerError
from stream.commit_metadata import decode
from stream.kafka.patience import patiently
from stream.kafka.topic_ids import TopicIds
from stream.raw_topics.registry import RawTopics
from stream.topics import TopicSpec
from tests.crash.system import System

SECONDS = 60.0
T = TypeVar("T")


class Deletions:
    """Acts of the owner of the topics of one system."""

    def __init__(self, system: System) -> None:
        self._system = system
        self._connection = system.launcher.connection
        self._partitions = range(system.topics.partitions)

    def all_read(self, topic: str) -> bool:
        """Whether ingest has committed all of the raw topic that is there now."""
        with contextlib.closing(TopicIds(self._connection)) as ids:
            current = _answered(lambda: ids.ask([topic]))[topic]
        ends = {partition: end for partition, (_, end) in self._marks(topic).items()}
        committed = self._committed(self._system.topics.group_ingest, topic)
        return all(
            not end or (tp.offset == end and decode(tp.metadata).get("topic") == current)
            for tp, end in ((committed[partition], end) for partition, end in ends.items())
        )

    def make_anew(self, topic: str) -> None:
        """Returns when it is there."""
        admin = self._connection.admin()
        _answered(lambda: _deleted(admin, topic))
        deadline = time.monotonic() + SECONDS
        while topic in self._connection.metadata().topics:
            assert time.monotonic() < deadline, f"{topic} is not gone"
            time.sleep(0.05)
        ensure(self._connection, [TopicSpec(topic, len(self._partitions), ours=False)])

    def seen_anew(self, topic: str) -> bool:
        """Whether ingest has given it a name of its own; from then on the system sends to it under that."""
        topics = RawTopics(self._connection, self._system.topics, self._system.topics.group_serve)
        try:
            topics.load(threading.Event())
        except BrokerError:
            return False
        finally:
            topics.close()
        before, now = self._system.sources[topic], topics.sources.get(topic, topic)
        self._system.sources[topic] = now
        return now != before

    def remove_read(self, topic: str) -> list[int]:
        """Remove what every group that reads the topic has committed; returns where the partitions begin now."""
        names = self._system.topics
        groups = [names.group_processor, names.group_freshness] if topic == names.events else [names.group_ingest]
        read = {p: min(self._committed(group, topic)[p].offset for group in groups) for p in self._partitions}
        partitions = [TopicPartition(topic, p, offset) for p, offset in read.items() if offset > 0]
        if partitions:
            admin = self._connection.admin()
            for answer in admin.delete_records(partitions, request_timeout=20).values():
                answer.result(40)
        return [max(0, read[p]) for p in self._partitions]

    def _marks(self, topic: str) -> Mapping[int, tuple[int, int]]:
        with contextlib.closing(self._connection.consumer("marks")) as consumer:
            return {
                p: _answered(lambda p=p: consumer.get_watermark_offsets(TopicPartition(topic, p), timeout=10))  # type: ignore[misc]
                for p in self._partitions
            }

    def _committed(self, group: str, topic: str) -> dict[int, Any]:
        with contextlib.closing(self._connection.consumer(group)) as consumer:
            wanted = [TopicPartition(topic, p) for p in self._partitions]
            return {tp.partition: tp for tp in _answered(lambda: consumer.committed(wanted, timeout=10))}


def _answered(ask: Callable[[], T]) -> T:
    """The broker may have been restarted a moment ago."""
    return patiently(ask, threading.Event())


def _deleted(admin: Any, topic: str) -> None:
    try:
        admin.delete_topics([topic])[topic].result(20)
    except KafkaException as exc:
        if exc.args[0].code() != KafkaError.UNKNOWN_TOPIC_OR_PART:  # it was, and the answer was lost
            raise
