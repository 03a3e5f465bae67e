"""What a managed cluster forces: taken where it is safe, and named; refused with a remedy that works where not."""

from __future__ import annotations

from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest
import structlog.testing
from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.admin import NewTopic
from hypothesis import given
from hypothesis import strategies as st

from deploy.brokers.local import LocalKafka
from deploy.checks import broker
from deploy.checks.finding import Level
from deploy.kafka import topics
from deploy.kafka.forced_settings import tolerated
from deploy.kafka.topic_settings import alter
from deploy.settings.config import load
from store.base.errors import BrokerError, TopicError
from stream.kafka.client import Connection
from stream.settings import KafkaSettings
from stream.topics import DAY_MS, HOUR_MS, Topics, TopicSpec

AMOUNTS = st.integers(-1, 30 * DAY_MS)


@given(st.sampled_from(["delete.retention.ms", "min.compaction.lag.ms", "max.message.bytes"]), AMOUNTS, AMOUNTS)
def test_what_deletions_and_letters_need_may_only_grow(key: str, wanted: int, found: int) -> None:
    assert (tolerated(key, str(wanted), str(found)) is not None) is (found >= wanted)


@given(st.sampled_from([-1, HOUR_MS, 7 * DAY_MS]), AMOUNTS)
def test_retention_may_shrink_but_not_to_nothing(wanted: int, found: int) -> None:
    shortest = {-1: HOUR_MS, HOUR_MS: 60_000, 7 * DAY_MS: DAY_MS}[wanted]
    assert (tolerated("retention.ms", str(wanted), str(found)) is not None) is (found == -1 or found >= shortest)


@pytest.mark.parametrize(("key", "found"), [("cleanup.policy", "delete"), ("retention.ms", "(unknown)")])
def test_other_differences_are_never_safe(key: str, found: str) -> None:
    assert tolerated(key, "compact", found) is None


class Policy(Connection):
    """A cluster with a policy for new topics in front: none is kept for ever, none has one replica by wish."""

    def admin(self, **config: Any) -> Any:
        return _Admin(super().admin(**config))


class _Admin:
    def __init__(self, real: Any) -> None:
        self._real = real

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)

    def create_topics(self, new: list[NewTopic], **options: Any) -> dict[str, Future[None]]:
        refused = [t for t in new if t.config.get("retention.ms") == "-1" or t.replication_factor == 1]
        answers: dict[str, Future[None]] = {topic.topic: Future() for topic in refused}
        for answer in answers.values():
            answer.set_exception(KafkaException(KafkaError(KafkaError.POLICY_VIOLATION, "PolicyViolation: forbidden")))
        others = [topic for topic in new if topic not in refused]
        return answers | (self._real.create_topics(others, **options) if others else {})


@pytest.mark.kafka
def test_what_a_policy_refuses_is_asked_for_without_the_wishes(kafka_broker: LocalKafka, topic_prefix: str) -> None:
    """B8: no start, and the remedy was refused by the same policy."""
    connection = Policy(kafka_broker.connection.bootstrap)
    names = Topics(KafkaSettings(topic_prefix=topic_prefix, partitions=1))
    specs = [TopicSpec(f"{topic_prefix}.letters", 1, {"cleanup.policy": "delete", "retention.ms": "-1"})]
    with structlog.testing.capture_logs() as said:
        assert topics.ensure(connection, specs) == [specs[0].name]
    (forced,) = [line["detail"] for line in said if line["event"] == "topic_differs"]
    assert "retention.ms=604800000: refused events are gone 7 days after" in forced
    assert topics.forced_settings(connection, specs) == [forced]
    churn = names.embeddings_spec("churn")  # what is no wish is not given up
    assert topics.ensure(connection, [churn]) == [churn.name]
    assert topics.ensure(kafka_broker.connection, [churn]) == []
    (letters,) = [spec for spec in names.specs({}, ()) if spec.name == names.dead_letters]
    assert topics.refusal(connection, [letters], replication_factor=1) is None
    with pytest.raises(TopicError, match=r"set kafka\.dead_letter_max_bytes = 1048588"):
        topics.ensure(connection, [letters])


@pytest.mark.kafka
def test_what_is_not_safe_has_a_remedy_that_works(kafka_broker: LocalKafka, topic_prefix: str) -> None:
    connection = kafka_broker.connection
    names = Topics(KafkaSettings(topic_prefix=topic_prefix, partitions=1))
    (letters,) = [spec for spec in names.specs({}, ()) if spec.name == names.dead_letters]
    topics.ensure(connection, [letters])
    alter(connection, {letters.name: {"max.message.bytes": "8388608"}})
    with pytest.raises(TopicError, match=r"or set kafka\.dead_letter_max_bytes = 8388608"):
        topics.ensure(connection, [letters])
    names = Topics(KafkaSettings(topic_prefix=topic_prefix, partitions=1, dead_letter_max_bytes=8_388_608))
    (letters,) = [spec for spec in names.specs({}, ()) if spec.name == names.dead_letters]
    assert topics.ensure(connection, [letters]) == []
    alter(connection, {letters.name: {"min.insync.replicas": "2"}})
    with pytest.raises(TopicError, match=r"min\.insync\.replicas=2 and 1 replica"):
        topics.ensure(connection, [letters])


@pytest.mark.kafka
def test_the_doctor_promises_only_what_up_can_do(kafka_broker: LocalKafka, topic_prefix: str, tmp_path: Path) -> None:
    kafka = {"bootstrap_servers": kafka_broker.connection.bootstrap, "topic_prefix": topic_prefix}
    overrides = {"store": {"data_dir": str(tmp_path)}}
    raw = f"raw-{topic_prefix}"
    overrides["modalities"] = {"payments": {"topic": raw, "text": "{category}"}}
    settings = load(None, overrides={**overrides, "kafka": kafka})
    topics.ensure(kafka_broker.connection, [TopicSpec(raw, settings.kafka.partitions)])
    fine = broker.check_topics(settings)
    assert fine.level is Level.OK, "a raw topic that its producer has made is no sign of anything"
    assert "creates" in fine.detail
    wrong = broker.check_topics(load(None, overrides={**overrides, "kafka": {**kafka, "replication_factor": 3}}))
    assert wrong.level is Level.FAIL
    assert "--create" in wrong.action
    assert not [name for name in kafka_broker.connection.metadata().topics if name.startswith(topic_prefix)]
    with pytest.raises(BrokerError):
        topics.ensure(kafka_broker.connection, [TopicSpec(f"{topic_prefix}.x", 1)], replication_factor=3)
