"""Topics on real Kafka: created as specified, and every difference named with the command that mends it."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from confluent_kafka.admin import NewPartitions, NewTopic

from deploy.brokers.local import LocalKafka
from deploy.kafka import topics
from deploy.kafka.topic_settings import alter, expire
from deploy.settings.config import Settings
from store.base.errors import BrokerError, TopicError
from stream.kafka.client import Connection
from stream.settings import KafkaSettings
from stream.topics import COMPACT, Topics, TopicSpec

pytestmark = pytest.mark.kafka


@pytest.fixture
def connection(kafka_broker: LocalKafka) -> Connection:
    """Real Kafka."""
    return kafka_broker.connection


def create(connection: Connection, name: str, partitions: int, **config: str) -> None:
    """A topic as somebody else made it."""
    admin = connection.admin()
    admin.create_topics([NewTopic(name, partitions, 1, config=config)])[name].result(10)


def test_all_topics_of_a_config_are_created_and_hold(connection: Connection, topic_prefix: str) -> None:
    """A second start finds nothing to do."""
    settings = Settings.model_validate({"kafka": {"topic_prefix": topic_prefix, "partitions": 3}})
    names = Topics(settings.kafka)
    specs = names.specs({}, settings.scenarios)
    assert topics.ensure(connection, specs) == [spec.name for spec in specs]
    assert topics.ensure(connection, specs) == []
    assert len(connection.metadata().topics[names.tokens].partitions) == 3


def test_each_difference_has_a_line_and_a_command(connection: Connection, topic_prefix: str) -> None:
    """Wrong policy, wrong partitions; what is missing is created all the same."""
    policy, count, missing = (f"{topic_prefix}.{name}" for name in ("policy", "count", "missing"))
    create(connection, policy, 2, **{"cleanup.policy": "delete"})
    create(connection, count, 5, **{"cleanup.policy": "compact,delete"})
    with pytest.raises(TopicError) as caught:
        topics.ensure(
            connection,
            [
                TopicSpec(policy, 2, {"cleanup.policy": "compact", "min.compaction.lag.ms": "0"}),
                TopicSpec(count, 2, {"cleanup.policy": "delete,compact"}),
                TopicSpec(missing, 2),
            ],
        )
    first, second = sorted(caught.value.detail.splitlines(), key=lambda line: "partitions" in line)
    assert first.startswith(f"{policy} has cleanup.policy=delete: kafka-configs.sh --bootstrap-server")
    assert f"--topic {policy} --add-config cleanup.policy=compact" in first
    assert "min.compaction" not in first
    assert second.startswith(f"{count} has 5 partitions, kafka.partitions is 2: nothing was ever written to it")
    assert f"--delete --topic {count}" in second
    assert missing in connection.metadata().topics


def test_a_setting_is_advised_only_where_it_mends(connection: Connection, topic_prefix: str) -> None:
    """E13: with `kafka.partitions` raised to what `events` had been given, users were parted from their history."""
    specs = [TopicSpec(f"{topic_prefix}.{name}", 2) for name in ("events", "tokens")]
    one = TopicSpec(f"{topic_prefix}.one", 1)
    topics.ensure(connection, [*specs, one])
    topics.check_partitions(connection, [*specs, one, TopicSpec(f"{topic_prefix}.absent", 2)])
    wrong = [TopicSpec(spec.name, 3) for spec in specs]
    with pytest.raises(TopicError) as caught:
        topics.check_partitions(connection, [*wrong, one])
    assert caught.value.detail.count("set kafka.partitions = 2") == 2
    producer = connection.producer()
    for spec in specs:
        producer.produce(spec.name, b"x", partition=1)
    assert producer.flush(30) == 0
    admin = connection.admin()
    admin.create_partitions([NewPartitions(specs[0].name, 5)])[specs[0].name].result(10)
    until = time.monotonic() + 10
    while len(connection.metadata().topics[specs[0].name].partitions) < 5 and time.monotonic() < until:
        time.sleep(0.05)
    for configured in (2, 5):
        with pytest.raises(TopicError) as caught:
            topics.check_partitions(connection, [*(TopicSpec(spec.name, configured) for spec in specs), one])
        assert "set kafka.partitions" not in caught.value.detail
        assert "replay the source" in caught.value.detail


@pytest.mark.parametrize("used", ["as configured", "as they are", "never"])
def test_partitions_that_all_topics_have_more_alike(connection: Connection, topic_prefix: str, used: str) -> None:
    """E13: added to topics in use no setting mends it; that the number was mistyped one does."""
    specs = [TopicSpec(f"{topic_prefix}.{name}", 2) for name in ("events", "tokens")]
    topics.ensure(connection, [TopicSpec(spec.name, 4) for spec in specs])
    producer = connection.producer()
    for partition in range({"as configured": 2, "as they are": 4, "never": 0}[used]):
        producer.produce(specs[1].name, b"marker", partition=partition)
    assert producer.flush(30) == 0
    with pytest.raises(TopicError) as caught:
        topics.check_partitions(connection, specs)
    if used == "as configured":
        assert "set kafka.partitions" not in caught.value.detail
        assert caught.value.detail.count("replay the source") == 2
    else:
        assert caught.value.detail.count("set kafka.partitions = 4") == 2
    # fewer than configured: the setting was raised, and goes back
    with pytest.raises(TopicError) as caught:
        topics.check_partitions(connection, [TopicSpec(spec.name, 8) for spec in specs])
    assert caught.value.detail.count("set kafka.partitions = 4") == 2


def test_of_topics_made_beforehand_no_history_is_told(connection: Connection, topic_prefix: str) -> None:
    """ "Partitions were added to it", of topics that somebody had made with another number, in good order, empty."""
    events, tokens, one = (f"{topic_prefix}.{name}" for name in ("events", "tokens", "scenarios"))
    create(connection, events, 6)
    create(connection, tokens, 4)
    create(connection, one, 3)
    specs = [TopicSpec(events, 4), TopicSpec(tokens, 4), TopicSpec(one, 1)]
    with pytest.raises(TopicError) as caught:
        topics.ensure(connection, specs)
    first, second = sorted(line for line in caught.value.detail.splitlines() if "partitions" in line)
    for name, line in ((events, first), (one, second)):
        assert "nothing was ever written to it" in line
        assert f"--delete --topic {name};" in line
        assert "added" not in line
        assert "replay" not in line
    producer = connection.producer()
    producer.produce(events, b"x", partition=5)
    assert producer.flush(30) == 0
    with pytest.raises(TopicError) as caught:
        topics.check_partitions(connection, specs)
    (line,) = (line for line in caught.value.detail.splitlines() if line.startswith(events))
    assert "by this number or, if it was changed, by several" in line
    assert "another kafka.topic_prefix" in line
    assert "processor, worker and serve" in line


def test_another_number_is_told_by_a_broker_that_has_just_started(tmp_path: Path) -> None:
    """It was `broker_unreachable`, for as long as the broker did not lead its partitions again."""
    broker = LocalKafka(tmp_path)
    try:
        topics.ensure(broker.connection, [TopicSpec(name, 4) for name in ("events", "tokens")])
        broker.stop()
        broker.restart()
        for configured in (8, 2):
            with pytest.raises(TopicError) as caught:
                topics.check_partitions(
                    broker.connection, [TopicSpec(name, configured) for name in ("events", "tokens")]
                )
            assert caught.value.detail.count("set kafka.partitions = 4") == 2
    finally:
        broker.stop()


def test_the_producers_topics_are_theirs(connection: Connection, topic_prefix: str) -> None:
    """Raw topics may have any shape; they are only created if missing."""
    raw = f"{topic_prefix}.raw"
    create(connection, raw, 6, **{"cleanup.policy": "compact"})
    assert topics.ensure(connection, [TopicSpec(raw, 2, ours=False)]) == []
    assert topics.ensure(connection, [TopicSpec(f"{topic_prefix}.raw2", 2, ours=False)]) == [f"{topic_prefix}.raw2"]


def test_a_topic_that_cannot_be_created_comes_with_the_command(connection: Connection, topic_prefix: str) -> None:
    """Here: more replicas than brokers."""
    name = f"{topic_prefix}.replicated"
    with pytest.raises(BrokerError, match=name) as caught:
        topics.ensure(connection, [TopicSpec(name, 2, {"cleanup.policy": "compact"})], replication_factor=3)
    assert f"--create --topic {name} --partitions 2 --replication-factor 3" in caught.value.action
    assert "--config cleanup.policy=compact" in caught.value.action


def test_a_retired_scenarios_topic_gets_its_settings_back_and_no_other(
    connection: Connection, topic_prefix: str
) -> None:
    names = Topics(KafkaSettings(topic_prefix=topic_prefix, partitions=1))
    specs = [names.embeddings_spec("loan"), TopicSpec(f"{topic_prefix}.other", 1, COMPACT)]
    topics.ensure(connection, specs)
    expire(connection, [spec.name for spec in specs])
    with pytest.raises(TopicError) as caught:
        topics.ensure(connection, specs)
    assert caught.value.detail.startswith(f"{topic_prefix}.other has cleanup.policy=delete")
    assert "loan" not in caught.value.detail
    assert topics.ensure(connection, specs[:1]) == []
    alter(connection, {names.embeddings("loan"): {"cleanup.policy": "delete", "retention.ms": "7200000"}})
    with pytest.raises(TopicError, match=r"loan has cleanup\.policy=delete"):
        topics.ensure(connection, specs)
