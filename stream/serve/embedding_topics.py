"""The topics that the indexes are read from: where each begins and ends, and where reading goes on."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from confluent_kafka import IsolationLevel, KafkaException, TopicCollection, TopicPartition
from confluent_kafka.admin import OffsetSpec

from store.base import logs
from store.index.catalog import ServedScenario
from store.index.snapshot import Header
from store.records.scenario import CONFIGURED
from stream.kafka.client import Connection
from stream.kafka.futures import all_of
from stream.kafka.lasting_admin import LastingAdmin
from stream.kafka.positions import REBUILD, check_position
from stream.kafka.topic_ids import TopicIds
from stream.topics import Topics

ANSWER_SECONDS = 10.0
log = logs.get(__name__)

Watermarks = dict[str, dict[int, tuple[int, int]]]
"""scenario → partition → (oldest offset, end)."""


class EmbeddingTopics:
    """Knows which scenario a topic is of, and asks the broker about them. For one thread."""

    def __init__(self, connection: Connection, topics: Topics) -> None:
        self.ids: dict[str, str] = {}
        """{scenario: id of its topic}; a topic made anew has another. The embedded broker has none."""
        self._connection = connection
        self._topics = topics
        self._admin = LastingAdmin(connection)
        self._looks = TopicIds(connection)
        self._scenarios: dict[str, str] = {}

    def scenario(self, topic: str) -> str | None:
        """The scenario that a topic being read is of."""
        return self._scenarios.get(topic)

    def reading(self, scenario: str) -> bool:
        """Whether its topic is being read."""
        return self._topics.embeddings(scenario) in self._scenarios

    def items(self) -> Iterable[tuple[str, str]]:
        """(topic, scenario) of all that are being read."""
        return self._scenarios.items()

    def made_anew(self) -> set[str]:
        """Scenarios whose topic is no more the one that is read, as of a look every 2 s; without waiting.

        Raises:
            KafkaException: the broker does not tell.
        """
        return self._others(self._looks.look(self._scenarios))

    def is_made_anew(self, topic: str) -> bool:
        """Whether this topic is no more the one that is read. Raises KafkaException."""
        return bool(self._others(self._looks.ask([topic])))

    def close(self) -> None:
        """Wait for what was asked."""
        self._looks.close()

    def _others(self, found: Mapping[str, str]) -> set[str]:
        scenarios = {scenario: id_ for topic, id_ in found.items() if (scenario := self._scenarios.get(topic))}
        return {scenario for scenario, id_ in scenarios.items() if self.ids.get(scenario, id_) != id_}

    def describe(self, scenarios: Iterable[str], *, timeout_s: float = ANSWER_SECONDS) -> Watermarks:
        """Learn ids and watermarks of topics. Raises KafkaException: the broker did not answer, or has no such."""
        names = list(scenarios)
        self._learn_ids(names, timeout_s)
        low = self._offsets(names, OffsetSpec.earliest(), timeout_s)
        high = self._offsets(names, OffsetSpec.latest(), timeout_s)
        return {name: {p: (low[name][p], high[name][p]) for p in high[name]} for name in names}

    def ends(self, scenarios: Iterable[str]) -> dict[str, dict[int, int]]:
        """{scenario: {partition: end of its topic}}. Raises KafkaException: ask again."""
        names = list(scenarios)
        try:
            return self._offsets(names, OffsetSpec.latest(), ANSWER_SECONDS)
        except KafkaException:
            # after a broker's restart the client goes on asking under the leader epoch that it remembers
            self._describe(names, ANSWER_SECONDS)
            raise

    def add(
        self, consumer: Any, name: str, served: ServedScenario, watermarks: Mapping[int, tuple[int, int]]
    ) -> list[Any]:
        """Its topic is read from now on. Returns the TopicPartitions to be assigned, each at the index's next offset.

        A topic may begin anywhere: what an earlier life of the name left is deleted by age, also of a name that is in
        the configuration now; its workers back-fill everybody, as of any target that is new to them. An embedded
        broker's topics of configured scenarios begin at 0: what is missing there was forgotten.

        Raises:
            DataLossError: what the index needs next has gone.
        """
        topic = self._topics.embeddings(name)
        applied = served.index.applied()
        positions = []
        for partition, (low, high) in watermarks.items():
            configured = served.entry.registration == CONFIGURED
            start = 0 if configured and self._connection.embedded else low
            if configured and partition not in applied and start:
                log.warning(
                    logs.MESSAGES_REMOVED,
                    topic=topic,
                    partition=partition,
                    oldest=low,
                    detail="the topic does not begin at 0. Fine if the scenario was registered over HTTP before it "
                    "came into the configuration: the workers compute everybody. Else users are missing: "
                    "stop the workers, `anchorstream offsets reset worker --to earliest --all`, start them",
                )
            position = TopicPartition(topic, partition, applied.get(partition, start))
            if not low <= position.offset <= high:
                check_position(consumer, position, position.offset, remedy=REBUILD)
            positions.append(position)
        self._scenarios[topic] = name
        return positions

    def remove(self, name: str) -> list[Any]:
        """Its topic is read no more. Returns the TopicPartitions to be unassigned, none if it was not read."""
        topic = self._topics.embeddings(name)
        self.ids = {scenario: found for scenario, found in self.ids.items() if scenario != name}
        if self._scenarios.pop(topic, None) is None:
            return []
        return [TopicPartition(topic, partition) for partition in range(self._topics.partitions)]

    def refusal(self, header: Header, watermarks: Watermarks) -> str:
        """Why a snapshot's positions do not fit the topics; "" if they do."""
        for scenario, position in header.scenarios.items():
            topic = self._topics.embeddings(scenario)
            if position.topic_id != self.ids.get(scenario, ""):
                return f"{topic} was deleted and made anew"
            for partition, offset in position.applied.items():
                low, high = watermarks[scenario].get(partition, (0, -1))
                if not low <= offset <= high:
                    return f"its offset {offset} of {topic}:{partition} is not within [{low}, {high}]"
        return ""

    def _learn_ids(self, names: list[str], timeout_s: float) -> None:
        if self._connection.embedded or not names:
            return
        by_topic = {self._topics.embeddings(name): name for name in names}
        # replaced, not changed: a snapshot that is being written has the old one
        found = self._describe(names, timeout_s)
        self.ids = self.ids | {by_topic[topic]: str(of.topic_id) for topic, of in found.items()}

    def _describe(self, names: list[str], timeout_s: float) -> dict[str, Any]:
        if self._connection.embedded or not names:
            return {}
        of = TopicCollection([self._topics.embeddings(name) for name in names])
        return self._all_of(self._admin.client.describe_topics(of, request_timeout=timeout_s), timeout_s)

    def _all_of(self, answers: Mapping[Any, Any], timeout_s: float) -> dict[Any, Any]:
        try:
            found = all_of(answers, 2 * timeout_s)
        except KafkaException as exc:
            self._admin.failed(exc)
            raise
        self._admin.answered()
        return found

    def _offsets(self, names: list[str], spec: OffsetSpec, timeout_s: float) -> dict[str, dict[int, int]]:
        by_topic = {self._topics.embeddings(name): name for name in names}
        request = {TopicPartition(topic, p): spec for topic in by_topic for p in range(self._topics.partitions)}
        found: dict[str, dict[int, int]] = {name: {} for name in names}
        # the end that a reader reaches: behind it lies what a worker has not committed yet
        stable = {"isolation_level": IsolationLevel.READ_COMMITTED, "request_timeout": timeout_s}
        answers = self._admin.client.list_offsets(request, **stable) if request else {}
        for tp, answer in self._all_of(answers, timeout_s).items():
            found[by_topic[tp.topic]][tp.partition] = int(answer.offset)
        return found
