"""The tail on both brokers: restored, fresh, committed no further than is safe, and loud about losses."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgpack
import numpy as np
import pytest
from confluent_kafka import OFFSET_INVALID

from deploy.brokers.local import LocalKafka
from deploy.brokers.process import EmbeddedBroker
from deploy.kafka.topics import ensure
from store.base.errors import DataLossError
from store.index.field_board import FieldShare
from store.index.index import ScenarioIndex
from store.index.snapshot import SnapshotStore
from stream.events.field_counts import FieldCounts, OfModality
from stream.kafka.partitioner import partition_of
from stream.topics import DAY_MS
from tests.support.made_anew import delete_topics
from tests.support.tailing import SCENARIOS, Running, World, running, until


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedBroker]:
    broker = EmbeddedBroker(tmp_path_factory.mktemp("broker") / "broker.json", {})
    yield broker
    broker.stop()


@pytest.fixture
def embedded_world(broker: EmbeddedBroker, topic_prefix: str, tmp_path: Path) -> World:
    return World(broker.connection, topic_prefix, tmp_path)


@pytest.fixture(params=["embedded", pytest.param("kafka", marks=pytest.mark.kafka)])
def world(request: pytest.FixtureRequest, topic_prefix: str, tmp_path: Path) -> World:
    name = {"embedded": "broker", "kafka": "kafka_broker"}[request.param]
    return World(request.getfixturevalue(name).connection, topic_prefix, tmp_path)


def test_what_was_there_is_applied_before_ready(world: World) -> None:
    for i in range(20):
        world.record(f"u{i}", i)
    world.erase("u3")
    world.flush()
    with running(world) as tail:
        expected = sorted(f"u{i}" for i in range(20) if i != 3)
        assert tail.users() == [expected, expected]


def test_an_event_is_pending_until_every_scenario_covers_it(world: World) -> None:
    with running(world) as tail:
        raw = world.event("anna")
        until(lambda: len(tail.pending) == 1)
        world.record("anna", raw, scenarios=("churn",))
        world.flush()
        until(lambda: len(tail.indexes["churn"]) == 1)
        assert len(tail.pending) == 1
        world.record("anna", raw, scenarios=("credit",))
        world.flush()
        until(lambda: len(tail.pending) == 0)
        assert tail.pending.samples.report()["all"]["count"] == 1


def test_counts_of_fields_are_taken_from_the_messages_that_have_them(world: World) -> None:
    """A1: also of several ingests; what is no count spoils nothing."""
    of_bill = OfModality(40, {"amount": 30})
    with running(world) as tail:
        world.event("anna")
        world.event("anna", headers=[("fields", b"no counts")])
        for at, events in ((1000, 40), (2000, 60)):
            counts = FieldCounts(at, {"bill": OfModality(events, {"amount": 30}), "retired": of_bill})
            world.event("anna", headers=[("trace", b"x"), ("fields", counts.pack())])
        until(lambda: len(tail.pending) == 4)
        assert tail.state.fields.shares(now_ms=2000) == [FieldShare("bill", "amount", 0.6, 100, 2000)]


def test_a_backlog_of_pending_events_waits_on_the_broker(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stream.serve.events_feed.MAX_PENDING_EVENTS", 20)
    monkeypatch.setattr("stream.serve.tail.BATCH_MESSAGES", 4)
    users = [u for u in (f"u{i}" for i in range(50)) if partition_of(u, 2) == 0][:3]
    with running(world) as tail:
        for i in range(60):
            last = world.event(users[i % 3])
        until(lambda: len(tail.pending) >= 20)
        for marker in ("one", "two"):  # what could be read of the backlog has been once these are
            world.record(marker, 0)
            world.flush()
            until(lambda marker=marker: marker in tail.users_of("churn"))  # type: ignore[misc]
        assert len(tail.pending) <= 25
        assert tail.pending.low_water()[0] == 0
    with running(world) as tail:  # ready in spite of the backlog
        assert 20 <= len(tail.pending) <= 25
        for user in users:
            world.record(user, last)
        world.flush()
        until(lambda: world.committed(world.topics.group_freshness, world.topics.events)[0] == 60)
        assert len(tail.pending) == 0


def test_low_water_mark_is_committed_and_survives_a_restart(world: World) -> None:
    users = [u for u in (f"u{i}" for i in range(50)) if partition_of(u, 2) == 0][:3]
    with running(world) as tail:
        first = world.event(users[0])
        world.event(users[1])
        last = world.event(users[2])
        world.record(users[0], first)
        world.record(users[2], last)
        world.flush()
        until(lambda: len(tail.pending) == 1)
        until(lambda: world.committed(world.topics.group_freshness, world.topics.events)[0] == 1)
    with running(world) as tail:
        assert len(tail.pending) == 1
        assert tail.pending.pending(users[1], {}) == 1
        assert tail.pending.samples.report()["all"]["count"] == 0
        world.record(users[1], first + 1)
        world.flush()
        until(lambda: world.committed(world.topics.group_freshness, world.topics.events)[0] == 3)
        assert len(tail.pending) == 0


def test_commit_on_an_embedded_broker_never_passes_the_snapshot(
    embedded_world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = embedded_world
    begun, held = threading.Event(), threading.Event()
    write = SnapshotStore.write

    def slow(self: SnapshotStore, *args: Any, **kwargs: Any) -> Any:
        begun.set()
        held.wait(60)
        return write(self, *args, **kwargs)

    monkeypatch.setattr(SnapshotStore, "write", slow)
    with running(world) as tail:
        for i in range(10):
            world.record(f"u{i}", i)
        world.flush()
        until(lambda: len(tail.indexes["churn"]) == 10)
        assert begun.wait(60)
        world.record("marker", 11)
        world.flush()
        until(lambda: len(tail.indexes["churn"]) == 11)
        assert max(world.committed(world.topics.group_serve, world.topics.embeddings("churn"))) <= 0
        held.set()
        until(lambda: sum(world.committed(world.topics.group_serve, world.topics.embeddings("churn"))) == 11)


def test_restart_from_a_snapshot_reads_only_the_tail(world: World) -> None:
    for i in range(10):
        world.record(f"u{i}", i, seed=i)
    world.flush()
    with running(world) as tail:
        before = [row.record.vector for row in tail.indexes["churn"].page("", 100)]
    world.record("late", 99)
    world.erase("u0")
    world.flush()
    applied: list[int] = []
    original = ScenarioIndex.apply

    def counted(self: ScenarioIndex, batch: Any, *, now_ms: int) -> Any:
        applied.append(len(batch))
        return original(self, batch, now_ms=now_ms)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ScenarioIndex, "apply", counted)
        with running(world) as tail:
            assert tail.users()[0] == sorted(["late", *(f"u{i}" for i in range(1, 10))])
            after = [row.record.vector for row in tail.indexes["churn"].page("", 100) if row.record.user_id != "late"]
    assert sum(applied) == 4
    np.testing.assert_array_equal(after, before[1:])


def test_a_snapshot_of_another_broker_is_not_used(
    embedded_world: World, start_embedded: Callable[[dict[str, int]], EmbeddedBroker]
) -> None:
    world = embedded_world
    world.record("old", 1)
    world.flush()
    with running(world):
        pass
    other = World(start_embedded({}).connection, world.topics.prefix, world.data)
    other.record("new", 1)
    other.flush()
    with running(other) as tail:
        assert tail.users() == [["new"], ["new"]]


def test_records_lost_unread_are_a_loud_error(embedded_world: World) -> None:
    world = embedded_world
    for i in range(3):
        world.record("big", i)
    # the embedded broker keeps the newest 5 MiB of a partition
    for _ in range(12):
        world.producer.produce(world.topics.embeddings("churn"), np.random.default_rng().bytes(900_000), b"big", 0)
        world.flush()
    with world.tail() as tail:
        assert isinstance(tail.failure, DataLossError)


def test_garbage_is_refused_and_the_next_record_applied(world: World) -> None:
    topic = world.topics.embeddings("churn")
    for value in (b"", b"garbage", b"\xc1", b"\x81\xa1v\x02"):
        world.producer.produce(topic, value, b"anna", partition_of("anna", 2))
    world.producer.produce(topic, b"x", None, 0)
    world.producer.produce(topic, b"x", b"\xff\xfe", 1)
    world.producer.produce(world.topics.events, b"not a pack", partition=0)
    # a foreign pack that the processor refuses for the type of its time: nothing will ever cover it
    foreign = msgpack.packb((1, 1, [("anna", "bill", "noon", "e", "text", (), None, "raw", 0, 9, 1, 1)]))
    world.producer.produce(world.topics.events, foreign, partition=0)
    world.event("anna", modality="retired")
    world.record("anna", 7)
    world.flush()
    with running(world) as tail:
        assert tail.users() == [["anna"], ["anna"]]
        assert len(tail.pending) == 0
        until(lambda: sum(world.committed(world.topics.group_freshness, world.topics.events)) == 3)


def test_erasing_settles_what_was_accepted_before(world: World) -> None:
    with running(world) as tail:
        world.event("anna")
        until(lambda: len(tail.pending) == 1)
        time.sleep(0.005)
        world.erase("anna")
        world.flush()
        until(lambda: len(tail.pending) == 0)
        time.sleep(0.005)
        world.event("anna")
        until(lambda: len(tail.pending) == 1)


def test_it_stops_within_seconds(world: World) -> None:
    started = time.monotonic()
    with running(world):
        pass
    assert time.monotonic() - started < 6


@pytest.mark.kafka
def test_a_topic_made_anew_is_noticed(kafka_broker: LocalKafka, topic_prefix: str, tmp_path: Path) -> None:
    world = World(kafka_broker.connection, topic_prefix, tmp_path)
    for i in range(5):
        world.record(f"old{i}", i)
    world.flush()
    with running(world):
        pass
    names = [world.topics.embeddings(scenario) for scenario in SCENARIOS]
    delete_topics(kafka_broker.connection, names)
    world = World(kafka_broker.connection, topic_prefix, tmp_path)
    for i in range(9):
        world.record(f"new{i}", i)
    world.flush()
    with running(world) as tail:
        assert tail.users()[0] == [f"new{i}" for i in range(9)]


@pytest.mark.kafka
@pytest.mark.parametrize("length", [1, 9])
def test_a_topic_made_anew_while_it_is_read_is_noticed(
    kafka_broker: LocalKafka, topic_prefix: str, tmp_path: Path, length: int
) -> None:
    """A3: shorter than the old one, which ends the reading, or longer, of which the beginning was passed over."""
    world = World(kafka_broker.connection, topic_prefix, tmp_path)
    partition = [user for user in map("u{}".format, range(40)) if partition_of(user, 2) == 0]
    old, new = partition[:3], partition[3 : 3 + length]
    for user in old:
        world.record(user, 1)
    world.flush()
    with running(world) as tail:
        until(lambda: tail.users() == [sorted(old)] * 2)
        world.report("churn", 0, complete=True)
        until(lambda: _complete(tail, "churn"))
        delete_topics(kafka_broker.connection, [world.topics.embeddings("churn")])
        ensure(kafka_broker.connection, [world.topics.embeddings_spec("churn")])
        world.report("churn", 0, complete=False)  # as the worker does that has noticed it
        world.producer = world.connection.producer()
        for user in new:
            world.record(user, 1, scenarios=["churn"])
        world.flush()
        until(lambda: tail.users() == [sorted(new), sorted(old)], 30)
        assert not _complete(tail, "churn")
        world.report("churn", 0, complete=True)
        until(lambda: _complete(tail, "churn"))
        assert tail.failure is None
    with running(world) as tail:
        assert tail.users() == [sorted(new), sorted(old)]


def _complete(tail: Running, scenario: str) -> bool:
    progress = tail.back_fills.progress(scenario, tail.catalog[scenario].entry)
    return progress is not None and progress.complete


def test_two_serves_never_take_the_group_back_and_each_tells_its_own_standing(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """E3, B12: the second one starts without a snapshot, and its catching up was committed over the first one's end."""
    group, topic = world.topics.group_serve, world.topics.embeddings("churn")
    users = [u for u in (f"u{i}" for i in range(80)) if partition_of(u, 2) == 0][:20]
    with running(world) as first:
        for i, user in enumerate(users):
            world.record(user, i)
        world.flush()
        until(lambda: world.committed(group, topic)[0] == 20)
        other = World.__new__(World)
        other.__dict__.update(world.__dict__, data=tmp_path / "other")
        monkeypatch.setattr("stream.serve.tail.BATCH_MESSAGES", 1)
        monkeypatch.setattr("stream.serve.tail.COMMIT_SECONDS", 0.0)
        seen: list[int] = []
        second = other.tail()
        second._thread.start()
        while not second.tail.ready.is_set():
            seen.append(world.committed(group, topic)[0])
        until(lambda: len(second.indexes["churn"]) == 20)
        assert set(seen) <= {20}
        until(lambda: max(t.tail._standing.behind_seconds() for t in (first, second)) < 5)
        second.__exit__()
    assert world.committed(group, topic)[0] == 20


@pytest.mark.kafka
def test_a_group_without_commit_begins_with_what_is_queryable(
    kafka_broker: LocalKafka, topic_prefix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A deleted freshness group was committed from 0 upwards while serve read: lag took it for data that was lost."""
    world = World(kafka_broker.connection, topic_prefix, tmp_path)
    group, events = world.topics.group_freshness, world.topics.events
    users = [u for u in (f"u{i}" for i in range(80)) if partition_of(u, 2) == 0][:20]
    for user in users:
        world.record(user, world.event(user))
    world.flush()
    with running(world):
        until(lambda: world.committed(group, events)[0] == 20)
    admin = kafka_broker.connection.admin()
    admin.delete_consumer_groups([group])[group].result(20)
    monkeypatch.setattr("stream.serve.tail.BATCH_MESSAGES", 1)
    monkeypatch.setattr("stream.serve.tail.COMMIT_SECONDS", 0.0)
    seen: set[int] = set()
    tail = world.tail()
    tail._thread.start()
    until(lambda: seen.add(world.committed(group, events)[0]) or 20 in seen)  # type: ignore[func-returns-value]
    tail.__exit__()
    assert seen <= {OFFSET_INVALID, 20}


def test_a_group_without_commit_does_not_wait_for_users_who_have_gone(
    kafka_broker: LocalKafka, topic_prefix: str, tmp_path: Path
) -> None:
    """On an old system whose freshness group was deleted: users swept more than a week ago, whose deletion the log has
    forgotten, were waited for for ever, and with them freshness stood still."""
    world = World(kafka_broker.connection, topic_prefix, tmp_path)
    gone, swept, here = [u for u in (f"u{i}" for i in range(80)) if partition_of(u, 2) == 0][:3]
    world.event(gone, age_ms=8 * DAY_MS)
    world.record(swept, world.event(swept, age_ms=2 * DAY_MS))
    world.erase(swept)
    world.record(here, world.event(here))
    world.flush()
    with running(world):
        until(lambda: world.committed(world.topics.group_freshness, world.topics.events)[0] == 3)
