"""`anchorstream dead-letters` as a person meets it: refused, looked at, mended, replayed."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from deploy import brokers, cli
from deploy.settings.config import load
from stream.dead_letter import dead_letter
from stream.kafka.client import Connection
from stream.rejection import ErrorCode, Rejection

CONFIG = """
[kafka]
partitions = 2
[modalities.pay]
topic = "in.pay"
text = "{shop}"
numbers = ["amount"]
[store]
data_dir = "state"
"""
TOPIC = "anchorstream.dead-letters"


@pytest.fixture
def connection(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Connection]:
    monkeypatch.chdir(tmp_path)
    Path("anchorstream.toml").write_text(CONFIG)
    with brokers.start(load(Path("anchorstream.toml"))) as broker:
        yield broker.connection


def refuse(connection: Connection, amounts: list[object]) -> None:
    producer = connection.producer()
    for n, amount in enumerate(amounts):
        event = {"user_id": "u", "ts": int(time.time() * 1000), "shop": "s", "amount": amount}
        why = Rejection(ErrorCode.INVALID_FIELD, "not a number")
        letter = dead_letter(why, b"u", json.dumps(event).encode(), "in.pay", 0, n)
        producer.produce(TOPIC, letter.value, key=letter.key, headers=letter.headers)
    assert producer.flush(20) == 0


def script(source: str) -> None:
    Path("mend").write_text(f"#!{sys.executable} -S\nimport json, sys\n{source}\n")
    Path("mend").chmod(0o700)


def test_the_whole_cycle(connection: Connection, capsys: pytest.CaptureFixture[str]) -> None:
    def ask(*words: str, code: int = 0) -> Any:
        assert cli.run(["dead-letters", *words, "--json"]) == code
        return json.loads(capsys.readouterr().out)

    refuse(connection, ["1.5", "2.5", "n/a"])
    assert ask("list")["counts"] == {"invalid_field": 3}
    left = ask("replay", code=1)
    assert (left["matched"], left["replayed"], left["left"]) == (3, 0, {"invalid_field": 3})
    assert "amount" in left["first_left"][0]["detail"]
    script("""
for line in sys.stdin:
    event = json.loads(line)["event"]
    if event["amount"] == "n/a":
        print(json.dumps({"skip": True, "reason": "no amount"}))
    else:
        print(json.dumps({"value": {**event, "amount": float(event["amount"])}}))""")
    trial = ask("replay", "--fixed-by", "mend", "--dry-run")
    assert (trial["dry_run"], trial["replayed"], trial["left"]) == (True, 2, {"skipped": 1})
    assert ask("list")["replayed"] == {}
    done = ask("replay", "--fixed-by", "mend")
    assert {**done, "seconds": 0, "dry_run": True} == {**trial, "seconds": 0}
    listed = ask("list", "--oldest")
    assert listed["replayed"] == {"invalid_field": 2}
    assert [letter["replayed"] for letter in listed["letters"]] == [True, True, False]
    assert ask("replay", "--fixed-by", "mend")["already_replayed"] == 2
    assert ask("replay", "--fixed-by", "mend", "--again", "--limit", "1")["replayed"] == 1


def test_for_people(connection: Connection, capsys: pytest.CaptureFixture[str]) -> None:
    refuse(connection, [1, "2"])
    assert cli.run(["dead-letters", "replay"]) == 1
    printed = capsys.readouterr()
    assert "replayed         1" in printed.out
    assert "invalid_field: 'amount'" in printed.err
    assert cli.run(["dead-letters", "list"]) == 0
    assert "yes" in capsys.readouterr().out
    script("sys.stderr.write('amount is missing'); sys.exit(4)")
    assert cli.run(["dead-letters", "replay", "--fixed-by", "mend", "--json"]) == 1
    problem = json.loads(capsys.readouterr().err)
    assert problem["error"] == "script_failed"
    assert "exited with 4" in problem["detail"]
    assert "amount is missing" in problem["detail"]
    assert cli.run(["dead-letters", "replay", "--fixed-by", "absent"]) == 1
    assert "absent" in capsys.readouterr().err
    assert cli.run(["dead-letters", "replay", "--limit", "0"]) == 2
