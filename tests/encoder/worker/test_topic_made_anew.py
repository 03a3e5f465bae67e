"""A3: `embeddings.<scenario>` deleted and made anew, on real Kafka: its workers compute everybody for it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from deploy.brokers.local import LocalKafka
from deploy.kafka.topics import ensure
from encoder.model.settings import ModelSettings
from encoder.worker.worker import Worker
from store.base import logs
from store.base.settings import ScenarioSettings
from store.records.scenario import asked
from stream.settings import KafkaSettings
from stream.topics import Topics
from tests.support import worker_bench
from tests.support.hash_users import HashUsers
from tests.support.made_anew import delete_topics
from tests.support.windows import MODALITIES
from tests.support.worker_bench import Source, make_worker, wait_until

SCENARIOS = {
    "churn": ScenarioSettings(query="Will this user leave?"),
    "coupon": ScenarioSettings(query="Will this user use a coupon?"),
}
MODEL = ModelSettings(min_interval_ms=0)
PROPERTIES = {"session.timeout.ms": 6000, "heartbeat.interval.ms": 500}
USERS = 12

pytestmark = [pytest.mark.kafka, pytest.mark.timeout(300)]


class Bench:
    def __init__(self, broker: LocalKafka, prefix: str, folder: Path) -> None:
        self.connection = replace(broker.connection, properties=PROPERTIES)
        self.topics = Topics(KafkaSettings(topic_prefix=prefix, partitions=2))
        ensure(self.connection, self.topics.specs(MODALITIES, SCENARIOS))
        self.source = Source(self.connection, self.topics, folder / "source")
        self.encoder = HashUsers(SCENARIOS)
        self.folder = folder

    @contextmanager
    def worker(self) -> Iterator[None]:
        def worker_of(ready: Callable[[], None]) -> Worker:
            return make_worker(
                self.connection, self.topics, self.encoder, self.folder / "w",
                scenarios=SCENARIOS, model=MODEL, on_ready=ready,
            )  # fmt: skip

        with worker_bench.running(worker_of):
            yield

    def make_anew(self, scenario: str) -> None:
        delete_topics(self.connection, [self.topics.embeddings(scenario)])
        ensure(self.connection, [self.topics.embeddings_spec(scenario)])

    def published(self, scenario: str) -> Counter[str]:
        return Counter(r.user_id for r in worker_bench.embeddings(self.connection, self.topics, [scenario]))

    def settle(self) -> None:
        """All is refreshed and back-filled, and told."""

        def settled() -> bool:
            told = worker_bench.back_fills(self.connection, self.topics)
            return (
                worker_bench.lag_is_zero(self.connection, self.topics)
                and len(told) == 2 * len(SCENARIOS)
                and all(record.complete for record in told.values())
                and all(self.published(scenario).keys() == set(self.source.users) for scenario in SCENARIOS)
            )

        wait_until(settled, "everybody has all embeddings")


@pytest.fixture
def bench(kafka_broker: LocalKafka, topic_prefix: str, tmp_path: Path) -> Bench:
    bench = Bench(kafka_broker, topic_prefix, tmp_path)
    bench.source.send(USERS, users=USERS)
    return bench


@pytest.mark.parametrize("when", ["running", "stopped"])
def test_everybody_is_computed_for_a_topic_made_anew_and_nobody_twice(bench: Bench, when: str) -> None:
    with capture_logs() as lines:
        with bench.worker():
            bench.settle()
            others = bench.published("coupon")
            if when == "running":
                bench.make_anew("churn")
                bench.settle()
        if when == "stopped":
            bench.make_anew("churn")
        for _ in range(2):  # the second one has nothing to do
            with bench.worker():
                bench.settle()
                assert bench.published("churn") == dict.fromkeys(bench.source.users, 1)
    assert bench.published("coupon") == others
    said = [line for line in lines if line["event"] == logs.TOPIC_MADE_ANEW]
    assert [line["scenario"] for line in said] == (["churn"] if when == "running" else [])
    begun = [line for line in lines if line["event"] == logs.BACK_FILL_STARTED]
    assert {line["scenario"] for line in begun} == {"churn"}
    assert {line["partition"] for line in begun} == {0, 1}


def test_a_topic_that_is_deleted_and_stays_away_is_made_anew(bench: Bench) -> None:
    """It held up every scenario, for good, as `partition_fenced`, without the topic's name."""
    with capture_logs() as lines, bench.worker():
        bench.settle()
        delete_topics(bench.connection, [bench.topics.embeddings("churn")])
        bench.source.send(USERS // 2, users=USERS)
        made = bench.topics.embeddings("churn")
        wait_until(lambda: made in bench.connection.metadata().topics, "the topic is there again", 150)
        bench.settle()
        latest = {r.user_id: r for r in worker_bench.embeddings(bench.connection, bench.topics, ["churn"])}
        for buffer in bench.source.buffers:
            for user in buffer.users():
                assert latest[user].covers == buffer.window(user).covers
    said = [line for line in lines if line["event"] == logs.TOPIC_MISSING]
    assert said[0]["scenarios"] == ["churn"]


def test_what_is_computed_is_told(bench: Bench) -> None:
    """So that serve knows whether it is the query that it has."""
    with bench.worker():
        bench.settle()
    for (scenario, _), record in worker_bench.back_fills(bench.connection, bench.topics).items():
        assert record.asked == asked(SCENARIOS[scenario])


def test_events_meanwhile_are_in_the_new_topic_too(bench: Bench) -> None:
    """What is published between the making and the notice is overtaken, not lost."""
    with bench.worker():
        bench.settle()
        bench.make_anew("churn")
        bench.source.send(USERS // 2, users=USERS)
        bench.settle()
        latest = {r.user_id: r for r in worker_bench.embeddings(bench.connection, bench.topics, ["churn"])}
        for buffer in bench.source.buffers:
            for user in buffer.users():
                assert latest[user].covers == buffer.window(user).covers
