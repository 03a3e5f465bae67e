"""Scenarios that come and go under a running tail: served at once, dropped whole, never mixed with an earlier life."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import OFFSET_END, KafkaError, KafkaException, TopicPartition
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from deploy.brokers.local import LocalKafka
from deploy.brokers.process import EmbeddedBroker
from deploy.kafka.topic_settings import expire
from deploy.kafka.topics import ensure
from store.base import metrics
from store.index.snapshot import SnapshotStore
from stream.serve.embedding_topics import EmbeddingTopics
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


def test_a_registered_scenario_is_served_dropped_and_served_anew_without_its_past(world: World) -> None:
    heard: list[int] = []
    with running(world, on_scenarios=lambda: heard.append(1)) as tail:
        world.register("loan", "Who?", 1001)
        until(lambda: "loan" in tail.catalog)
        assert tail.users_of("loan") == []
        for user in ("anna", "ben", "cleo"):
            world.record(user, 1, scenarios=["loan"], registration=1001)
        world.erase("cleo", scenarios=["loan"])
        world.flush()
        until(lambda: tail.users_of("loan") == ["anna", "ben"])
        world.retire("loan")
        until(lambda: "loan" not in tail.catalog)
        world.register("loan", "Who now?", 1002)
        until(lambda: "loan" in tail.catalog)
        # a worker that has not heard of it yet
        world.record("late", 1, scenarios=["loan"], registration=1001)
        world.record("ben", 2, scenarios=["loan"], registration=1002)
        world.flush()
        until(lambda: tail.users_of("loan") == ["ben"])
        ends = [sum(mark) for mark in _marks(world, "loan")]
        until(lambda: [tail.indexes["loan"].applied().get(p) for p in range(2)] == ends)
        assert tail.users_of("loan") == ["ben"]
        assert tail.catalog["loan"].entry.settings.query == "Who now?"
    assert len(heard) == 4, "at the start, and at each change"


def _marks(world: World, scenario: str) -> list[tuple[int, int]]:
    consumer = world.connection.consumer("marks")
    try:
        topic = world.topics.embeddings(scenario)
        return [
            (0, consumer.get_watermark_offsets(TopicPartition(topic, p), timeout=10, cached=False)[1]) for p in range(2)
        ]
    finally:
        consumer.close()


def test_a_changed_query_keeps_the_rows(world: World) -> None:
    with running(world) as tail:
        world.register("loan", "Who?", 1001)
        world.record("anna", 1, scenarios=["loan"], registration=1001)
        world.flush()
        until(lambda: "loan" in tail.catalog and tail.users_of("loan") == ["anna"])
        index = tail.catalog["loan"].index
        world.register("loan", "Why?", 1001)
        until(lambda: tail.catalog["loan"].entry.settings.query == "Why?")
        assert tail.catalog["loan"].index is index
        world.record("ben", 1, scenarios=["loan"], registration=1001)
        world.flush()
        until(lambda: tail.users_of("loan") == ["anna", "ben"])


def test_it_survives_a_restart_and_is_part_of_being_ready(world: World) -> None:
    with running(world) as tail:
        world.register("loan", "Who?", 1001)
        world.record("anna", 1, scenarios=["loan"], registration=1001)
        world.flush()
        until(lambda: "loan" in tail.catalog and tail.users_of("loan") == ["anna"])
    for i in range(20):
        world.record(f"u{i:02}", 1, scenarios=["loan"], registration=1001)
    world.flush()
    made: list[list[str]] = []
    with running(world, make_topics=made.append) as tail:  # ready
        assert tail.users_of("loan") == ["anna", *(f"u{i:02}" for i in range(20))]
    assert made == [["loan"]]


def test_a_snapshot_of_an_earlier_registration_is_not_used_for_it_and_is_for_the_others(world: World) -> None:
    world.record("anna", 1)
    with running(world) as tail:
        world.register("loan", "Who?", 1001)
        world.record("anna", 1, scenarios=["loan"], registration=1001)
        world.flush()
        until(lambda: "loan" in tail.catalog and tail.users_of("loan") == ["anna"])
    world.retire("loan")
    world.register("loan", "Who?", 1002)
    world.record("ben", 1, scenarios=["loan"], registration=1002)
    world.flush()
    with running(world) as tail:
        assert tail.users() == [["anna"], ["anna"]]
        assert tail.users_of("loan") == ["ben"]


def test_candidates_are_served_beside_their_scenarios_and_hold_nothing_up(world: World) -> None:
    candidate = ["churn@next"]
    world.register("loan", "Who?", 1001, candidates=["next"])
    world.register("churn", "ignored: the configuration has it", 1001)
    with running(world, candidates=["next"]) as tail:
        names = {"churn", "credit", "loan", "churn@next", "credit@next", "loan@next"}
        assert set(tail.catalog) == names
        raw = world.event("anna")
        until(lambda: len(tail.pending) == 1)
        world.record("anna", raw, scenarios=candidate)
        world.record("anna", raw, scenarios=["loan@next"], registration=1001)
        world.record("anna", raw)
        world.flush()
        until(lambda: tail.users_of("churn@next") == tail.users_of("loan@next") == ["anna"])
        until(lambda: len(tail.pending) == 0)
        assert tail.pending.scenarios == ("churn", "credit")
        world.report("churn@next", 0, complete=True)
        until(lambda: (found := _progress(tail, "churn@next")) is not None and found.complete)
        assert tail.pending.scenarios == ("churn", "credit")
        world.retire("loan")
        until(lambda: set(tail.catalog) == names - {"loan", "loan@next"})


def _progress(tail: Running, name: str) -> Any:
    return tail.back_fills.progress(name, tail.catalog[name].entry)


def test_it_counts_for_freshness_from_the_end_of_its_back_fill(world: World) -> None:
    with running(world) as tail:
        world.register("loan", "Who?", 1001)
        until(lambda: "loan" in tail.catalog)
        raw = world.event("anna")
        until(lambda: len(tail.pending) == 1)
        world.record("anna", raw)
        world.flush()
        until(lambda: len(tail.pending) == 0)
        world.report("loan", 1001, complete=False)
        until(lambda: _progress(tail, "loan") is not None)
        assert not _progress(tail, "loan").complete
        world.record("anna", raw, scenarios=["loan"], registration=1001)
        world.report("loan", 1001, complete=True)
        until(lambda: _progress(tail, "loan").complete)
        assert tail.users_of("loan") == ["anna"], "complete = queryable"
        until(lambda: tail.pending.scenarios == ("churn", "credit", "loan"))
        raw = world.event("anna")
        until(lambda: len(tail.pending) == 1)
        world.record("anna", raw)
        world.flush()
        until(lambda: all(_covers(tail, scenario, raw) for scenario in SCENARIOS))
        assert len(tail.pending) == 1, "loan does not cover it"
        world.retire("loan")
        until(lambda: len(tail.pending) == 0)
    world.register("loan", "Who?", 1001)
    with running(world) as tail:
        assert tail.pending.scenarios == ("churn", "credit", "loan"), "known again after a restart"


def _covers(tail: Running, scenario: str, raw: int) -> bool:
    coverage = tail.catalog.coverage(scenario, "anna")
    return coverage is not None and coverage.covers["raw:0"] >= raw


def test_a_topic_that_the_broker_does_not_know_yet_is_read_once_it_does(
    embedded_world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    describe = EmbeddingTopics.describe
    known = threading.Event()

    def late(self: EmbeddingTopics, scenarios: Any, **options: Any) -> Any:
        if "loan" in set(scenarios) and not known.is_set():
            raise KafkaException(KafkaError(KafkaError.UNKNOWN_TOPIC_OR_PART))
        return describe(self, scenarios, **options)

    monkeypatch.setattr(EmbeddingTopics, "describe", late)
    monkeypatch.setattr("stream.serve.tail.RETRY_SECONDS", 0.1)
    world = embedded_world
    with running(world) as tail:
        world.register("loan", "Who?", 1001)
        until(lambda: "loan" in tail.catalog)
        world.register("house", "Who moves?", 1002)
        world.record("anna", 1)
        world.record("anna", 1, scenarios=["loan"], registration=1001)
        world.record("anna", 1, scenarios=["house"], registration=1002)
        world.flush()
        until(lambda: tail.users() == [["anna"], ["anna"]])
        until(lambda: "house" in tail.catalog)
        until(lambda: tail.users_of("house") == ["anna"])  # one that is missing holds no other up
        assert tail.users_of("loan") == []
        known.set()
        until(lambda: tail.users_of("loan") == ["anna"])


def test_a_retired_scenario_leaves_the_snapshots(embedded_world: World) -> None:
    world = embedded_world
    with running(world) as tail:
        world.register("loan", "Who?", 1001)
        world.record("anna-of-loan", 1, scenarios=["loan"], registration=1001)
        world.flush()
        until(lambda: _on_disk(world, b"anna-of-loan"))
        world.retire("loan")
        until(lambda: not _on_disk(world, b"anna-of-loan"), 20)
        assert "loan" not in tail.catalog
        for metric in metrics.OF_SCENARIO["serve"]:
            assert "loan" not in {s.labels.get("scenario") for family in metric.collect() for s in family.samples}


def _on_disk(world: World, text: bytes) -> bool:
    found = SnapshotStore(world.data / "serve", identity=world.connection.identity)
    return any(text in path.read_bytes() for path in found.paths() if path.exists())


USERS = ["anna", "ben", "dora"]
"""Of both partitions."""
steps = st.one_of(
    st.tuples(st.just("register"), st.just("")),
    st.tuples(st.just("retire"), st.just("")),
    st.tuples(st.just("record"), st.sampled_from(USERS)),
    st.tuples(st.just("stale"), st.sampled_from(USERS)),
    st.tuples(st.just("erase"), st.sampled_from(USERS)),
    st.tuples(st.just("restart"), st.just("")),
)


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(script=st.lists(steps, min_size=3, max_size=14), look_at=st.sets(st.integers(0, 13)))
def test_any_life_of_a_name_serves_only_what_its_last_registration_wrote(
    broker: EmbeddedBroker, tmp_path_factory: pytest.TempPathFactory, script: list[tuple[str, str]], look_at: set[int]
) -> None:
    """Against a dict: erased users and those of earlier lives never come back, over restarts too."""
    folder = tmp_path_factory.mktemp("life")
    world = World(broker.connection, f"t{folder.name}{time.time_ns()}", folder)
    registration = 1000
    live = False
    expected: set[str] = set()
    offset = 0
    with _restartable(world) as (get, restart):
        for number, (what, user) in enumerate(script):
            offset += 1
            if what == "register":
                if not live:
                    registration += 1
                    expected = set()
                live = True
                world.register("loan", f"Who? {number}", registration)
            elif what == "retire":
                live = False
                world.retire("loan")
            elif what == "restart":
                restart()
            elif live or registration > 1000:
                if what == "record" and live:
                    world.record(user, offset, scenarios=["loan"], registration=registration)
                    expected.add(user)
                elif what == "stale":
                    world.record(user, offset, scenarios=["loan"], registration=registration - 1)
                elif what == "erase":
                    world.erase(user, scenarios=["loan"])
                    expected.discard(user)
                world.flush()
            if number in look_at or number == len(script) - 1:
                _same(get, live, registration, sorted(expected))


def _same(get: Callable[[], Running], live: bool, registration: int, users: list[str]) -> None:
    def agrees() -> bool:
        served = get().catalog.get("loan")
        if served is None or not live:
            return served is None and not live
        return served.entry.registration == registration and get().users_of("loan") == users

    until(agrees)
    time.sleep(0.05)
    assert agrees()


@contextmanager
def _restartable(world: World) -> Iterator[tuple[Callable[[], Running], Callable[[], None]]]:
    """The tail that runs now, and a function that restarts it."""
    with ExitStack() as stack:
        tails: list[Running] = []

        def start() -> None:
            stack.close()
            tails.append(stack.enter_context(running(world)))

        start()
        yield lambda: tails[-1], start


@pytest.mark.kafka
def test_a_scenario_that_was_registered_and_retired_comes_into_the_configuration(
    kafka_broker: LocalKafka, topic_prefix: str, tmp_path: Path
) -> None:
    """B10: its topic no longer began at 0, which of a configured one was lost data, at every start."""
    world = World(kafka_broker.connection, topic_prefix, tmp_path)
    world.register("churn", "?", 5)
    for i in range(20):
        world.record(f"old{i}", i, scenarios=("churn",), registration=5)
    world.flush()
    world.retire("churn")
    admin = world.connection.admin()
    topic = world.topics.embeddings("churn")
    expire(world.connection, [topic])
    ends = [TopicPartition(topic, p, OFFSET_END) for p in range(2)]
    for answer in admin.delete_records(ends).values():
        answer.result(10)
    ensure(world.connection, [world.topics.embeddings_spec("churn")])
    with running(world) as tail:
        assert tail.users()[0] == []
        for user in ("anna", "berta"):  # as the back-fill does
            world.record(user, 1)
        world.flush()
        until(lambda: tail.users() == [["anna", "berta"], ["anna", "berta"]])
    with running(world) as tail:
        assert tail.users() == [["anna", "berta"], ["anna", "berta"]]
