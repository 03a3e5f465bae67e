"""Lag is read of the topics of registered scenarios too, as they come and go."""

from __future__ import annotations

import time

from deploy.brokers.process import EmbeddedBroker
from deploy.kafka.topics import ensure
from store.base.settings import ScenarioSettings
from store.records.scenario import Registered
from stream.lag.monitor import Monitor
from stream.lag.reader import LagReader
from stream.lag.scenarios import LagScenarios
from stream.settings import KafkaSettings
from stream.topics import Topics

CHURN = ScenarioSettings(query="Will it go?")


def test_the_plan_follows_the_registry(shared_embedded_broker: EmbeddedBroker, topic_prefix: str) -> None:
    connection = shared_embedded_broker.connection
    topics = Topics(KafkaSettings(topic_prefix=topic_prefix, partitions=2))
    scenarios = LagScenarios(connection, topics, ["raw"], {"churn": CHURN}, ["next"])
    reader = LagReader(connection, scenarios.plan())
    monitor = Monitor(reader, scenarios)

    def watched() -> set[str]:
        assert monitor.step()
        report = reader.read()
        names = {row.topic for row in report.partitions} | set(report.missing_topics)
        start = f"{topic_prefix}.embeddings."
        return {name.removeprefix(start) for name in names if name.startswith(start)}

    assert watched() == {"churn", "churn-next"}, "nothing can have been registered yet"
    assert topics.scenarios not in connection.metadata().topics
    ensure(connection, topics.specs({}, ["churn", "churn@next", "loan", "loan@next"]))
    assert watched() == {"churn", "churn-next"}
    producer = connection.producer()
    for value, expected in (
        (Registered(CHURN, 1).pack(), {"churn", "churn-next", "loan", "loan-next"}),
        (None, {"churn", "churn-next"}),
    ):
        producer.produce(topics.scenarios, value, b"loan", 0)
        assert producer.flush(10) == 0
        deadline = time.monotonic() + 10
        while watched() != expected:
            assert time.monotonic() < deadline
            time.sleep(0.05)
    reader.close()
    scenarios.close()
