"""A worker that lost its partitions with something still under way, on real Kafka: nothing goes back in the topic."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import TopicPartition

import encoder.worker.worker as worker_module
from deploy.brokers.local import LocalKafka
from deploy.kafka.topics import ensure
from encoder.forward.model_set import ModelSet
from encoder.model.settings import ModelSettings
from encoder.worker.transactions import FencedWriters
from encoder.worker.worker import Worker
from store.base.errors import BrokerError
from store.base.settings import ScenarioSettings
from store.records.embedding import EmbeddingRecord
from stream.kafka.client import Connection
from stream.kafka.fenced_producer import FencedProducer
from stream.settings import KafkaSettings
from stream.topics import Topics
from tests.support import worker_bench
from tests.support.broker_proxy import END_TXN, PRODUCE, TXN_OFFSET_COMMIT, BrokerProxy, port_of
from tests.support.windows import DIM, MODALITIES
from tests.support.worker_bench import Source, make_worker

SCENARIOS = {"churn": ScenarioSettings(query="Will this user leave?")}
MODEL = ModelSettings(threads=1, min_interval_ms=0, kv_pool_bytes=8 << 20)
PROPERTIES = {"session.timeout.ms": 6000, "heartbeat.interval.ms": 500, "compression.type": "none"}
"""As short as Kafka allows: how long the partitions of one that fell silent wait. And to be read on the way."""
U = "u"
NULL_OF_U = b"\x02u\x01"
"""In a Produce request: a key of one byte, and no value."""

pytestmark = [pytest.mark.kafka, pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def encoder() -> ModelSet:
    return ModelSet(MODEL, {}, MODALITIES, SCENARIOS, DIM)


class Bench:
    """One partition, its source, and workers of which each may have a network of its own."""

    def __init__(self, broker: LocalKafka, prefix: str, encoder: ModelSet, folder: Path) -> None:
        self.connection = replace(broker.connection, properties=PROPERTIES)
        self.topics = Topics(KafkaSettings(topic_prefix=prefix, partitions=1))
        ensure(self.connection, self.topics.specs(MODALITIES, SCENARIOS))
        self.source = Source(self.connection, self.topics, folder / "source")
        self.encoder, self.folder = encoder, folder

    @contextmanager
    def worker(self, name: str, connection: Connection | None = None) -> Iterator[None]:
        """connection: through what it reaches the broker."""

        def worker_of(ready: Callable[[], None]) -> Worker:
            return make_worker(
                connection or self.connection, self.topics, self.encoder, self.folder / name,
                scenarios=SCENARIOS, model=MODEL, on_ready=ready,
            )  # fmt: skip

        with worker_bench.running(worker_of):
            yield

    @contextmanager
    def cut_off_worker(self, name: str) -> Iterator[BrokerProxy]:
        """A worker behind a network that can fail."""
        proxy = BrokerProxy(lambda: port_of(self.connection))
        try:
            with self.worker(name, replace(self.connection, bootstrap=proxy.bootstrap)):
                yield proxy
                proxy.heal()
        finally:
            proxy.close()

    def caught_up(self) -> None:
        worker_bench.wait_until(lambda: worker_bench.lag_is_zero(self.connection, self.topics), "the worker caught up")

    def covers(self, isolation: str = "read_committed") -> list[int | None]:
        """What the records of U say they cover, in the order of the topic; None = a null."""
        out: list[int | None] = []
        for message in self._messages(isolation):
            if message.key() == U.encode():
                value = message.value()
                out.append(None if value is None else EmbeddingRecord.unpack(value).covers["raw:0"])
        return out

    def _messages(self, isolation: str) -> list[Any]:
        found: list[Any] = []
        with ExitStack() as closing:
            reading: dict[str, Any] = {"isolation.level": isolation, "enable.partition.eof": True}
            consumer = self.connection.consumer("judge", **reading)
            closing.callback(consumer.close)
            consumer.assign([TopicPartition(self.topics.embeddings("churn"), 0, 0)])
            while True:
                message = consumer.poll(30)
                assert message is not None
                if message.error() is not None:
                    return found
                found.append(message)

    def wait_for_covers(self, offset: int) -> None:
        """Of U."""
        worker_bench.wait_until(lambda: self.covers()[-1] == offset, f"an embedding covers {offset}")


@pytest.fixture
def bench(kafka_broker: LocalKafka, topic_prefix: str, encoder: ModelSet, tmp_path: Path) -> Bench:
    return Bench(kafka_broker, topic_prefix, encoder, tmp_path)


def test_an_embedding_that_arrives_after_the_next_owners_is_never_seen(bench: Bench) -> None:
    """A6: cut off at its Produce, its partition taken over, healed."""
    bench.source.send_to(U)
    with bench.cut_off_worker("a") as network:
        bench.caught_up()
        held = network.cut_at(PRODUCE, bench.topics.embeddings("churn").encode())
        bench.source.send_to(U)
        assert held.reached.wait(30)
        with bench.worker("b"):
            bench.caught_up()
            bench.source.send_to(U)
            bench.caught_up()
            bench.wait_for_covers(2)
            network.heal()
            assert held.answered.wait(30)
            seen = bench.covers()
            assert seen == sorted(seen)  # type: ignore[type-var]
            assert seen[-1] == 2
            assert bench.covers("read_uncommitted") == seen
        # the one that was cut off has the partition again, and works
        bench.source.send_to(U)
        bench.caught_up()
        bench.wait_for_covers(3)


def test_a_null_that_arrives_after_the_next_owners_embedding_is_never_seen(bench: Bench) -> None:
    """A6: a user swept from the window by a worker that is cut off, back again at the next owner."""
    bench.source.send_to(U)
    with bench.cut_off_worker("a") as network:
        bench.caught_up()
        held = network.cut_at(PRODUCE, NULL_OF_U)
        bench.source.send_to("x", days=1000)
        assert held.reached.wait(30)
        with bench.worker("b"):
            bench.caught_up()
            bench.source.send_to(U, days=1000)
            bench.caught_up()
            network.heal()
            assert held.answered.wait(30)
            assert bench.covers() == [0, None, 2]


def test_a_live_owner_that_was_fenced_opens_again_and_goes_on(bench: Bench) -> None:
    """A member that has lost the partition opens late, and fences the one that has it."""
    bench.source.send_to(U)
    with bench.worker("a"):
        bench.caught_up()
        for offset in (1, 2):
            late = FencedProducer(bench.connection, f"{bench.topics.group_worker}.0", threading.Event)
            late.open()
            bench.source.send_to(U)
            bench.caught_up()
            bench.wait_for_covers(offset)
            late.close()
    assert bench.covers() == [0, 1, 2]


def test_an_owner_that_is_fenced_again_and_again_gives_up(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker_module, "RENEWALS", 1)
    late = []

    def open_and_be_fenced(self: FencedWriters, partitions: Sequence[int], consumer: Any) -> None:
        opened(self, partitions, consumer)
        late.append(FencedProducer(bench.connection, f"{bench.topics.group_worker}.0", threading.Event))
        late[-1].open()

    opened = FencedWriters.open
    monkeypatch.setattr(FencedWriters, "open", open_and_be_fenced)
    bench.source.send_to(U)
    worker = make_worker(
        bench.connection, bench.topics, bench.encoder, bench.folder / "a", scenarios=SCENARIOS, model=MODEL
    )
    with pytest.raises(BrokerError) as raised:
        worker.run(threading.Event())
    assert raised.value.code == "writer_fenced"
    assert bench.covers() == []


def test_a_member_that_the_group_has_dropped_publishes_nothing(bench: Bench) -> None:
    """Without a member id the broker would take its commit for that of no group at all."""

    class Dropped:
        def consumer_group_metadata(self) -> Any:
            return bench.connection.consumer(bench.topics.group_worker).consumer_group_metadata()

        def memberid(self) -> str:
            return ""

    writers = FencedWriters(bench.connection, bench.topics, threading.Event)
    owner = FencedProducer(bench.connection, f"{bench.topics.group_worker}.0", threading.Event)
    owner.open()
    writers.open([0], Dropped())
    writers.produce(0, bench.topics.embeddings("churn"), None, b"u")
    written = writers.commit({0: (1, "")})
    assert (written.published, written.committed, list(written.fenced)) == (frozenset(), frozenset(), [0])
    owner.produce(bench.topics.embeddings("churn"), None, b"u", 0)  # nor does it disturb who has the partition
    owner._producer.commit_transaction(10)
    owner.close()


@pytest.mark.parametrize("seed", range(3))
def test_networks_cut_at_random_instants_under_load(bench: Bench, seed: int) -> None:
    """Two workers, cut off for longer than a session while U and others have events: nothing goes back."""
    rng = random.Random(seed)
    with ExitStack() as closing:
        networks = [closing.enter_context(bench.cut_off_worker(name)) for name in "ab"]
        for _ in range(2):
            network = rng.choice(networks)
            cut_at = rng.randrange(20, 60)
            for i in range(100):
                bench.source.send_to(rng.choice((U, U, "v", "w")))
                time.sleep(0.02)
                if i == cut_at:
                    network.cut()
            bench.source.send_to(U)
            last = bench.source.sent - 1
            # the other one, or the same if the partition was not its own
            bench.wait_for_covers(last)
            network.heal()
            bench.source.send_to(U)
            bench.wait_for_covers(last + 1)
    seen = bench.covers()
    assert seen == sorted(seen)  # type: ignore[type-var]


@pytest.mark.parametrize("api", [PRODUCE, TXN_OFFSET_COMMIT, END_TXN])
def test_connections_that_break_in_the_middle_of_a_transaction_do_not_end_the_worker(bench: Bench, api: int) -> None:
    """As when the broker restarts: what could not be committed is published again."""
    bench.source.send_to(U)
    with bench.cut_off_worker("a") as network:
        bench.caught_up()
        held = network.cut_at(api)
        bench.source.send_to(U)
        assert held.reached.wait(30)
        network.drop()
        network.heal()
        bench.wait_for_covers(1)
        bench.source.send_to(U)
        bench.wait_for_covers(2)
    seen = bench.covers()
    assert seen == sorted(seen)  # type: ignore[type-var]
