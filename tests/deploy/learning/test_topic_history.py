"""What is read of `tokens` on a broker: all of it, without what a former owner sent late; and what is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from confluent_kafka import TopicPartition

from deploy.brokers.local import LocalKafka
from deploy.brokers.process import EmbeddedBroker
from deploy.kafka.topics import ensure
from deploy.learning.topic_history import read_topic_history
from store.base.errors import ConfigError, NotFoundError, StateError
from store.window.rows import EventRow, event_key, pack_event
from stream.kafka.client import Connection
from stream.settings import KafkaSettings
from stream.token_log.ownership import OWNER_HEADER
from stream.topics import Topics, TopicSpec
from tests.support.windows import DIM, MODALITIES, START_MS, vector
from tests.support.worker_bench import Source


def topics_on(connection: Connection, prefix: str) -> Topics:
    topics = Topics(KafkaSettings(topic_prefix=prefix, partitions=2))
    ensure(connection, topics.specs(MODALITIES, []))
    return topics


def put(connection: Connection, topics: Topics, name: str, owner: bytes, partition: int = 0) -> None:
    """One event row, as its owner would send it."""
    row = pack_event(EventRow(1, np.array([1, 2], np.float32), vector(1)))
    producer = connection.producer()
    key = event_key("late", "bill", START_MS, name)
    producer.produce(topics.tokens, row, key, partition, headers=[(OWNER_HEADER, owner)])
    assert producer.flush(10) == 0


def test_everything_is_read_but_a_former_owners(embedded_broker: EmbeddedBroker, tmp_path: Path) -> None:
    connection = embedded_broker.connection
    topics = topics_on(connection, "history")
    source = Source(connection, topics, tmp_path / "primary")
    source.send(40, users=7)
    for name, owner in (("first", b"\0\0\0\1aaaa"), ("second", b"\0\0\0\2aaaa"), ("zombie", b"\0\0\0\1aaaa")):
        put(connection, topics, name, owner)
    seen: list[float] = []
    found = read_topic_history(connection, topics.tokens, MODALITIES, "e", DIM, lambda done, _: seen.append(done))
    assert found.without_text == 0
    assert found.history.users == sorted([*(f"user-{n}" for n in range(7)), "late"])
    own = found.history.modalities["bill"]
    assert len(own.ts) == 42
    late = found.history.users.index("late")
    assert own.names[own.starts[late] : own.starts[late + 1]].tolist() == [b"first", b"second"]
    assert seen == sorted(seen)
    assert seen[-1] == 1.0


def test_rows_of_another_text_encoder_are_refused(embedded_broker: EmbeddedBroker, tmp_path: Path) -> None:
    connection = embedded_broker.connection
    topics = topics_on(connection, "other")
    Source(connection, topics, tmp_path / "primary").say_arrived(0, START_MS)
    assert read_topic_history(connection, topics.tokens, MODALITIES, "e", DIM).history.rows == 0
    with pytest.raises(StateError, match="text encoder 'e'"):
        read_topic_history(connection, topics.tokens, MODALITIES, "another", DIM)
    with pytest.raises(NotFoundError):
        read_topic_history(connection, "nothing.tokens", MODALITIES, "e", DIM)


@pytest.mark.kafka
def test_a_log_without_its_beginning_is_no_history(kafka_broker: LocalKafka, topic_prefix: str, tmp_path: Path) -> None:
    connection = kafka_broker.connection
    topics = Topics(KafkaSettings(topic_prefix=topic_prefix, partitions=2))
    ensure(connection, [TopicSpec(topics.tokens, 2)])  # as somebody set it, who wanted it to be deleted by age
    Source(connection, topics, tmp_path / "primary").send(20)
    assert read_topic_history(connection, topics.tokens, MODALITIES, "e", DIM).history.rows == 20
    admin = connection.admin()  # kept: its answer dies with it
    for deleted in admin.delete_records([TopicPartition(topics.tokens, 0, 3)]).values():
        deleted.result(60)
    with pytest.raises(ConfigError, match=r"no longer has its beginning \(partitions 0\)"):
        read_topic_history(connection, topics.tokens, MODALITIES, "e", DIM)
