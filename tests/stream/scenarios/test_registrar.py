"""Registering and retiring through the registry, with a tail that serves it: done when it returns, on both brokers."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import TopicPartition

from deploy.brokers.process import EmbeddedBroker
from deploy.kafka import topic_settings, topics
from store.base.errors import BrokerError, NotFoundError, ScenarioError
from store.base.settings import ScenarioSettings
from store.records.back_fill import BackFillRecord
from stream.scenarios import registrar as scenario_registrar
from stream.scenarios.change_writer import ChangeRecord
from stream.scenarios.registrar import ScenarioRegistrar
from tests.support.broker_proxy import PRODUCE, BrokerProxy, port_of
from tests.support.tailing import Running, World, running, until

LOAN = ScenarioSettings(query="Will it ask for a loan?")
OTHER = ScenarioSettings(query="Will it ask for a loan soon?", prompt="loan")


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedBroker]:
    broker = EmbeddedBroker(tmp_path_factory.mktemp("broker") / "broker.json", {})
    yield broker
    broker.stop()


@pytest.fixture(params=["embedded", pytest.param("kafka", marks=pytest.mark.kafka)])
def world(request: pytest.FixtureRequest, topic_prefix: str, tmp_path: Path) -> World:
    name = {"embedded": "broker", "kafka": "kafka_broker"}[request.param]
    return World(request.getfixturevalue(name).connection, topic_prefix, tmp_path)


@pytest.fixture
def embedded_world(broker: EmbeddedBroker, topic_prefix: str, tmp_path: Path) -> World:
    return World(broker.connection, topic_prefix, tmp_path)


@contextmanager
def serving(world: World, **options: Any) -> Iterator[tuple[Running, ScenarioRegistrar]]:
    """A tail, and a registrar as serve has it."""
    found: list[ScenarioRegistrar] = []
    names_of, connection = world.topics, world.connection
    candidates = options.get("candidates", ())
    clock = options.pop("wall_ms", lambda: 5000)
    timeout = options.pop("timeout_seconds", 10.0)
    with running(world, on_registry=lambda position: found[0].adopted(position) if found else None, **options) as tail:
        found.append(
            ScenarioRegistrar(
                connection,
                names_of,
                tail.registry,
                candidates=candidates,
                make_topics=lambda names: topics.ensure(connection, map(names_of.embeddings_spec, names)),
                expire_topics=lambda names: topic_settings.expire(connection, map(names_of.embeddings, names)),
                timeout_seconds=timeout,
                wall_ms=clock,
            )
        )
        yield tail, found[0]
        found[0].close()


def test_it_is_served_when_put_returns_and_gone_when_retire_does(world: World) -> None:
    with serving(world, candidates=["next"]) as (tail, registrar):
        assert registrar.put("loan", LOAN) is True
        assert tail.catalog["loan"].entry.settings == tail.catalog["loan@next"].entry.settings == LOAN
        first = tail.catalog["loan"].entry
        assert registrar.put("loan", LOAN) is False
        assert tail.catalog["loan"].entry == first, "nothing was written"
        assert registrar.put("loan", OTHER) is False
        changed = tail.catalog["loan"].entry
        assert (changed.settings, changed.registration) == (OTHER, first.registration)
        assert changed.revision > first.revision
        world.record("anna", 1, scenarios=["loan"], registration=first.registration)
        world.flush()
        until(lambda: tail.users_of("loan") == ["anna"])
        registrar.retire("loan")
        assert set(tail.catalog) == {"churn", "credit", "churn@next", "credit@next"}
        assert registrar.put("loan", LOAN) is True
        again = tail.catalog["loan"].entry.registration
        assert again > first.registration, "though the clock stands still"
        world.record("ben", 1, scenarios=["loan"], registration=again)
        world.flush()
        until(lambda: tail.users_of("loan") == ["ben"])


def test_what_cannot_be_done_changes_nothing(embedded_world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(embedded_world, candidates=["next"]) as (tail, registrar):
        for name in ("churn", "churn@next"):
            with pytest.raises(ScenarioError) as refused:
                registrar.retire(name)
            assert refused.value.code == "scenario_configured"
        with pytest.raises(ScenarioError):
            registrar.put("churn", LOAN)
        for name in ("loan", "loan@next", "", "x|y"):
            with pytest.raises(NotFoundError) as unknown:
                registrar.retire(name)
            assert unknown.value.code == "scenario_unknown"
        monkeypatch.setattr(scenario_registrar, "MAX_SCENARIOS", 3)
        registrar.put("loan", LOAN)
        with pytest.raises(ScenarioError) as full:
            registrar.put("travel", LOAN)
        assert full.value.code == "scenario_limit"
        registrar.put("loan", OTHER)
        assert tail.registry.position == 2


def test_reports_on_back_fills_of_a_retired_scenario_are_void(world: World) -> None:
    with serving(world) as (tail, registrar):
        registrar.put("loan", LOAN)
        entry = tail.catalog["loan"].entry
        world.report("loan", entry.registration, complete=False)
        until(lambda: tail.back_fills.progress("loan", entry) is not None)
        registrar.retire("loan")
        until(lambda: tail.back_fills.progress("loan", entry) is None)


def test_reports_are_void_when_the_name_is_free(embedded_world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not later: else those of its next registration, which another process may make at once, would go too."""
    changes: list[list[tuple[str, bytes | None]]] = []
    with serving(embedded_world) as (_, registrar):
        write = registrar._writer.write

        def seen(records: Sequence[ChangeRecord]) -> None:
            changes.append([(record.key, record.value) for record in records])
            write(records)

        monkeypatch.setattr(registrar._writer, "write", seen)
        registrar.put("loan", LOAN)
        registrar.retire("loan")
    assert [[key for key, _ in records] for records in changes] == [["loan"], ["loan|0", "loan|1", "loan"]]
    assert [value for _, value in changes[1]] == [None, None, None]


@pytest.mark.kafka
@pytest.mark.timeout(180)
def test_a_change_that_was_cut_off_on_its_way_does_not_undo_a_later_one(
    request: pytest.FixtureRequest, topic_prefix: str, tmp_path: Path
) -> None:
    """A serve retires a scenario and hears nothing; another one does, and registers it anew; then the first one's bytes
    arrive."""
    world = World(request.getfixturevalue("kafka_broker").connection, topic_prefix, tmp_path)
    with closing(BrokerProxy(lambda: port_of(world.connection))) as network, serving(world) as (tail, registrar):
        registrar.put("loan", LOAN)
        there = replace(world.connection, bootstrap=network.bootstrap)
        other = ScenarioRegistrar(there, world.topics, tail.registry, timeout_seconds=6.0)
        held = network.cut_at(PRODUCE, world.topics.scenarios.encode())
        with pytest.raises(BrokerError) as failed:
            other.retire("loan")
        assert failed.value.code == "delivery_failed"
        registrar.retire("loan")
        registrar.put("loan", OTHER)
        network.heal()
        assert held.answered.wait(30)
        registrar.put("after", LOAN)  # whatever came before it is taken in
        assert tail.catalog["loan"].entry.settings == OTHER


@pytest.mark.kafka
def test_a_name_that_another_process_registers_while_it_is_retired_keeps_its_topic(
    request: pytest.FixtureRequest, topic_prefix: str, tmp_path: Path
) -> None:
    world = World(request.getfixturevalue("kafka_broker").connection, topic_prefix, tmp_path)
    topic = world.topics.embeddings("loan")
    with serving(world) as (tail, registrar):
        expire = registrar._expire_topics

        def late(names: list[str]) -> None:
            world.register("loan", LOAN.query, 9000)
            expire(names)

        registrar._expire_topics = late
        registrar.put("loan", LOAN)
        registrar.retire("loan")
        assert tail.catalog["loan"].entry.registration == 9000
        assert _settings(world, topic)["cleanup.policy"] == "compact"


def test_nobody_listens(embedded_world: World) -> None:
    """Written and acknowledged, but the tail does not take it in: an error, in time."""
    world = embedded_world
    registry_alone = ScenarioRegistrar(
        world.connection, world.topics, world.tail().registry, timeout_seconds=4.0, wall_ms=lambda: 1
    )
    with pytest.raises(BrokerError) as late:
        registry_alone.put("loan", LOAN)
    assert late.value.code == "registry_late"
    registry_alone.close()


def test_a_broker_that_does_not_answer(embedded_world: World) -> None:
    world = embedded_world
    away = type(world.connection)("127.0.0.1:1", identity="x")
    registrar = ScenarioRegistrar(away, world.topics, world.tail().registry, timeout_seconds=0.5, wall_ms=lambda: 1)
    with pytest.raises(BrokerError) as failed:
        registrar.put("loan", LOAN)
    assert failed.value.code == "delivery_timeout"
    registrar.close()


def test_many_at_once_all_end_served(embedded_world: World) -> None:
    with serving(embedded_world, timeout_seconds=60.0) as (tail, registrar):
        names = [f"loan_{n}" for n in range(8)]
        failures: list[Exception] = []

        def put(name: str) -> None:
            try:
                registrar.put(name, LOAN)
                assert tail.catalog[name].entry.settings == LOAN
            except Exception as exc:
                failures.append(exc)

        threads = [threading.Thread(target=put, args=(name,)) for name in names]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not failures
        assert set(tail.catalog) == {"churn", "credit", *names}


@pytest.mark.kafka
def test_a_retired_topic_expires_and_a_new_registration_keeps_it(
    request: pytest.FixtureRequest, topic_prefix: str, tmp_path: Path
) -> None:
    world = World(request.getfixturevalue("kafka_broker").connection, topic_prefix, tmp_path)
    topic = world.topics.embeddings("loan")
    with serving(world) as (tail, registrar):
        registrar.put("loan", LOAN)
        assert _settings(world, topic)["cleanup.policy"] == "compact"
        world.record("anna", 1, scenarios=["loan"], registration=tail.catalog["loan"].entry.registration)
        world.flush()
        registrar.retire("loan")
        assert set(tail.catalog) == {"churn", "credit"}
        expiring = _settings(world, topic)
        assert (expiring["cleanup.policy"], expiring["retention.ms"]) == ("delete", str(3_600_000))
        _an_hour_later(world, topic)
        registrar.put("loan", LOAN)
        kept = _settings(world, topic)
        assert kept["cleanup.policy"] == "compact"
        assert kept["retention.ms"] != expiring["retention.ms"]
        world.record("anna", 2, scenarios=["loan"], registration=tail.catalog["loan"].entry.registration)
        world.flush()
        until(lambda: tail.users_of("loan") == ["anna"])
        assert tail.catalog["loan"].index.get("anna") is not None
    with running(world) as tail:
        assert tail.users_of("loan") == ["anna"]
    for path in (tmp_path / "serve").glob("*"):
        path.unlink()
    with running(world) as tail:  # without a snapshot the topic is read from where it begins now
        assert tail.users_of("loan") == ["anna"]


def _settings(world: World, topic: str) -> dict[str, str]:
    from confluent_kafka.admin import ConfigResource

    admin = world.connection.admin()
    (answer,) = admin.describe_configs([ConfigResource(ConfigResource.Type.TOPIC, topic)]).values()
    return {key: entry.value for key, entry in answer.result(10).items()}


def _an_hour_later(world: World, topic: str) -> None:
    """What the broker does by age, now."""
    admin = world.connection.admin()
    ends = [TopicPartition(topic, partition, -1) for partition in range(2)]
    for answer in admin.delete_records(ends).values():
        answer.result(10)


def test_the_record_of_a_report_is_keyed_as_it_is_voided() -> None:
    assert BackFillRecord("loan@next", 3, 1, "m", 0, 0, True, 1).key == b"loan@next|3"
