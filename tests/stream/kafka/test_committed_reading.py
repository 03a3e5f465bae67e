"""What our readers make of transactions: nothing of what was aborted or is open, and no end that they cannot reach."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import pytest
from confluent_kafka import TopicPartition

from deploy.brokers.local import LocalKafka
from deploy.kafka.topics import ensure
from stream.kafka.client import Connection
from stream.reading.control_topic import ControlTopic
from stream.serve.embedding_topics import EmbeddingTopics
from stream.settings import KafkaSettings
from stream.topics import Topics

pytestmark = [pytest.mark.kafka, pytest.mark.timeout(120)]


@pytest.fixture
def topics(kafka_broker: LocalKafka, topic_prefix: str) -> Topics:
    topics = Topics(KafkaSettings(topic_prefix=topic_prefix, partitions=1))
    ensure(kafka_broker.connection, [topics.embeddings_spec("churn")])
    return topics


@pytest.fixture
def producer(kafka_broker: LocalKafka, topic_prefix: str) -> Iterator[Any]:
    producer = kafka_broker.connection.producer(**{"transactional.id": f"{topic_prefix}.test"})
    producer.init_transactions(30)
    yield producer
    producer.purge()


def write(producer: Any, topic: str, how: str, *values: bytes) -> None:
    producer.begin_transaction()
    for value in values:
        producer.produce(topic, value, b"k", 0)
    assert producer.flush(30) == 0
    if how == "commit":
        producer.commit_transaction(30)
    elif how == "abort":
        producer.abort_transaction(30)


@pytest.mark.parametrize("last", ["commit", "abort", "open"])
def test_a_topic_is_read_to_its_end_whatever_ends_it(
    kafka_broker: LocalKafka, topics: Topics, producer: Any, last: str
) -> None:
    topic = topics.embeddings("churn")
    write(producer, topic, "commit", b"a", b"b")
    write(producer, topic, "abort", b"c")
    write(producer, topic, last, b"d")
    wanted = [b"a", b"b", *([b"d"] if last == "commit" else [])]
    found: list[bytes] = []
    reader = ControlTopic(kafka_broker.connection, topic, "reader", lambda message: found.append(message.value()))
    _until_the_markers_are_written(kafka_broker.connection, topic, 5 if last == "open" else 7)
    reader.load(threading.Event())  # in time: it does not wait for what is open
    assert found == wanted
    ends = EmbeddingTopics(kafka_broker.connection, topics).ends(["churn"])
    assert ends == {"churn": {0: reader.position}}
    reader.close()


def _until_the_markers_are_written(connection: Connection, topic: str, end: int) -> None:
    """The coordinator writes them after it has answered."""
    consumer = connection.consumer("markers")
    while consumer.get_watermark_offsets(TopicPartition(topic, 0), timeout=10, cached=False)[1] < end:
        pass
    consumer.close()
