"""Raw topics as their owners treat them: transactions, partitions added, deleted and made anew. On real Kafka."""

from __future__ import annotations

import json
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import structlog.testing
from confluent_kafka import TopicPartition
from confluent_kafka.admin import NewPartitions

from deploy.brokers.local import LocalKafka
from deploy.kafka.topics import ensure
from store.base.errors import AnchorstreamError, DataLossError
from store.base.settings import ModalitySettings
from stream.clock import ClockState
from stream.events.event import Event, unpack
from stream.ingest.field_presence import FieldPresence
from stream.ingest.in_flight import RawPosition
from stream.ingest.ingest import Ingest
from stream.kafka import topic_ids
from stream.kafka.client import Connection
from stream.raw_topics.registry import RawTopics
from stream.settings import IngestSettings, KafkaSettings
from stream.topics import Topics, TopicSpec
from tests.support.offsets import committed

pytestmark = pytest.mark.kafka
SECONDS = 180.0


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.05)


class Bench:
    """An ingest that runs, and its raw topic."""

    def __init__(self, connection: Connection, prefix: str, partitions: int = 1) -> None:
        self.connection = connection
        self.partitions = partitions
        self.raw = f"{prefix}-raw"
        self.topics = Topics(KafkaSettings(topic_prefix=prefix, partitions=1))
        self.modalities = {"bill": ModalitySettings(topic=self.raw)}
        ensure(connection, [*self.topics.specs(self.modalities, ()), TopicSpec(self.raw, partitions, ours=False)])
        self.sent = 0
        self.named = True
        self.failures: list[AnchorstreamError] = []

    def event(self, producer: Any, partition: int = 0) -> None:
        value = {"user_id": "u", "ts": int(time.time() * 1000), "modality": "bill", "shop": "s"}
        if self.named:
            value["event_id"] = str(self.sent)
        self.sent += 1
        producer.produce(self.raw, json.dumps(value).encode(), partition=partition)

    def send(self, events: int) -> None:
        """By a producer that has seen nothing before."""
        producer = self.connection.producer()
        for _ in range(events):
            self.event(producer)
        assert producer.flush(30) == 0

    def committed(self, partition: int = 0) -> int:
        return int(committed(self.connection, self.topics.group_ingest, self.raw, partition + 1)[partition].offset)

    def events(self) -> list[Event]:
        """What ingest accepted."""
        consumer = self.connection.consumer(f"{self.topics.prefix}.test", **{"enable.partition.eof": True})
        try:
            consumer.assign([TopicPartition(self.topics.events, 0, 0)])
            found: list[Event] = []
            while (message := consumer.poll(10)) is not None and message.error() is None:
                found += unpack(message.value()).events
            return found
        finally:
            consumer.close()

    def source(self) -> str:
        """What the raw topic that is there is called in ids and `covers`, as ingest has written it down."""
        topics = RawTopics(self.connection, self.topics, self.topics.group_serve)
        topics.load(threading.Event())
        topics.close()
        return topics.sources.get(self.raw, self.raw)

    def run(self, stop: threading.Event, failures: list[AnchorstreamError]) -> None:
        """Started again when it ends, as by a supervisor."""
        while not stop.is_set():
            try:
                Ingest(self.connection, self.topics, self.modalities, IngestSettings()).run(stop)
            except AnchorstreamError as exc:
                failures.append(exc)


@pytest.fixture
def bench(kafka_broker: LocalKafka, topic_prefix: str, request: pytest.FixtureRequest) -> Iterator[Bench]:
    made = Bench(kafka_broker.connection, topic_prefix, getattr(request, "param", 1))
    stop = threading.Event()
    thread = threading.Thread(target=made.run, args=(stop, made.failures))
    thread.start()
    yield made
    stop.set()
    thread.join(40)
    assert not thread.is_alive()
    assert made.failures == []


@pytest.mark.parametrize("end", ["commit", "abort"])
def test_what_a_transaction_leaves_behind_is_passed_over(bench: Bench, end: str) -> None:
    """E5: the offset of its control record was never committed: once retention had taken it, it read as lost data."""
    plain = bench.connection.producer()
    bench.event(plain)
    plain.flush(10)
    until(lambda: bench.committed() == 1)
    producer = bench.connection.producer(**{"transactional.id": bench.raw})
    producer.init_transactions(20)
    producer.begin_transaction()
    bench.event(producer)
    producer.flush(10)
    (producer.commit_transaction if end == "commit" else producer.abort_transaction)(20)
    until(lambda: bench.committed() == 3)
    bench.event(plain)
    plain.flush(10)
    until(lambda: bench.committed() == 4)


def test_partitions_that_are_added_are_read_within_seconds(bench: Bench) -> None:
    """B19: after up to five minutes."""
    plain = bench.connection.producer(**{"topic.metadata.refresh.interval.ms": 500})
    bench.event(plain)
    plain.flush(10)
    until(lambda: bench.committed() == 1)
    admin = bench.connection.admin()  # kept: its answer dies with it
    admin.create_partitions([NewPartitions(bench.raw, 2)])[bench.raw].result(10)
    until(lambda: len(bench.connection.metadata().topics[bench.raw].partitions) == 2)
    time.sleep(1)  # the producer's own look at the partitions
    bench.event(plain, partition=1)
    plain.flush(10)
    until(lambda: bench.committed(1) == 1)


def delete(bench: Bench) -> None:
    admin = bench.connection.admin()
    admin.delete_topics([bench.raw])[bench.raw].result(20)
    until(lambda: bench.raw not in bench.connection.metadata().topics)


def test_a_topic_made_anew_is_read_within_seconds(bench: Bench) -> None:
    """E4: alive, ready and silent, with everything unread."""
    plain = bench.connection.producer()
    for _ in range(5):
        bench.event(plain)
    plain.flush(10)
    until(lambda: bench.committed() == 5)
    delete(bench)
    ensure(bench.connection, [TopicSpec(bench.raw, 1, ours=False)])
    plain = bench.connection.producer()
    for _ in range(12):
        bench.event(plain)
    plain.flush(10)
    until(lambda: bench.committed() == 12)
    assert bench.failures == []


@pytest.fixture
def may_go_on(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """Cleared: ingest takes nothing from its consumer. Of a topic made anew it is told by errors alone."""
    gate = threading.Event()
    gate.set()
    monkeypatch.setattr(FieldPresence, "look", lambda _: gate.wait(SECONDS))
    monkeypatch.setattr(topic_ids, "LOOK_SECONDS", 3600.0)
    return gate


@pytest.mark.parametrize("bench", [8], indirect=True)
def test_all_partitions_of_a_topic_made_anew_fail_at_once(may_go_on: threading.Event, bench: Bench) -> None:
    """The first error found the new topic; the next one, of the old one still, was taken for lost data."""
    plain = bench.connection.producer()
    for partition in range(bench.partitions):
        for _ in range(3):
            bench.event(plain, partition)
    plain.flush(10)
    until(lambda: all(bench.committed(p) == 3 for p in range(bench.partitions)))
    before = bench.source()
    may_go_on.clear()
    delete(bench)
    ensure(bench.connection, [TopicSpec(bench.raw, bench.partitions, ours=False)])
    time.sleep(3)  # the client's threads meet the new topic
    may_go_on.set()
    until(lambda: bench.source() != before)
    plain = bench.connection.producer()
    for partition in range(bench.partitions):
        for _ in range(4):
            bench.event(plain, partition)
    plain.flush(10)
    until(lambda: all(bench.committed(p) == 4 for p in range(bench.partitions)))
    assert bench.failures == []
    counts = Counter(e.source for e in bench.events())
    for partition in range(bench.partitions):
        assert counts[f"{before}:{partition}"] == 3
        assert counts[f"{bench.source()}:{partition}"] == 4


@pytest.fixture
def aged(tmp_path: Path, topic_prefix: str) -> Iterator[Bench]:
    """On a broker of its own that was restarted twice: leader epochs are above 0; three events are read."""
    broker = LocalKafka(tmp_path)
    bench = Bench(broker.connection, topic_prefix)
    stop = threading.Event()
    thread = threading.Thread(target=bench.run, args=(stop, bench.failures))
    thread.start()
    try:
        for restart in range(3):
            if restart:
                broker.restart()
            bench.send(1)
            until(lambda n=restart + 1: bench.committed() == n)  # type: ignore[misc]
        yield bench
        # while a broker is away a client may be thrown out for good: then the role is started anew
        assert not [failure for failure in bench.failures if isinstance(failure, DataLossError)]
    finally:
        stop.set()
        thread.join(40)
        broker.stop()


@pytest.mark.timeout(900)
def test_a_topic_made_anew_after_the_broker_was_restarted(aged: Bench) -> None:
    """Leader epochs begin anew with the topic; a client that has seen a greater one reads nothing, and says nothing."""
    before = aged.source()
    delete(aged)
    ensure(aged.connection, [TopicSpec(aged.raw, 1, ours=False)])
    until(lambda: aged.source() != before)
    aged.send(2)
    until(lambda: aged.committed() == 2)
    # some may be there twice: the broker was restarted
    found = {(e.source, e.event_id) for e in aged.events()}
    assert Counter(source for source, _ in found) == {f"{before}:0": 3, f"{aged.source()}:0": 2}


@pytest.mark.timeout(900)
def test_a_topic_that_comes_again_once_its_partitions_were_taken_away(aged: Bench) -> None:
    """Random faults, seed 316: the same client was given the new topic's, and read nothing for good."""
    with structlog.testing.capture_logs() as told:
        delete(aged)
        until(lambda: any(line["event"] == "partitions_revoked" for line in told))
        ensure(aged.connection, [TopicSpec(aged.raw, 1, ours=False)])
        aged.send(2)
        until(lambda: aged.committed() == 2)


@pytest.mark.parametrize("again", [1, 2])
def test_the_places_of_a_topic_made_anew_are_other_places(bench: Bench, again: int) -> None:
    """A3: ids derived from them repeated, and `covers` said that what is new was there long ago."""
    bench.named = False
    for topic in range(1, again + 1):
        plain = bench.connection.producer()
        for _ in range(4):
            bench.event(plain)
        plain.flush(10)
        # what is committed may still be the old topic's
        until(lambda read=4 * topic: len(bench.events()) == read)  # type: ignore[misc]
        before = bench.source()
        delete(bench)
        ensure(bench.connection, [TopicSpec(bench.raw, 1, ours=False)])
        # what is fetched before ingest has looked may be read twice (docs/architecture.md)
        until(lambda old=before: bench.source() != old)  # type: ignore[misc]
        plain = bench.connection.producer()
    for _ in range(10):
        bench.event(plain)
    plain.flush(10)
    until(lambda: bench.committed() == 10)
    events = bench.events()
    counts = Counter(e.source for e in events)
    assert counts[f"{bench.raw}:0"] == 4
    assert sorted(counts.values()) == [4] * again + [10]
    assert len({e.event_id for e in events}) == 4 * again + 10
    assert counts[f"{bench.source()}:0"] == 10


def test_an_offset_committed_of_the_old_topic_is_no_position_in_the_new_one(
    kafka_broker: LocalKafka, topic_prefix: str
) -> None:
    """A3: ingest was away meanwhile, or its last commit came after the new topic: what lies below was skipped."""
    bench = Bench(kafka_broker.connection, topic_prefix)
    plain = bench.connection.producer()
    for _ in range(8):
        bench.event(plain)
    plain.flush(10)
    committer = bench.connection.consumer(bench.topics.group_ingest)
    metadata = RawPosition(5, ClockState(), "AnotherTopicOfThatName").metadata()
    committer.commit(offsets=[TopicPartition(bench.raw, 0, 5, metadata=metadata)], asynchronous=False)
    committer.close()
    stop = threading.Event()
    thread = threading.Thread(target=bench.run, args=(stop, bench.failures))
    thread.start()
    until(lambda: bench.committed() == 8)
    stop.set()
    thread.join(40)
    assert sorted(int(e.event_id) for e in bench.events()) == list(range(8))
