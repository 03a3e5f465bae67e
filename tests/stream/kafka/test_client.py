"""What clients do while no broker is there."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from confluent_kafka import KafkaException, TopicCollection, TopicPartition
from confluent_kafka.admin import NewTopic, OffsetSpec

from deploy.brokers.local import LocalKafka

WAIT_SECONDS = 3.0


@pytest.mark.kafka
def test_a_question_to_a_broker_that_is_away_costs_no_core(tmp_path: Path) -> None:
    """librdkafka 2.16 with `metadata.recovery.strategy = none`: 0.9 cores until its time-out, in every role."""
    broker = LocalKafka(tmp_path)
    try:
        admins = [broker.connection.admin() for _ in range(2)]
        admins[0].create_topics([NewTopic("t", 1, 1)])["t"].result(30)
        for admin in admins:
            admin.describe_topics(TopicCollection(["t"]), request_timeout=30)["t"].result(30)
    finally:
        broker.stop()
    before = time.process_time()
    (described,) = admins[0].describe_topics(TopicCollection(["t"]), request_timeout=WAIT_SECONDS).values()
    latest = {TopicPartition("t", 0): OffsetSpec.latest()}
    (offset,) = admins[1].list_offsets(latest, request_timeout=WAIT_SECONDS).values()
    for answer in (described, offset):
        with pytest.raises(KafkaException):
            answer.result(30)
    assert time.process_time() - before < WAIT_SECONDS / 3
