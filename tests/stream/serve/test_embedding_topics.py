"""The topics of the indexes, asked about for longer than a broker lives."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from confluent_kafka import KafkaException

from deploy.brokers.local import LocalKafka
from deploy.kafka.topics import ensure
from stream.serve.embedding_topics import EmbeddingTopics
from stream.settings import KafkaSettings
from stream.topics import Topics
from tests.conftest import need_kafka


@pytest.mark.kafka
@pytest.mark.slow
def test_ends_are_told_again_after_a_restart_of_the_broker(tmp_path: Path) -> None:
    """A relative of E1: the leader epoch that the client remembered was refused for good, so that no back-fill that was
    under way ever came out as complete."""
    need_kafka()
    broker = LocalKafka(tmp_path)
    try:
        topics = Topics(KafkaSettings(topic_prefix="e", partitions=1))
        ensure(broker.connection, [topics.embeddings_spec("churn")])
        asked = EmbeddingTopics(broker.connection, topics)
        asked.describe(["churn"])
        broker.restart()
        until = time.monotonic() + 30
        while True:
            try:
                found = asked.ends(["churn"])
                break
            except KafkaException:
                assert time.monotonic() < until
                time.sleep(0.2)
        assert found == {"churn": {0: 0}}
    finally:
        broker.stop()
