"""Which topics the embeddings go to: one that was deleted and made anew has another id, and nobody's embeddings."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping

from confluent_kafka import KafkaException

from stream.kafka.client import Connection
from stream.kafka.consumer_errors import ConsumerErrors
from stream.kafka.patience import patiently
from stream.kafka.topic_ids import TopicIds
from stream.topics import Topics


class EmbeddingTopicIds:
    """For one thread. Where a broker has no ids, embedded or old, nothing is known."""

    def __init__(self, connection: Connection, topics: Topics) -> None:
        self._topics = topics
        self._ids = TopicIds(connection)
        self._errors = ConsumerErrors(topics.group_worker)

    def ask(self, scenarios: Iterable[str], stop: threading.Event) -> dict[str, str]:
        """{scenario: id of its topic}, without those that have none. Raises KafkaException."""
        topics = self._names(scenarios)
        return self._named(topics, patiently(lambda: self._ids.ask(topics), stop))

    def look(self, scenarios: Iterable[str]) -> dict[str, str]:
        """The same without waiting; {} while nothing is new."""
        topics = self._names(scenarios)
        try:
            return self._named(topics, self._ids.look(topics))
        except KafkaException as exc:
            self._errors.passing(exc.args[0], what="topic ids")
            return {}

    def missing(self, scenarios: Iterable[str]) -> list[str]:
        """Those whose topic was not there at the last look."""
        return [scenario for topic, scenario in self._names(scenarios).items() if topic in self._ids.missing]

    def close(self) -> None:
        """Wait for what was asked."""
        self._ids.close()

    def _names(self, scenarios: Iterable[str]) -> dict[str, str]:
        return {self._topics.embeddings(scenario): scenario for scenario in scenarios}

    @staticmethod
    def _named(topics: Mapping[str, str], found: Mapping[str, str]) -> dict[str, str]:
        return {topics[topic]: id_ for topic, id_ in found.items() if topic in topics}
