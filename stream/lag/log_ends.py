"""Which of our topics are there, and where their partitions begin and end."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from confluent_kafka import IsolationLevel, KafkaError, KafkaException, TopicCollection, TopicPartition
from confluent_kafka.admin import OffsetSpec

from stream.kafka.client import Connection
from stream.kafka.lasting_admin import LastingAdmin

Partition = tuple[str, int]
"""Topic, partition."""


class Watermarks(NamedTuple):
    """start: oldest offset. end: where a reader stops, for now: the first open transaction's beginning, or `high`.

    high: where the next message goes.
    """

    start: int
    end: int
    high: int


@dataclass(slots=True)
class Found:
    """partitions: per topic that is there. ids: of the same topics, "" where the broker has none.

    refused: {topic: why} of those that we may not see.
    """

    partitions: dict[str, int] = field(default_factory=dict)
    ids: dict[str, str] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)


class LogEnds:
    """Asks the broker about our topics only. For one thread."""

    def __init__(self, connection: Connection, admin: LastingAdmin, *, timeout_seconds: float) -> None:
        self._connection = connection
        self._admin = admin
        self._timeout = timeout_seconds

    def topics(self, names: Collection[str]) -> Found:
        """Those of `names` that exist; none is made by asking.

        Also what keeps `watermarks` working over a broker's restart: the client refuses to ask for offsets under the
        leader epoch that it remembers, and does not look for a newer one by itself.

        Raises:
            KafkaException: no answer.
        """
        found = Found()
        if self._connection.embedded:
            there = self._admin.client.list_topics(timeout=self._timeout).topics
            found.partitions = {n: len(t.partitions) for n, t in there.items() if n in names and t.error is None}
            found.ids = dict.fromkeys(found.partitions, "")
            return found
        if not names:
            return found
        answers = self._admin.client.describe_topics(TopicCollection(sorted(names)), request_timeout=self._timeout)
        failure: KafkaException | None = None
        for name, answer in answers.items():
            try:
                topic = answer.result(self._timeout + 1)
            except KafkaException as exc:
                code = exc.args[0].code()
                if code == KafkaError.TOPIC_AUTHORIZATION_FAILED:
                    found.refused[name] = exc.args[0].str()
                elif code != KafkaError.UNKNOWN_TOPIC_OR_PART:
                    failure = exc
                continue
            found.partitions[name] = len(topic.partitions)
            found.ids[name] = str(topic.topic_id)
        if failure is not None:
            raise failure
        return found

    def watermarks(self, partitions: Collection[Partition]) -> dict[Partition, Watermarks]:
        """Of every partition that has a leader.

        Raises:
            KafkaException, TimeoutError: none answered.
        """
        if not partitions:
            return {}
        # the end last: it only grows, and lag must not be negative
        start = self._offsets(partitions, OffsetSpec.earliest(), IsolationLevel.READ_UNCOMMITTED)
        stable = self._offsets(partitions, OffsetSpec.latest(), IsolationLevel.READ_COMMITTED)
        high = self._offsets(partitions, OffsetSpec.latest(), IsolationLevel.READ_UNCOMMITTED)
        there = start.keys() & stable.keys() & high.keys()
        return {p: Watermarks(start[p], stable[p], high[p]) for p in there}

    def _offsets(self, partitions: Collection[Partition], spec: Any, isolation: Any) -> Mapping[Partition, int]:
        request = {TopicPartition(*p): spec for p in partitions}
        found: dict[Partition, int] = {}
        failure: Exception | None = None
        answers = self._admin.client.list_offsets(request, isolation_level=isolation, request_timeout=self._timeout)
        for tp, answer in answers.items():
            try:
                found[tp.topic, tp.partition] = answer.result(self._timeout + 1).offset
            except (KafkaException, TimeoutError) as exc:
                failure = exc
        if failure is not None and not found:
            raise failure
        return found
