"""B13: a partition whose log is long holds up nobody but its own users; on real Kafka."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from confluent_kafka import TopicPartition

import stream.token_log.catch_up as catch_up_module
from deploy.brokers.local import LocalKafka
from deploy.kafka.topics import ensure
from encoder.model.settings import ModelSettings
from encoder.worker import assignment as assignment_module
from encoder.worker.worker import Worker
from store.base.settings import ScenarioSettings
from store.records.embedding import EmbeddingRecord
from store.window.user_window import UserWindow
from stream.kafka.partitioner import partition_of
from stream.settings import KafkaSettings
from stream.token_log.catch_up import CatchUp
from stream.topics import Topics
from tests.support import worker_bench
from tests.support.hash_users import HashUsers
from tests.support.windows import MODALITIES
from tests.support.worker_bench import Source, make_worker, register, wait_until

SCENARIOS = {"churn": ScenarioSettings(query="Will this user leave?")}
RISK = ScenarioSettings(query="Will this user default?")
MODEL = ModelSettings(min_interval_ms=0)
PROPERTIES = {"session.timeout.ms": 6000, "heartbeat.interval.ms": 500}
COLD, WARM = 0, 1

pytestmark = [pytest.mark.kafka, pytest.mark.timeout(300)]


class Bench:
    """Two partitions, of which one has everything there is to read, and what serve sees of both."""

    def __init__(self, broker: LocalKafka, prefix: str, folder: Path) -> None:
        self.connection = replace(broker.connection, properties=PROPERTIES)
        self.topics = Topics(KafkaSettings(topic_prefix=prefix, partitions=2))
        ensure(self.connection, self.topics.specs(MODALITIES, SCENARIOS))
        self.source = Source(self.connection, self.topics, folder / "source")
        self.encoder = HashUsers(SCENARIOS)
        self.folder = folder
        users = {p: [u for u in map("user-{}".format, range(40)) if partition_of(u, 2) == p] for p in (COLD, WARM)}
        self.cold, self.warm = users[COLD][:5], users[WARM][:3]

    def send(self, users: list[str], events: int) -> None:
        for i in range(events):
            self.source.send_to(users[i % len(users)])

    def cool(self, events: int = 40) -> None:
        """More than what is near, in the cold partition."""
        self.send(self.cold, events)

    @contextmanager
    def worker(self, disk: str = "w") -> Iterator[None]:
        def worker_of(ready: Callable[[], None]) -> Worker:
            return make_worker(
                self.connection, self.topics, self.encoder, self.folder / disk,
                scenarios=SCENARIOS, model=MODEL, on_ready=ready,
            )  # fmt: skip

        with worker_bench.running(worker_of):
            yield

    def latest(self, scenario: str = "churn") -> dict[str, EmbeddingRecord]:
        return {r.user_id: r for r in worker_bench.embeddings(self.connection, self.topics, [scenario])}

    def covered(self, users: list[str], scenario: str = "churn") -> bool:
        """Whether these have an embedding of all of their events."""
        found = self.latest(scenario)
        return all(user in found and found[user].covers == self.window(user).covers for user in users)

    def window(self, user: str) -> UserWindow:
        return self.source.buffers[partition_of(user, 2)].window(user)

    def wait_for(self, users: list[str], scenario: str = "churn") -> None:
        wait_until(lambda: self.covered(users, scenario), f"{scenario} of {users}")


@pytest.fixture
def bench(kafka_broker: LocalKafka, topic_prefix: str, tmp_path: Path) -> Bench:
    return Bench(kafka_broker, topic_prefix, tmp_path)


@pytest.fixture
def held(monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """What is far behind is read no further than its first records until this is set."""
    monkeypatch.setattr(catch_up_module, "SLICE_ROWS", 1)
    monkeypatch.setattr(catch_up_module, "NEAR_ROWS", 20)
    monkeypatch.setattr(assignment_module, "NEAR_ROWS", 20)
    go_on = threading.Event()
    poll = CatchUp.poll
    reads = 0

    def held_poll(self: CatchUp, wait_s: float) -> int:
        nonlocal reads
        reads += 1
        return poll(self, wait_s) if reads <= 3 or go_on.is_set() else 0

    monkeypatch.setattr(catch_up_module, "SLICE_SECONDS", 0.0)
    monkeypatch.setattr(CatchUp, "poll", held_poll)
    yield go_on
    go_on.set()


def test_users_of_a_warm_partition_are_refreshed_while_another_one_reads_its_log(
    bench: Bench, held: threading.Event
) -> None:
    bench.cool()
    bench.send(bench.warm, 3)
    with bench.worker():
        bench.wait_for(bench.warm)
        bench.send(bench.warm, 3)
        bench.wait_for(bench.warm)
        bench.send(bench.cold, 3)
        bench.send(bench.warm, 3)
        bench.wait_for(bench.warm)
        assert set(bench.latest()) == set(bench.warm), "nothing of a partition that is behind"
        held.set()
        bench.wait_for(bench.cold)
        bench.send(bench.cold + bench.warm, 8)
        bench.wait_for(bench.cold + bench.warm)
        wait_until(lambda: worker_bench.lag_is_zero(bench.connection, bench.topics), "all is committed")


def test_a_warm_partition_is_back_filled_while_another_one_reads_its_log(bench: Bench, held: threading.Event) -> None:
    held.set()
    bench.cool()
    bench.send(bench.warm, 3)
    with bench.worker():
        bench.wait_for(bench.cold + bench.warm)
        wait_until(lambda: worker_bench.lag_is_zero(bench.connection, bench.topics), "all is committed")
    held.clear()
    bench.cool()
    register(bench.connection, bench.topics, "risk", RISK)
    with bench.worker():
        bench.wait_for(bench.warm, "risk")
        told = worker_bench.back_fills(bench.connection, bench.topics)
        assert ("risk", COLD) not in told
        assert not set(bench.latest("risk")) & set(bench.cold)
        held.set()
        bench.wait_for(bench.cold, "risk")
        wait_until(
            lambda: all(r.complete for r in worker_bench.back_fills(bench.connection, bench.topics).values()),
            "the back-fill is complete",
        )


def test_a_partition_that_moves_while_it_is_far_behind_is_read_on_by_its_next_owner(
    bench: Bench, held: threading.Event
) -> None:
    bench.cool()
    bench.send(bench.warm, 3)
    with bench.worker("a"):
        bench.wait_for(bench.warm)
        with bench.worker("b"):
            # both members have one of them now, whoever that is
            bench.send(bench.warm, 3)
            bench.wait_for(bench.warm)
            held.set()
            bench.wait_for(bench.cold)
        bench.send(bench.cold + bench.warm, 8)
        bench.wait_for(bench.cold + bench.warm)


def test_what_was_read_far_behind_is_followed_from_where_it_ended(bench: Bench, held: threading.Event) -> None:
    """Each record is applied once: the group's consumer goes on behind the last one."""
    held.set()
    bench.cool(60)
    with bench.worker():
        bench.wait_for(bench.cold)
        bench.cool(10)
        bench.wait_for(bench.cold)
        wait_until(lambda: worker_bench.lag_is_zero(bench.connection, bench.topics), "all is committed")
    replica = worker_bench.buffers(bench.connection, bench.folder / "w", replica=True).open(COLD)
    end = bench.connection.consumer("ends").get_watermark_offsets(TopicPartition(bench.topics.tokens, COLD), timeout=10)
    assert replica.log_offset == end[1]
    for user in bench.cold:
        assert replica.window(user).events == bench.source.buffers[COLD].window(user).events
    replica.close()
