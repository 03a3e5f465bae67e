"""A topic that takes no messages of our length: the error names it, the setting and the command; so does the doctor."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import pytest

from deploy.brokers.local import LocalKafka
from deploy.checks import broker
from deploy.checks.finding import Level
from deploy.kafka import topics
from deploy.kafka.topic_settings import alter
from deploy.settings.config import load
from store.base.errors import BrokerError
from stream.kafka.fenced_producer import FencedProducer
from stream.kafka.pacing import SafeProducer
from stream.topics import LEAST_MESSAGE_BYTES, Topics, TopicSpec

pytestmark = pytest.mark.kafka


@pytest.fixture
def narrow(kafka_broker: LocalKafka, topic_prefix: str) -> str:
    name = f"{topic_prefix}.events"
    topics.ensure(kafka_broker.connection, [TopicSpec(name, 1)])
    alter(kafka_broker.connection, {name: {"max.message.bytes": "2000"}})
    return name


def told(error: BrokerError, topic: str) -> bool:
    command = f"--topic {topic} --add-config max.message.bytes="
    return f"{topic}:0: " in error.detail and "max.message.bytes" in error.detail and command in error.action


def test_a_plain_producer_names_topic_and_setting(kafka_broker: LocalKafka, narrow: str) -> None:
    producer = SafeProducer(kafka_broker.connection)
    producer.produce(narrow, np.random.default_rng(0).bytes(3000), partition=0)
    with pytest.raises(BrokerError) as caught:
        producer.flush()
    assert told(caught.value, narrow)


def test_many_small_messages_are_one_batch(kafka_broker: LocalKafka, narrow: str) -> None:
    """Each would fit; sent at once they do not."""
    producer = SafeProducer(kafka_broker.connection, config={"linger.ms": 500})
    for i in range(40):
        producer.produce(narrow, np.random.default_rng(i).bytes(200), partition=0)
    with pytest.raises(BrokerError) as caught:
        producer.flush()
    assert told(caught.value, narrow)


def test_a_transaction_names_topic_and_setting(kafka_broker: LocalKafka, narrow: str) -> None:
    producer = FencedProducer(kafka_broker.connection, f"{narrow}.id", threading.Event)
    producer.open()
    for _ in range(3):
        producer.produce(narrow, np.random.default_rng(0).bytes(3000), b"k", 0)
    with pytest.raises(BrokerError) as caught:
        producer.commit()
    producer.close()
    assert told(caught.value, narrow)


def test_the_doctor_finds_it_before_anything_is_sent(
    kafka_broker: LocalKafka, topic_prefix: str, tmp_path: Path
) -> None:
    connection = kafka_broker.connection
    settings = load(
        None,
        overrides={
            "kafka": {"bootstrap_servers": connection.bootstrap, "topic_prefix": topic_prefix, "partitions": 1},
            "store": {"data_dir": str(tmp_path)},
        },
    )
    names = Topics(settings.kafka)
    specs = names.specs({}, settings.scenarios)
    topics.ensure(connection, specs)
    assert broker.check_topics(settings).level is not Level.FAIL
    wrong = [names.events, names.tokens, names.embeddings(next(iter(settings.scenarios))), names.scenarios]
    alter(connection, {name: {"max.message.bytes": "65536"} for name in wrong})
    found = broker.check_topics(settings)
    assert found.level is Level.FAIL
    for name in wrong:
        assert f"{name} has max.message.bytes=65536" in found.detail
        assert f"--topic {name} --add-config max.message.bytes=" in found.detail
    alter(connection, {name: {"max.message.bytes": str(LEAST_MESSAGE_BYTES)} for name in wrong})
    assert broker.check_topics(settings).level is not Level.FAIL
