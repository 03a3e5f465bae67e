"""Which raw topics are there, and whether each is still the one that is read."""

from __future__ import annotations

import threading
from collections.abc import Collection, Iterable, Mapping, Sequence

from confluent_kafka import KafkaException, TopicPartition

from stream.commit_metadata import decode
from stream.kafka.client import Connection
from stream.kafka.consumer_errors import ConsumerErrors, UnreadTopics
from stream.kafka.topic_ids import TopicIds
from stream.raw_topics.registry import RawTopics
from stream.topics import Topics


class RawTopicIds:
    """For the consumer's thread. An embedded broker's topics have no ids.

    Args:
        names: of all raw topics.
    """

    def __init__(
        self,
        connection: Connection,
        topics: Topics,
        names: Sequence[str],
        errors: ConsumerErrors,
        unread: UnreadTopics,
    ) -> None:
        self._names = names
        self._errors = errors
        self._unread = unread
        self._asked = TopicIds(connection, without_denied=True)
        self._registry = None if connection.embedded else RawTopics(connection, topics, topics.group_ingest)
        self._ids: dict[str, str] = {}
        self._read_by_client: dict[str, str] = {}  # the first of each name that the consumer had

    def get(self, topic: str) -> str | None:
        """Id of the topic that is read; None where it has none."""
        return self._ids.get(topic)

    def source_of(self, topic: str) -> str:
        """Its name in events, `covers` and derived ids (stream/raw_topics/registry.py)."""
        return topic if self._registry is None else self._registry.sources.get(topic, topic)

    def is_current(self, committed: TopicPartition) -> bool:
        """Whether an offset was committed of the topic that is there; what older versions committed is taken to be."""
        id_ = self._ids.get(committed.topic)
        return decode(committed.metadata).get("topic", id_) == id_

    def assigned(self, topics: Iterable[str], stop: threading.Event) -> None:
        """Partitions of these are read now.

        Raises:
            KafkaException: the broker does not tell. BrokerError: it did not take the registry's record.
        """
        ids = self._asked.ask(topics)
        if self._registry is not None:
            self._registry.register(ids, stop)
        self._ids.update(ids)
        self._read_by_client = ids | self._read_by_client

    def look(self, ours: Collection[str]) -> dict[str, str]:
        """{topic: id} of those that were made anew since they are read. Asks now and then, and does not wait.

        Args:
            ours: topics of which we have partitions.
        """
        try:
            found = self._asked.look(self._names)
        except KafkaException as exc:
            self._errors.passing(exc.args[0], what="topic ids")
            return {}
        self._unread.missing(self._asked.missing)
        # a topic may have gone and come while its partitions were taken away and given anew
        return {
            topic: id_
            for topic, id_ in found.items()
            if id_ != self._read_by_client.get(topic, id_) or (topic in ours and id_ != self._ids.get(topic))
        }

    def made_anew(self, topic: str) -> dict[str, str]:
        """{topic: its new id}, if it was made anew since it is read; asks at once, and waits."""
        try:
            found = self._asked.ask([topic])
        except KafkaException as exc:
            self._errors.passing(exc.args[0], what="topic ids")
            return {}
        return {name: id_ for name, id_ in found.items() if id_ != self._ids.get(name)}

    def begin_anew(self, ids: Mapping[str, str]) -> None:
        """What was read of the old ones is no position any more."""
        self._ids |= ids

    def new_consumer(self) -> None:
        """Another one reads on."""
        self._read_by_client = {}

    def close(self) -> None:
        """Wait for what was asked, and release the registry's consumer."""
        self._asked.close()
        if self._registry is not None:
            self._registry.close()
