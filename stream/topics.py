"""Names and required settings of every topic."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from store.base.errors import TopicError
from store.base.settings import ModalitySettings
from stream.settings import KafkaSettings

DAY_MS = 86_400_000
HOUR_MS = 3_600_000
MAX_MESSAGE_BYTES = 1_048_588
"""`max.message.bytes` that a topic of ours is created with: Kafka's default."""
LEAST_MESSAGE_BYTES = 1_000_000
"""What it must take: clients send as much at once (librdkafka's `batch.size`), however small the messages are."""
COMPACT = {
    "cleanup.policy": "compact",
    # a reader that was away for less than a week sees every deletion
    "delete.retention.ms": str(7 * DAY_MS),
    "min.compaction.lag.ms": "0",
}


@dataclass(frozen=True, slots=True)
class TopicSpec:
    """What a topic must look like. `readers`: our consumer groups; an embedded broker's writers wait for them."""

    name: str
    partitions: int
    config: Mapping[str, str] = field(default_factory=dict)
    readers: tuple[str, ...] = ()
    ours: bool = True
    """Raw topics are the producers': created if missing, but any partition count is theirs to choose."""


class Topics:
    """Topic and group names under one prefix."""

    def __init__(self, kafka: KafkaSettings) -> None:
        self.prefix = kafka.topic_prefix
        self.partitions = kafka.partitions
        self.dead_letter_max_bytes = kafka.dead_letter_max_bytes
        self.events = f"{self.prefix}.events"
        self.tokens = f"{self.prefix}.tokens"
        self.dead_letters = f"{self.prefix}.dead-letters"
        self.scenarios = f"{self.prefix}.scenarios"
        self.back_fills = f"{self.prefix}.back-fills"
        self.raw_topics = f"{self.prefix}.raw-topics"
        self.embed_requests = f"{self.prefix}.embed-requests"
        self.embed_replies = f"{self.prefix}.embed-replies"
        self.group_ingest = f"{self.prefix}.ingest"
        self.group_processor = f"{self.prefix}.processor"
        self.group_account = f"{self.prefix}.account"
        """Nobody reads with it: its offset of `tokens` says where the newest account of a partition lies."""
        self.group_worker = f"{self.prefix}.worker"
        self.group_serve = f"{self.prefix}.serve"
        self.group_freshness = f"{self.prefix}.freshness"
        """serve's reading of `events`; its committed offset = everything below is queryable."""

    def check_partition(self, topic: str, partition: int) -> None:
        """That a partition given to a role is one of ours. Raises TopicError: partitions were added to the topic."""
        if partition >= self.partitions:
            raise TopicError(
                f"{topic} has partition {partition}, kafka.partitions is {self.partitions}: partitions were added to "
                "it, or it was made anew with more",
                action="`anchorstream doctor` looks at all topics and says what mends each. Partitions that were added "
                "to a topic in use are mended by no setting, since users would map to another partition than their "
                "history: start over with another kafka.topic_prefix, and replay the source",
            )

    def embeddings(self, scenario: str) -> str:
        """Topic of one scenario's embeddings; `scenario@candidate`: of a candidate model's."""
        return f"{self.prefix}.embeddings.{scenario.replace('@', '-')}"

    def embeddings_spec(self, scenario: str) -> TopicSpec:
        """What a scenario's topic must look like."""
        return TopicSpec(self.embeddings(scenario), self.partitions, COMPACT, (self.group_serve,))

    def specs(self, modalities: Mapping[str, ModalitySettings], scenarios: Iterable[str]) -> list[TopicSpec]:
        """Every topic of a configuration."""
        # a new owner of a partition finds a late row of the former one beside the row it replaces (commit-protocol.md),
        # if the partition was taken within this time
        log = COMPACT | {"min.compaction.lag.ms": str(HOUR_MS)}
        plain = {"cleanup.policy": "delete", "retention.ms": str(7 * DAY_MS)}
        brief = {"cleanup.policy": "delete", "retention.ms": str(HOUR_MS)}
        n = self.partitions
        raw = sorted({m.topic for m in modalities.values()})
        return [
            *(TopicSpec(topic, n, readers=(self.group_ingest,), ours=False) for topic in raw),
            TopicSpec(self.events, n, plain, (self.group_processor, self.group_freshness)),
            TopicSpec(self.tokens, n, log, (self.group_worker,)),
            *(self.embeddings_spec(s) for s in scenarios),
            # one partition each: few records, and every reader reads them all
            TopicSpec(self.scenarios, 1, COMPACT),
            TopicSpec(self.back_fills, 1, COMPACT),
            TopicSpec(self.raw_topics, 1, COMPACT),
            TopicSpec(self.embed_requests, n, brief),
            TopicSpec(self.embed_replies, 1, brief),
            # never deleted by age: a person decides (dead-letters replay)
            TopicSpec(
                self.dead_letters,
                n,
                {
                    "cleanup.policy": "delete",
                    "retention.ms": "-1",
                    "max.message.bytes": str(self.dead_letter_max_bytes),
                },
            ),
        ]
