"""A worker whose input is behind reads on to the end, keeps what it read, and then computes each user once."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from deploy.brokers.local import LocalKafka
from deploy.brokers.process import EmbeddedBroker
from deploy.kafka.topics import ensure
from encoder.model.settings import ModelSettings
from encoder.worker.worker import Worker
from store.base.settings import ScenarioSettings
from stream.commit_metadata import read_waiting
from stream.kafka.client import Connection
from stream.kafka.pacing import SafeProducer
from stream.kafka.partitioner import partition_of
from stream.settings import KafkaSettings
from stream.topics import Topics
from tests.support import worker_bench
from tests.support.hash_users import HashUsers
from tests.support.windows import MODALITIES
from tests.support.worker_bench import Source, make_worker, wait_until

PARTITIONS = 2
SCENARIOS = {"churn": ScenarioSettings(query="Will this user leave?")}
MODEL = ModelSettings(threads=1, min_interval_ms=0, batch_tokens=64)
OLD, NEW = [[u for u in map("user-{}".format, range(60)) if partition_of(u, 2) == p][:12] for p in range(2)]


class Bench:
    """Partition 0 has a backlog, partition 1 is live."""

    def __init__(self, connection: Connection, prefix: str, folder: Path) -> None:
        self.connection, self.folder = connection, folder
        self.topics = Topics(KafkaSettings(topic_prefix=prefix, partitions=PARTITIONS))
        ensure(connection, self.topics.specs(MODALITIES, SCENARIOS))
        self.source = Source(connection, self.topics, folder / "source")

    @contextmanager
    def worker(self) -> Iterator[None]:
        def worker_of(ready: Callable[[], None]) -> Worker:
            return make_worker(
                self.connection, self.topics, HashUsers(SCENARIOS), self.folder / "w",
                scenarios=SCENARIOS, model=MODEL, on_ready=ready,
            )  # fmt: skip

        with worker_bench.running(worker_of):
            yield

    def published(self) -> Counter[str]:
        found = worker_bench.embeddings(self.connection, self.topics, list(SCENARIOS))
        return Counter(record.user_id for record in found)

    def live(self) -> None:
        """An event of everybody in the live partition is queryable."""
        self.source.say_arrived(1, now_ms())
        for user in NEW:
            self.source.send_to(user)
        wait_until(lambda: self.published().keys() >= set(NEW), "the live users")

    def read(self, partition: int) -> int:
        said = read_waiting(worker_bench.committed(self.connection, self.topics)[partition].metadata)
        return (said.read or 0) if said else 0

    def backlog(self, rounds: int = 3) -> None:
        """Several events of each, an hour old when they come; read, and kept, when this returns."""
        for _ in range(rounds):
            self.source.say_arrived(0, now_ms() - 3_600_000)
            for user in OLD:
                self.source.send_to(user)
        wait_until(lambda: self.read(0) == self.source.buffers[0].log_offset, "the backlog is read")


def now_ms() -> int:
    return int(time.time() * 1000)


@pytest.fixture(params=["embedded", pytest.param("kafka", marks=pytest.mark.kafka)])
def bench(
    request: pytest.FixtureRequest,
    start_embedded: Callable[[dict[str, int]], EmbeddedBroker],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Bench:
    monkeypatch.setattr("encoder.worker.held_users.HOLD_SHARE", 1_000_000)  # the bench computes in no time
    monkeypatch.setattr("encoder.worker.held_users.QUIET_MS", 600_000)
    if request.param == "embedded":
        topics = Topics(KafkaSettings(topic_prefix="b", partitions=PARTITIONS))
        connection = start_embedded({s.name: s.partitions for s in topics.specs(MODALITIES, SCENARIOS)}).connection
        return Bench(connection, "b", tmp_path)
    broker: LocalKafka = request.getfixturevalue("kafka_broker")
    return Bench(replace(broker.connection), request.getfixturevalue("topic_prefix"), tmp_path)


def test_a_backlog_is_computed_once_and_delays_no_live_user(bench: Bench) -> None:
    with bench.worker():
        bench.live()
        bench.backlog()
        assert not bench.published().keys() & set(OLD)
        bench.live()
        assert not bench.published().keys() & set(OLD)
        bench.source.say_arrived(0, now_ms())
        wait_until(lambda: bench.published().keys() >= set(OLD), "everybody")
        wait_until(lambda: worker_bench.lag_is_zero(bench.connection, bench.topics), "all is committed")
    assert all(bench.published()[user] == 1 for user in OLD)


def test_a_worker_restarted_in_a_backlog_forgets_nobody(bench: Bench) -> None:
    with bench.worker():
        bench.live()
        bench.backlog()
    assert not bench.published().keys() & set(OLD)
    with bench.worker():
        bench.backlog()
        bench.source.say_arrived(0, now_ms())
        wait_until(lambda: worker_bench.lag_is_zero(bench.connection, bench.topics), "all is committed")
    latest = {r.user_id: r for r in worker_bench.embeddings(bench.connection, bench.topics, list(SCENARIOS))}
    for user in OLD:
        assert latest[user].covers == bench.source.buffers[0].window(user).covers
    assert all(bench.published()[user] <= 2 for user in OLD)


def test_what_is_held_makes_no_writer_wait(
    start_embedded: Callable[[dict[str, int]], EmbeddedBroker], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An embedded broker keeps little; what the worker has read, and keeps, need not be there."""
    monkeypatch.setattr("encoder.worker.held_users.QUIET_MS", 600_000)
    topics = Topics(KafkaSettings(topic_prefix="b", partitions=PARTITIONS))
    connection = start_embedded({s.name: s.partitions for s in topics.specs(MODALITIES, SCENARIOS)}).connection
    bench = Bench(connection, "b", tmp_path)
    with bench.worker():
        bench.live()
        bench.backlog()
        committed = worker_bench.committed(connection, topics)[0].offset
        assert committed < bench.read(0)
        producer = SafeProducer(connection, topics.specs(MODALITIES, SCENARIOS), budget_bytes=20_000)
        for _ in range(100):  # ten times the budget, and nothing of it is committed
            producer.produce(topics.tokens, b"", key=b"\xff\xffowner", partition=0, headers=[("owner", b"")])
        producer.flush(30)
        assert worker_bench.committed(connection, topics)[0].offset == committed
