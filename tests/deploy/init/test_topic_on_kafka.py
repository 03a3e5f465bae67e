"""`init --topic` on real Kafka: of any topic that producers have filled, and without leaving anything on the broker."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import msgpack
import pytest
from confluent_kafka.admin import NewTopic

from deploy import cli
from deploy.brokers.local import LocalKafka
from deploy.settings.config import load
from tests.support.secured_kafka import PASSWORD, SecuredKafka
from tests.support.shapes import visits

pytestmark = pytest.mark.kafka


@pytest.fixture
def ask(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Any:
    monkeypatch.chdir(tmp_path)

    def run(*words: str, code: int = 0) -> Any:
        capsys.readouterr()
        ended = cli.run([*words, "--json"])
        out, err = capsys.readouterr()
        assert ended == code, err + out
        return json.loads(out if code == 0 else err.splitlines()[-1])

    return run


def make(broker: LocalKafka, name: str, partitions: int, **config: str) -> None:
    admin = broker.connection.admin()
    admin.create_topics([NewTopic(name, partitions, 1, config=config)])[name].result(20)


def send(broker: LocalKafka, topic: str, values: list[bytes | None], *, transaction: str = "") -> None:
    config = {"transactional.id": f"{topic}.producer"} if transaction else {}
    producer = broker.connection.producer(**config)
    if transaction:
        producer.init_transactions(20)
        producer.begin_transaction()
    for i, value in enumerate(values):
        producer.produce(topic, value, str(i).encode())
    assert transaction or producer.flush(30) == 0
    if transaction == "commit":
        producer.commit_transaction(20)
    if transaction == "abort":
        producer.flush(20)
        producer.abort_transaction(20)


def rows(count: int = 200) -> list[bytes]:
    return [json.dumps(row).encode() for row in visits(users=12, rows=count)][:count]


@pytest.mark.parametrize("form", ["json", "msgpack", "committed"])
def test_a_topic_that_producers_filled(kafka_broker: LocalKafka, topic_prefix: str, ask: Any, form: str) -> None:
    topic = f"{topic_prefix}-shop.visits"
    make(kafka_broker, topic, 5)
    values = rows()
    if form == "msgpack":
        values = [msgpack.packb(json.loads(value)) for value in values]
    send(kafka_broker, topic, values, transaction="commit" if form == "committed" else "")
    if form == "committed":  # what was taken back is nobody's event
        send(kafka_broker, topic, [b"garbage"] * 40, transaction="abort")
    before = set(kafka_broker.connection.metadata().topics)
    found = ask("init", "--topic", topic, "--bootstrap", kafka_broker.connection.bootstrap)
    assert found["trial"]["rows"] == len(values)
    assert found["trial"]["accepted"]
    assert not found["trial"]["refused"]
    settings = load(Path("anchorstream.toml"))
    assert settings.kafka.bootstrap_servers == kafka_broker.connection.bootstrap
    assert {modality.topic for modality in settings.modalities.values()} == {topic}
    assert set(kafka_broker.connection.metadata().topics) - before <= {"__consumer_offsets"}
    groups = kafka_broker.connection.admin().list_groups(timeout=20)
    assert "anchorstream.doctor" not in {group.id for group in groups}


def test_only_the_newest_are_read_and_what_is_none_is_told(
    kafka_broker: LocalKafka, topic_prefix: str, ask: Any
) -> None:
    topic = f"{topic_prefix}-mixed"
    make(kafka_broker, topic, 1)
    good = rows(300)
    send(kafka_broker, topic, [*good, None, b"not json", gzip.compress(b"x"), None])
    server = ("--bootstrap", kafka_broker.connection.bootstrap)
    found = ask("init", "--topic", topic, *server, "--rows", "100")
    assert found["trial"]["rows"] == 98
    assert sum(found["trial"]["accepted"].values()) == 96
    assert sum(of["rows"] for of in found["trial"]["refused"].values()) == 2
    assert "skip_without_value" in found["toml"]


def test_what_is_not_there_or_empty_or_gone(kafka_broker: LocalKafka, topic_prefix: str, ask: Any) -> None:
    server = ("--bootstrap", kafka_broker.connection.bootstrap)
    topic = f"{topic_prefix}-empty"
    make(kafka_broker, topic, 3)
    assert "holds no messages" in ask("init", "--topic", topic, *server, code=1)["detail"]
    absent = ask("init", "--topic", f"{topic_prefix}-absent", *server, code=1)
    assert absent["error"] == "not_found"
    assert f"{topic_prefix}-absent" not in kafka_broker.connection.metadata().topics
    away = ask("init", "--topic", "x", "--bootstrap", "127.0.0.1:9", code=1)
    assert away["error"] == "broker_unreachable"
    assert not Path("anchorstream.toml").exists()


def test_properties_of_the_file_at_hand_are_used_and_not_written(
    secured_kafka: SecuredKafka, topic_prefix: str, ask: Any
) -> None:
    connection, guarded = secured_kafka.connection, secured_kafka.secured
    topic = f"{topic_prefix}-guarded"
    admin = connection.admin()
    admin.create_topics([NewTopic(topic, 1, 1)])[topic].result(20)
    producer = connection.producer()
    for value in rows(50):
        producer.produce(topic, value)
    assert producer.flush(30) == 0
    lines = "".join(f'"{key}" = {json.dumps(value)}\n' for key, value in guarded.properties.items())
    Path("old.toml").write_text(f'[kafka]\nbootstrap_servers = "{guarded.bootstrap}"\n[kafka.properties]\n{lines}')
    found = ask("init", "--topic", topic, "--config", "old.toml")
    assert sum(found["trial"]["accepted"].values()) == 50
    assert load(Path("anchorstream.toml")).kafka.bootstrap_servers == guarded.bootstrap
    assert PASSWORD not in Path("anchorstream.toml").read_text()
    assert any("kafka.properties" in text for text in found["unsure"])
