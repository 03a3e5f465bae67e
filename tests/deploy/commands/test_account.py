"""`anchorstream account` as a person meets it, without any role: what the broker tells."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import TopicPartition

from deploy import brokers, cli
from deploy.settings.config import load
from store.account.account import Account, SourceAccount
from store.window.layout import Schema, marker
from stream.dead_letter import NO_PARTITION, dead_letter
from stream.ingest.in_flight import RawPosition
from stream.kafka.client import Connection
from stream.raw_counts import RawCounts
from stream.rejection import ErrorCode, Rejection
from stream.token_log.ownership import MARKER_KEY

CONFIG = """
[kafka]
partitions = 2
[modalities.pay]
topic = "in.pay"
text = "{shop}"
[store]
data_dir = "state"
"""
SINCE = 1_790_000_000_000


@pytest.fixture
def connection(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Connection]:
    monkeypatch.chdir(tmp_path)
    Path("anchorstream.toml").write_text(CONFIG)
    with brokers.start(load(Path("anchorstream.toml"))) as broker:
        yield broker.connection


def produce(connection: Connection, topic: str, partition: int, *values: bytes, key: bytes | None = None) -> None:
    producer = connection.producer()
    for value in values:
        producer.produce(topic, value, key, partition)
    assert producer.flush(20) == 0


def commit(connection: Connection, group: str, topic: str, partition: int, offset: int, metadata: str) -> None:
    with closing(connection.consumer(f"anchorstream.{group}")) as consumer:
        consumer.commit(offsets=[TopicPartition(topic, partition, offset, metadata=metadata)], asynchronous=False)


def counted(connection: Connection, accepted: int = 5) -> None:
    """As ingest and a processor leave it: of ten messages five were accepted, of these four processed."""
    produce(connection, "in.pay", 0, *[b"{}"] * 10)
    counts = RawCounts(SINCE, 0, {"pay": accepted}, {"invalid_json": 2, "no_content": 1}, {"where": 1})
    commit(connection, "ingest", "in.pay", 0, 9, RawPosition(9, counts=counts).metadata())
    produce(connection, "anchorstream.events", 1, b"pack")
    produce(connection, "anchorstream.tokens", 1, b"row", b"row", key=b"\x00\x01a")
    account = Account({"in.pay:0": SourceAccount(SINCE, 8, {"pay": {"applied": 3, "duplicate": 1}})})
    produce(connection, "anchorstream.tokens", 1, marker(Schema("e", 4, {}), account), key=MARKER_KEY)
    produce(connection, "anchorstream.tokens", 1, b"row", b"row", key=b"\x00\x01a")
    # the offset of a marker that has been compacted away: the next one counts
    commit(connection, "account", "anchorstream.tokens", 1, 1, "events=0,users=3")


def test_for_machines(connection: Connection, capsys: pytest.CaptureFixture[str]) -> None:
    def ask() -> Any:
        assert cli.run(["account", "--json"]) == 0
        return json.loads(capsys.readouterr().out)

    assert ask()["totals"]["published"] == 0, "before anything was"
    counted(connection)
    body = ask()
    assert body["lines"] == [
        "published 10 = 5 accepted + 3 refused + 1 skipped + 1 not yet read",
        "accepted 5 = 3 new + 1 duplicates + 1 not yet processed",
    ]
    assert (body["adds_up"], body["settled"], body["users"]) == (True, False, 3)
    assert body["refused"] == {"invalid_json": 2, "no_content": 1}
    # what replay has no topic for lies among the dead letters only
    refusals = (("in.pay", 0, 3), ("in.pay", NO_PARTITION, 7), ("in.pay", NO_PARTITION, 7))
    producer = connection.producer()
    for source in refusals:
        letter = dead_letter(Rejection(ErrorCode.MISSING_MODALITY, ""), None, b"{}", *source)
        producer.produce("anchorstream.dead-letters", letter.value, letter.key, headers=letter.headers)
    assert producer.flush(20) == 0
    body = ask()
    assert body["lines"][0] == "published 12 = 5 accepted + 5 refused + 1 skipped + 1 not yet read"
    assert body["refused"] == {"invalid_json": 2, "no_content": 1, "missing_modality": 2}
    assert cli.run(["lag", "--json"]) in (0, 1)
    assert json.loads(capsys.readouterr().out)["refused"] == 3


def test_for_people(connection: Connection, capsys: pytest.CaptureFixture[str]) -> None:
    counted(connection)
    assert cli.run(["account"]) == 0
    out = capsys.readouterr().out
    assert "in.pay, refused: invalid_json 2, no_content 1" in out
    assert "in.pay, skipped: where 1" in out
    assert "published 10 = 5 accepted + 3 refused + 1 skipped + 1 not yet read\n" in out
    assert "2026-09-21 14:13:20" in out
    cli.run(["lag"])
    assert "refused by ingest  3 (see `anchorstream account`)" in capsys.readouterr().out


def test_what_does_not_add_up_is_said(connection: Connection, capsys: pytest.CaptureFixture[str]) -> None:
    counted(connection, accepted=9)
    assert cli.run(["account"]) == 1
    assert "does NOT add up" in capsys.readouterr().out


def test_a_prefix_that_is_not_there_is_said(
    connection: Connection, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Misspelt, or another system's: zeros looked like a young system."""
    counted(connection)
    monkeypatch.setenv("ANCHORSTREAM_KAFKA__TOPIC_PREFIX", "anchorsteam")
    assert cli.run(["account"]) == 1
    said = capsys.readouterr()
    for name in ("events", "tokens", "dead-letters"):
        assert f"anchorsteam.{name}" in said.err
    assert "kafka.topic_prefix = 'anchorsteam'" in said.err
