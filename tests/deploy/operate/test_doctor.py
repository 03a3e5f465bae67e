"""The doctor: every fault is found, says what to do, and holds up nothing."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
from confluent_kafka import (
    TIMESTAMP_CREATE_TIME,
    TIMESTAMP_LOG_APPEND_TIME,
    TIMESTAMP_NOT_AVAILABLE,
    TopicPartition,
)
from confluent_kafka.admin import AlterConfigOpType, ConfigEntry, ConfigResource

from deploy import brokers
from deploy.brokers.local import LocalKafka
from deploy.brokers.process import EmbeddedBroker
from deploy.brokers.state import claim_state
from deploy.checks import broker, events, files, machine, model, scenarios, state, time_stamps
from deploy.checks.events import judged
from deploy.checks.finding import Finding, Level
from deploy.checks.time_stamps import Kind, kind_of
from deploy.checks.time_stamps import judged as judged_stamps
from deploy.kafka import topics
from deploy.lock import DataDirLock
from deploy.operate.doctor import bounded, diagnose
from deploy.settings.config import Settings, load
from encoder.model.text_encoder import identity
from store.base.errors import AnchorstreamError, ConfigError, WeightsError
from store.records.back_fill import BackFillRecord
from store.records.scenario import asked
from store.window.layout import Schema
from stream.topics import Topics, TopicSpec
from tests.models.events import open_buffer, resources
from tests.support.raw_message import RawMessage

SHARED = resources()


def settings_in(path: Path, **sections: Mapping[str, object]) -> Settings:
    store = {"data_dir": str(path), **sections.pop("store", {})}
    return load(None, overrides={"store": store, **sections})


@pytest.fixture
def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


@pytest.mark.slow
def test_a_sound_machine_has_no_failure(tmp_path: Path, free_port: int) -> None:
    found = list(diagnose(lambda: settings_in(tmp_path / "new", serve={"port": free_port})))
    assert [f.name for f in found] == [
        "python", "packages", "config", "data directory", "open files", "in force", "broker parts", "broker", "topics",
        "state", "scenarios", "events", "time stamps", "port", "device", "text encoder", "model",
    ]  # fmt: skip
    assert not [f for f in found if f.level is Level.FAIL]
    assert not (tmp_path / "new").exists()  # looking changes nothing
    assert found[-1].level is Level.OK
    assert "checkpoint tiny" in found[-1].detail
    untrained = model.check_model(settings_in(tmp_path / "new", model={"checkpoint": "none"}))
    assert untrained.level is Level.WARN
    assert "untrained" in untrained.detail


def test_a_wrong_configuration_is_a_finding() -> None:
    def broken() -> Settings:
        raise ConfigError("serve.port: wrong", action="mend it")

    found = list(diagnose(broken))
    assert found[-1] == Finding("config", Level.FAIL, "serve.port: wrong", "mend it")
    assert len(found) == 3


def test_a_check_that_hangs_or_breaks_is_a_finding_in_time() -> None:
    begun = time.monotonic()
    hung = bounded("disk", lambda: threading.Event().wait(30) and None, 0.1)  # type: ignore[arg-type, return-value]
    assert (hung.level, hung.name) == (Level.FAIL, "disk")
    assert time.monotonic() - begun < 25

    def faulty() -> Finding:
        raise ZeroDivisionError("surprise")

    assert "ZeroDivisionError: surprise" in bounded("x", faulty, 5).detail

    def expected() -> Finding:
        raise WeightsError("no weights", action="install them")

    assert bounded("x", expected, 5) == Finding("x", Level.FAIL, "no weights", "install them")


def test_state_of_instances_that_run_one_by_one_is_seen(tmp_path: Path) -> None:
    """E15: "none yet" beside gigabytes of state."""
    settings = settings_in(tmp_path)
    assert state.check_state(settings).detail == "none yet"
    (tmp_path / "processor" / "east-1").mkdir(parents=True)
    (tmp_path / "worker" / "w7").mkdir(parents=True)
    assert state.check_state(settings).detail == "processor/east-1, worker/w7: each knows its broker"


def test_a_running_system_is_seen(tmp_path: Path) -> None:
    settings = settings_in(tmp_path)
    assert "up` starts it" in broker.check_broker(settings).detail
    with DataDirLock.acquire(tmp_path), brokers.start(settings) as running:
        found = broker.check_broker(settings)
        assert found.level is Level.OK
        assert running.connection.identity in found.detail
        assert broker.check_topics(settings).level is Level.OK
        topics.ensure(running.connection, brokers.specs(settings))
        claim_state(tmp_path, running.connection)
        assert state.check_state(settings).level is Level.OK
        assert "in use by pid" in files.check_data_dir(settings).detail
        more = settings_in(tmp_path, kafka={"partitions": 7})
        wrong = broker.check_topics(more)
        assert wrong.level is Level.FAIL
        assert "kafka.partitions is 7" in wrong.detail
        too_many = broker.check_broker(settings_in(tmp_path, kafka={"replication_factor": 3}))
        assert too_many.level is Level.FAIL
        other = tmp_path / "run" / "state-identity"
        other.write_text('{"identity": "embedded:gone"}')
        assert state.check_state(settings).level is Level.WARN
        other.write_text('{"identity": "kafka:other"}')
        assert state.check_state(settings).level is Level.FAIL
    # after a kill -9 there is a broker.json, and nobody behind it
    (tmp_path / "run" / "broker.json").write_text('{"kind": "embedded", "pid": 1, "bootstrap": "x", "identity": "y"}')
    begun = time.monotonic()
    assert broker.check_broker(settings).level is Level.OK
    assert time.monotonic() - begun < 8


def test_an_unreachable_broker_is_told_within_seconds(tmp_path: Path) -> None:
    settings = settings_in(tmp_path, kafka={"bootstrap_servers": "127.0.0.1:9"})
    begun = time.monotonic()
    found = bounded("broker", lambda: broker.check_broker(settings), 30)
    assert found.level is Level.FAIL
    assert "kafka.bootstrap_servers" in found.action
    assert time.monotonic() - begun < 30


def test_a_port_in_use(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        settings = settings_in(tmp_path, serve={"port": taken.getsockname()[1]})
        found = files.check_port(settings)
        assert found.level is Level.FAIL
        assert "serve.port" in found.action
        with DataDirLock.acquire(tmp_path):
            (tmp_path / "run" / "serve.json").write_text('{"url": "http://here", "pid": 1}')
            assert files.check_port(settings) == Finding("port", Level.OK, "serve answers at http://here")
    assert files.check_port(settings_in(tmp_path, serve={"port": 0})).level is Level.OK
    assert files.check_port(settings_in(tmp_path, serve={"host": "no.such.host.invalid"})).level is Level.FAIL


def test_an_unusable_data_directory(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    found = bounded("data directory", lambda: files.check_data_dir(settings_in(tmp_path / "file" / "x")), 5)
    assert found.level is Level.FAIL
    assert "store.data_dir" in found.action


def test_an_open_door_is_named(tmp_path: Path) -> None:
    found = bounded("config", lambda: files.check_config(settings_in(tmp_path, serve={"host": "0.0.0.0"})), 5)
    assert (found.level, "serve.read_token" in found.action) == (Level.FAIL, True)
    for half in ({"insecure": True}, {"read_token": "r"}):
        half_open = settings_in(tmp_path, serve={"host": "0.0.0.0", **half})
        assert files.check_config(half_open).level is Level.WARN
    guarded = {"host": "0.0.0.0", "read_token": "r", "admin_token": "a"}
    assert files.check_config(settings_in(tmp_path, serve=guarded)).level is Level.OK


def test_a_missing_device_and_missing_weights(tmp_path: Path) -> None:
    found = machine.check_device(settings_in(tmp_path, model={"device": "cuda:99"}))
    assert found.level is Level.FAIL
    with pytest.raises(AnchorstreamError) as caught:
        model.check_model(settings_in(tmp_path, model={"preset": "qwen2.5-0.5b"}))
    assert "model.path" in caught.value.action
    with pytest.raises(AnchorstreamError):
        model.check_model(settings_in(tmp_path, model={"checkpoint": str(tmp_path)}))


def test_findings_are_json() -> None:
    assert Finding("a", Level.WARN, "b").to_dict() == {"name": "a", "level": "warn", "detail": "b", "action": ""}


BILL = {"bill": {"topic": "bill", "text": "{merchant} by {channel}", "numbers": ["amount"]}}


def last_events(tmp_path: Path, *events: dict[str, object]) -> Finding:
    now = int(time.time() * 1000)
    messages = [
        RawMessage("bill", 0, i, json.dumps({"user_id": "u", "ts": now, **e}).encode()) for i, e in enumerate(events)
    ]
    return judged(settings_in(tmp_path, modalities=BILL), messages, now)


def test_a_field_that_nobody_sends_is_found(tmp_path: Path) -> None:
    """A1."""
    found = last_events(tmp_path, *[{"merchant": "m", "chan": "c", "amount": i} for i in range(6)])
    assert found.level is Level.WARN
    expected = (
        "of the last 6, 6 are accepted; bill: none of 6 has channel; they have user_id, ts, merchant, chan, amount"
    )
    assert found.detail == expected


def test_events_that_are_refused_are_found(tmp_path: Path) -> None:
    found = last_events(tmp_path, {"Merchant": "m"}, {"merchant": "m", "ts": 1_763_719_200})
    assert found.level is Level.WARN
    assert "1 no_content (none of merchant, channel, amount; it has user_id, ts, Merchant)" in found.detail
    assert "looks like seconds" in last_events(tmp_path, {"merchant": "m", "ts": 1_763_719_200}).detail


def test_events_that_are_accepted_are_no_fault(tmp_path: Path) -> None:
    assert last_events(tmp_path) == Finding("events", Level.OK, "none yet")
    good = {"merchant": "m", "channel": "c", "amount": 3}
    assert last_events(tmp_path, *[good] * 6, {"amount": 1}, {"x": 1}).level is Level.OK


NOW = 1_790_000_000_000
CREATED, APPENDED, ABSENT = TIMESTAMP_CREATE_TIME, TIMESTAMP_LOG_APPEND_TIME, TIMESTAMP_NOT_AVAILABLE


@pytest.mark.parametrize(
    ("stamp", "kind", "said"),
    [
        ((CREATED, NOW), Kind.GOOD, None),
        ((CREATED, NOW + 30_000), Kind.GOOD, None),
        ((CREATED, NOW - 29 * 86_400_000), Kind.GOOD, None),
        ((CREATED, 1_500_000_000_000), Kind.OLD, "bill: 3 of the last 4 are of 2017-07-14 02:40: the event's own time"),
        ((CREATED, NOW + 86_400_000), Kind.AHEAD, "ahead of now: 2026-09-22"),
        ((CREATED, NOW // 1000), Kind.SECONDS, "have 1790000000, which looks like seconds"),
        ((CREATED, 0), Kind.SECONDS, "have 0, which"),
        ((CREATED, NOW * 1000), Kind.AHEAD, str(NOW * 1000)),
        ((CREATED, -1), Kind.ABSENT, "have no time stamp (-1)"),
        ((ABSENT, 0), Kind.ABSENT, "have no time stamp (-1)"),
        ((ABSENT, -1), Kind.ABSENT, "3 of the last 4 have no time stamp (-1)"),
    ],
)
def test_time_stamps_that_cannot_be_the_time_of_producing(stamp: tuple[int, int], kind: Kind, said: str | None) -> None:
    """B17."""
    assert kind_of(stamp, NOW) is kind

    class Stamped(RawMessage):
        def timestamp(self) -> tuple[int, int]:
            return stamp if self.at else (CREATED, NOW)

    found = judged_stamps([Stamped("bill", 0, i, b"{}") for i in range(4)], NOW)
    assert (found.level is Level.WARN) is (said is not None)
    assert said is None or said in found.detail
    assert bool(found.action) is (said is not None)


def test_the_brokers_time_stamps_are_no_fault_and_are_named() -> None:
    class Appended(RawMessage):
        def timestamp(self) -> tuple[int, int]:
            return APPENDED, 1_500_000_000_000

    found = judged_stamps([Appended("bill", 0, 1, b"{}"), RawMessage("other", 0, 1, b"{}", NOW)], NOW)
    assert found.level is Level.OK
    assert "of the last 2, all may be the time of producing; bill: 1 of the last 1 are the broker's" in found.detail
    assert "other" not in found.detail
    assert judged_stamps([], NOW) == Finding("time stamps", Level.OK, "none yet")


@pytest.mark.kafka
def test_time_stamps_on_a_broker(kafka_broker: LocalKafka, topic_prefix: str, tmp_path: Path) -> None:
    """B17: the event's own time of 2017, none at all, and LogAppendTime, which the broker writes over both."""
    connection = kafka_broker.connection
    names = [f"{topic_prefix}-{kind}" for kind in ("own", "now", "appended")]
    topics.ensure(connection, [TopicSpec(name, 1, ours=False) for name in names])
    resource = ConfigResource(ConfigResource.Type.TOPIC, names[2])
    resource.add_incremental_config(
        ConfigEntry("message.timestamp.type", "LogAppendTime", incremental_operation=AlterConfigOpType.SET)
    )
    admin = connection.admin()
    admin.incremental_alter_configs([resource])[resource].result(30)
    producer = connection.producer()
    for name, stamp in zip(names, (1_500_000_000_000, 0, 1_500_000_000_000), strict=True):
        producer.produce(name, b"{}", timestamp=stamp)
    assert producer.flush(30) == 0
    kafka = {"bootstrap_servers": connection.bootstrap}
    modalities = {f"m{i}": {"topic": name} for i, name in enumerate(names)}
    found = time_stamps.check_time_stamps(settings_in(tmp_path, modalities=modalities, kafka=kafka))
    assert found.level is Level.WARN
    assert found.detail.startswith(f"{names[0]}: 1 of the last 1 are of 2017-07-14 02:40")
    assert names[1] not in found.detail
    good = {name: of for name, of in modalities.items() if name != "m0"}
    found = time_stamps.check_time_stamps(settings_in(tmp_path, modalities=good, kafka=kafka))
    assert found.level is Level.OK
    assert f"{names[2]}: 1 of the last 1 are the broker's" in found.detail


@pytest.mark.slow
def test_the_last_raw_events_are_read(
    start_embedded: Callable[[dict[str, int]], EmbeddedBroker], tmp_path: Path
) -> None:
    connection = start_embedded({"bill": 2, "other": 1}).connection
    producer = connection.producer()
    for i in range(100):
        value = {"user_id": "u", "ts": int(time.time() * 1000), "merchant" if i >= 30 else "old": "m"}
        producer.produce("bill", json.dumps(value).encode(), partition=0 if i < 80 else 1)
    assert producer.flush(20) == 0
    kafka = {"bootstrap_servers": connection.bootstrap}
    found = events.check_events(settings_in(tmp_path, modalities=BILL, kafka=kafka))
    assert found.detail.startswith("of the last 70, 70 are accepted; bill: none of 70 has channel, amount")


@pytest.mark.kafka
def test_a_worker_that_computes_another_query_is_found(
    kafka_broker: LocalKafka, topic_prefix: str, tmp_path: Path
) -> None:
    connection = kafka_broker.connection
    kafka = {"bootstrap_servers": connection.bootstrap, "topic_prefix": topic_prefix, "partitions": 2}
    settings = settings_in(tmp_path, kafka=kafka)
    assert scenarios.check_scenarios(settings).level is Level.OK
    names = Topics(settings.kafka)
    topics.ensure(connection, names.specs({}, ()))
    (first, of), (second, _) = list(settings.scenarios.items())[:2]
    old = asked(of.model_copy(update={"query": "What was asked before?"}))
    producer = connection.producer()
    for name, partition, what in ((first, 0, asked(of)), (first, 1, old), (second, 0, ""), ("gone", 0, old)):
        record = BackFillRecord(name, partition, 0, "m", 1, 1, True, 1, asked=what)
        producer.produce(names.back_fills, record.pack(), record.key, 0)
    producer.produce(names.back_fills, b"garbage", b"x|1", 0)
    assert producer.flush(20) == 0
    found = scenarios.check_scenarios(settings)
    assert found.level is Level.FAIL
    assert found.detail.startswith(f"{first}: the workers of partitions 1 compute another query")
    assert second not in found.detail


def _of_another_encoder(tmp_path: Path, role: str, settings: Settings, **changes: object) -> bytes:
    """A buffer of partition 1; what its owner would write into the log."""
    made = {"modalities": settings.modalities, "encoder_id": "old", "dim": 7, "identity": "kafka:x", **changes}
    path = tmp_path / role / "0" / "1"
    path.parent.mkdir(parents=True)
    buffer = open_buffer(path, SHARED, replica=role == "worker", **made)
    marker = buffer.schema.pack()
    buffer.apply_log([], next_offset=1, marker=marker)
    buffer.close()
    return marker


@pytest.mark.parametrize("role", ["processor", "worker"])
def test_state_of_another_text_encoder_is_found_and_nothing_else_is_to_be_removed(tmp_path: Path, role: str) -> None:
    """All was well; and a role's message said to remove the data directory, which has a local broker's log."""
    settings = settings_in(tmp_path)
    _of_another_encoder(tmp_path, role, settings)
    found = state.check_state(settings)
    assert found.level is Level.FAIL
    assert f"{tmp_path}/{role}/0/1 holds vectors of the text encoder 'old' (7 values)" in found.detail
    assert "remove the folders processor, worker and serve" in found.action
    assert "kafka and kept are the source of everything" in found.action
    encoder_id, dim = identity()
    for changes, why in (
        ({"encoder_id": encoder_id, "dim": dim}, "text encoder|was written with encoder"),
        ({"identity": "kafka:y"}, "was written with identity"),
    ):
        with pytest.raises(AnchorstreamError, match=why) as caught:
            open_buffer(
                tmp_path / role / "0" / "1",
                SHARED,
                replica=role == "worker",
                **{"modalities": settings.modalities, "encoder_id": "old", "dim": 7, "identity": "kafka:x", **changes},
            )
        assert "data directory" not in caught.value.action
        assert "nothing else there" in caught.value.action or f"remove {tmp_path}/{role}/0," in caught.value.action


def test_a_modality_of_another_kind_is_found(tmp_path: Path) -> None:
    settings = settings_in(tmp_path)
    encoder_id, dim = identity()
    name, modality = next(iter(settings.modalities.items()))
    other = settings.model_copy(
        update={"modalities": {**settings.modalities, name: modality.model_copy(update={"numbers": ("x",)})}}
    )
    _of_another_encoder(tmp_path, "processor", other, encoder_id=encoder_id, dim=dim, modalities=other.modalities)
    found = state.check_state(settings)
    assert found.level is Level.FAIL
    assert f"modalities.{name} with numbers" in found.detail


@pytest.mark.kafka
def test_a_log_of_another_text_encoder_is_found_without_any_state(
    kafka_broker: LocalKafka, topic_prefix: str, tmp_path: Path
) -> None:
    connection = kafka_broker.connection
    kafka = {"bootstrap_servers": connection.bootstrap, "topic_prefix": topic_prefix, "partitions": 2}
    settings = settings_in(tmp_path, kafka=kafka)
    names = Topics(settings.kafka)
    topics.ensure(connection, names.specs({}, ()))
    assert state.check_state(settings).level is Level.OK
    marker = Schema("old", 7, {}).pack()
    producer = connection.producer()
    producer.produce(names.tokens, b"row", b"k", 1)
    producer.produce(names.tokens, marker, b"m", 1)
    assert producer.flush(20) == 0
    consumer = connection.consumer(names.group_account)
    consumer.commit(offsets=[TopicPartition(names.tokens, 1, 1)], asynchronous=False)
    consumer.close()
    found = state.check_state(settings)
    assert found.level is Level.FAIL
    assert f"the log {names.tokens} holds vectors of the text encoder 'old'" in found.detail
