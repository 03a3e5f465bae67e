"""`replay` against a broker: every line arrives once, where it belongs."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import TopicPartition

from deploy import brokers, cli
from deploy.settings.config import Settings, load
from stream.kafka.client import Connection
from stream.kafka.partitioner import partition_of

CONFIG = """
[kafka]
partitions = 3
[modalities.click]
topic = "in.click"
[modalities.person]
topic = "in.person"
kind = "tabular"
[store]
data_dir = "state"
"""


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "anchorstream.toml").write_text(CONFIG)
    return load(tmp_path / "anchorstream.toml")


@pytest.fixture
def connection(settings: Settings) -> Iterator[Connection]:
    with brokers.start(settings) as broker:
        yield broker.connection


def read(connection: Connection, topic: str) -> list[Any]:
    """All messages of a topic of three partitions."""
    consumer = connection.consumer("test")
    try:
        tps = [TopicPartition(topic, partition, 0) for partition in range(3)]
        count = sum(consumer.get_watermark_offsets(tp, timeout=5)[1] for tp in tps)
        consumer.assign(tps)
        messages: list[Any] = []
        while len(messages) < count:
            message = consumer.poll(5)
            assert message is not None
            messages.append(message)
        return messages
    finally:
        consumer.close()


def line(n: int, modality: str | None) -> str:
    event = {"event_id": f"e{n}", "user_id": f"u{n % 7}", "ts": 1_700_000_000_000 + n}
    return json.dumps(event if modality is None else {**event, "modality": modality})


def test_lines_arrive_where_they_belong_and_resume_sends_no_line_twice(
    settings: Settings, connection: Connection, capsys: pytest.CaptureFixture[str]
) -> None:
    clicks = [line(n, "click") for n in range(200)]
    persons = [line(n, "person") for n in range(100)]
    odd = ["{not json", line(1, "smell"), line(2, None)]
    Path("a.jsonl").write_text("\n".join([*clicks, *odd]) + "\n")
    Path("b.jsonl").write_text("\n".join(persons))
    words = ["replay", "a.jsonl", "b.jsonl", "--sort", "--json", "--resume", "position.json"]
    for expected in ((303, 0), (0, 303)):
        assert cli.run(words) == 0
        result = json.loads(capsys.readouterr().out)
        assert (result["published"], result["skipped"]) == expected
    click, person = read(connection, "in.click"), read(connection, "in.person")
    assert Counter(m.value().decode() for m in click) == Counter([*clicks, *odd[:2]])
    assert Counter(m.value().decode() for m in person) == Counter(persons)
    for message in person:
        user = json.loads(message.value())["user_id"]
        assert message.key() == user.encode()
        assert message.partition() == partition_of(user, 3)
    letters = read(connection, "anchorstream.dead-letters")
    assert [m.value().decode() for m in letters] == [odd[2]]
    headers = dict(letters[0].headers())
    assert headers["error"] == b"missing_modality"
    assert b"a.jsonl:203" in headers["detail"]
    assert cli.run(["dead-letters", "list", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["counts"] == {"missing_modality": 1}


def test_a_line_that_no_broker_takes_is_named(
    settings: Settings, connection: Connection, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("a.jsonl").write_text("\n".join([line(1, "click"), "x" * 950_000, line(2, "click")]))
    assert cli.run(["replay", "a.jsonl"]) == 1
    printed = capsys.readouterr()
    assert "a.jsonl:2" in printed.err
    assert len(read(connection, "in.click")) == 2
