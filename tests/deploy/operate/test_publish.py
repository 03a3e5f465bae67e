"""`replay` against a broker: every line arrives once, where it belongs."""

from __future__ import annotations

import bz2
import csv
import gzip
import io
import json
import signal
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from confluent_kafka import TopicPartition

from deploy import brokers, cli, output
from deploy.brokers.local import LocalKafka
from deploy.settings.config import Settings, load
from store.base import logs
from stream.ingest.ingest import Ingest
from stream.kafka.client import Connection
from stream.kafka.partitioner import partition_of
from stream.topics import Topics

CONFIG = """
[kafka]
partitions = 3
[ingest]
clock = "stream"
[modalities.click]
topic = "in.click"
text = "{page}"
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
    event = {"event_id": f"e{n}", "user_id": f"u{n % 7}", "ts": 1_700_000_000_000 + n, "page": f"p{n % 5}"}
    return json.dumps(event if modality is None else {**event, "modality": modality})


def test_lines_arrive_where_they_belong_and_resume_sends_no_line_twice(
    settings: Settings, connection: Connection, capsys: pytest.CaptureFixture[str]
) -> None:
    clicks = [line(n, "click") for n in range(200)]
    persons = [line(n, "person") for n in range(100)]
    odd = ["{not json", line(1, "smell"), line(2, None)]
    Path("a.jsonl").write_text("\n".join([*clicks, *odd]) + "\n")
    Path("b.jsonl").write_text("\n".join(persons))
    words = ["replay", "a.jsonl", "b.jsonl", "--sort", "--json", "--no-wait", "--resume", "position.json"]
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
    assert cli.run(["replay", "a.jsonl", "--no-wait"]) == 1
    printed = capsys.readouterr()
    assert "a.jsonl:2" in printed.err
    assert len(read(connection, "in.click")) == 2


@contextmanager
def ingesting(settings: Settings, connection: Connection) -> Iterator[None]:
    """Ingest in a thread; what it raises is raised here."""
    logs.configure("cli", level="ERROR")  # standard output is the command's
    ready, stop = threading.Event(), threading.Event()
    topics = Topics(settings.kafka)
    ingest = Ingest(
        connection, topics, settings.modalities, settings.ingest, mapping=settings.mapping, on_ready=ready.set
    )
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(ingest.run, stop)
        try:
            assert ready.wait(120)
            yield
        finally:
            stop.set()
            running.result(120)


def end(connection: Connection, topic: str) -> int:
    return len(read(connection, topic))


def result(capsys: pytest.CaptureFixture[str], *words: str, code: int = 0) -> Any:
    assert cli.run(["replay", *words, "--json"]) == code
    return json.loads(capsys.readouterr().out)


@pytest.fixture
def mapped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """Another's table: seconds, ids that are numbers, texts."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "anchorstream.toml").write_text(
        CONFIG
        + """
[modalities.visit]
topic = "visits"
text = "{store} {reason}"
numbers = ["minutes"]
[mapping.visits]
user_id = "customer_no"
user_id_integers = true
ts = "visited_at"
ts_unit = "s"
event_id = ["customer_no", "visited_at"]
numbers_from_text = true
where = [{ field = "reason", present = true }]
skip_without_user = true
empty_is_absent = true
"""
    )
    return load(tmp_path / "anchorstream.toml")


def visits(count: int) -> list[dict[str, Any]]:
    """Of 7 customers; every 10th is of nobody, every 25th has a number that is none."""
    return [
        {
            "customer_no": "" if n % 10 == 0 else str(1000 + n % 7),
            "visited_at": str(1_700_000_000 + n * 60),
            "store": "north; east",
            "reason": 'to "buy"',
            "minutes": "x" if n % 25 == 1 else f"{n % 60}.5",
        }
        for n in range(count)
    ]


def write_visits(path: Path, rows: list[dict[str, Any]]) -> None:
    text = io.StringIO()
    writer = csv.DictWriter(text, rows[0].keys(), delimiter=";")
    writer.writeheader()
    writer.writerows(rows)
    path.write_bytes(bz2.compress(text.getvalue().encode()) if path.suffix == ".bz2" else text.getvalue().encode())


def test_a_table_of_ones_own_becomes_events_by_toml_only(mapped: Settings, capsys: pytest.CaptureFixture[str]) -> None:
    """CSV and Parquet through mapping, preflight and ingest: it adds up, in the sample and at the end."""
    rows = visits(1200)
    write_visits(Path("a.csv.bz2"), rows[600:])
    numbers = [{**row, "customer_no": int(row["customer_no"] or 0) or None} for row in rows[:600]]
    pq.write_table(pa.Table.from_pylist(numbers), "b.parquet")
    words = ["a.csv.bz2", "b.parquet", "--delimiter", ";", "--topic", "visits", "--sort"]
    whole = result(capsys, *words, "--dry-run")
    assert whole["published"] == 0
    with brokers.start(mapped) as broker, ingesting(mapped, broker.connection):
        done = result(capsys, *words)
        assert end(broker.connection, "visits") == done["published"] == 1200
    skipped, refused = {"without_user": 120}, {"invalid_field": 48}
    assert done["ingest"] == {
        "accepted": 1200 - 120 - 48,
        "refused": refused,
        "skipped": skipped,
        "waiting": 0,
        "others": 0,
        "letters_gone": 0,
    }
    files = whole["sample"]["files"]
    assert sum(of["accepted"]["visit"] for of in files) == done["ingest"]["accepted"]
    assert sum(of["skipped"]["without_user"] for of in files) == 120
    assert sum(of["refused"]["invalid_field"]["rows"] for of in files) == 48
    assert [of["rows"] for of in done["sample"]["files"]] == [600, 600]
    (fields,) = done["sample"]["fields"]
    assert fields["expected"]["minutes"] == fields["rows"] == 1200


NUMBERS = "".join(
    json.dumps({"user_id": n, "ts": 1_700_000_000_000 + n, "modality": "click", "page": "p"}) + "\n" for n in range(500)
)


@pytest.mark.parametrize(
    ("name", "content", "words", "says"),
    [
        ("numbers.jsonl", NUMBERS.encode(), [], "invalid_user_id: 0 is not a string"),
        ("table.csv", b"user,at\n" + b"u1,1700000000\n" * 50, ["--topic", "in.click"], "missing_user_id"),
        ("table.jsonl", b"user,at,page\n" + b"u1,1700000000,p\n" * 50, [], "foreign_format: CSV"),
        ("old.jsonl", (line(1, "click") + "\n").encode(), ["--wall"], 'ingest.clock = "stream"'),
    ],
)
def test_a_file_of_which_nothing_would_be_accepted_is_not_sent(
    settings: Settings, connection: Connection, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch,
    name: str, content: bytes, words: list[str], says: str,
) -> None:  # fmt: skip
    """B4, D5: all of these ended with exit 0 and no word."""
    Path(name).write_bytes(content)
    if words == ["--wall"]:
        monkeypatch.setenv("ANCHORSTREAM_INGEST__CLOCK", "wall")
        words = []
    assert cli.run(["replay", name, *words]) == 1
    printed = capsys.readouterr()
    assert "nothing_accepted" in printed.err
    assert says in printed.err
    assert "--force" in printed.err
    assert f"{name}:" in printed.out  # an example's place
    assert end(connection, "in.click") == 0
    dry = result(capsys, name, *words, "--dry-run", code=1)
    assert dry["sample"]["files"][0]["accepted"] == {}
    assert dry["published"] == 0


def test_forced_nonsense_ends_with_1_and_its_codes(
    settings: Settings, connection: Connection, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("numbers.jsonl").write_text(NUMBERS)
    with ingesting(settings, connection):
        done = result(capsys, "numbers.jsonl", "--force", code=1)
        assert done["ingest"]["refused"] == {"invalid_user_id": 500}
        assert done["ingest"]["accepted"] == 0
        good = "".join(line(n, "click") + "\n" for n in range(40))
        Path("good.jsonl").write_text(good + line(40, None) + "\n")
        done = result(capsys, "good.jsonl")  # only what is of this replay is counted
        assert (done["ingest"]["accepted"], done["ingest"]["refused"]) == (40, {"missing_modality": 1})


@pytest.mark.parametrize(("name", "says"), [("a.xlsx", ".parquet"), ("a.json", "--format")])
def test_an_unknown_suffix_is_refused_with_what_is_supported(
    settings: Settings, connection: Connection, capsys: pytest.CaptureFixture[str], name: str, says: str
) -> None:
    Path(name).write_text(line(1, "click") + "\n")
    assert cli.run(["replay", name]) == 2
    assert says in capsys.readouterr().err
    assert cli.run(["replay", name, "--format", "jsonl", "--no-wait"]) == 0
    assert end(connection, "in.click") == 1


def test_a_damaged_file_is_not_sent(
    settings: Settings, connection: Connection, capsys: pytest.CaptureFixture[str]
) -> None:
    """B6: one flipped byte was a traceback, or garbage sent before it."""
    Path("good.jsonl").write_text(line(1, "click") + "\n")
    data = bytearray(gzip.compress("".join(line(n, "click") + "\n" for n in range(5000)).encode()))
    data[len(data) // 2] ^= 4
    Path("bad.jsonl.gz").write_bytes(data)
    assert cli.run(["replay", "good.jsonl", "bad.jsonl.gz"]) == 1
    error = capsys.readouterr().err
    assert "file_unreadable" in error
    assert "bad.jsonl.gz" in error
    assert "byte" in error
    assert end(connection, "in.click") == 0


def test_a_resume_file_of_an_embedded_broker_that_has_gone_is_refused(
    settings: Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    """D1: the next broker got 7,885 of 10,000 users, exit 0."""
    Path("a.jsonl").write_text("".join(line(n, "click") + "\n" for n in range(10)))
    words = ["a.jsonl", "--no-wait", "--resume", "position.json"]
    with brokers.start(settings):
        assert result(capsys, *words)["published"] == 10
    with brokers.start(settings) as broker:
        assert cli.run(["replay", *words]) == 1
        assert "delete position.json" in capsys.readouterr().err
        assert end(broker.connection, "in.click") == 0
        Path("position.json").unlink()
        assert result(capsys, *words)["published"] == 10


def test_who_waits_says_whom_for_and_can_be_stopped(
    settings: Settings, connection: Connection, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """D7: nothing was printed for ten minutes. Without ingest the embedded broker's budget is used up."""
    monkeypatch.setattr("deploy.commands.replay.LINES_SECONDS", 0.0)
    body = json.dumps({"user_id": "u1", "ts": 1_700_000_000_000, "modality": "click", "page": "p" * 9000})
    Path("a.jsonl").write_text(f"{body}\n" * 1000)
    note, stopped = output.note, []  # type: ignore[var-annotated]

    def noting(text: str) -> None:
        note(text)
        if "waits for" in text and not stopped:
            stopped.append(text)
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(output, "note", noting)
    assert cli.run(["replay", "a.jsonl"]) == 130
    printed = capsys.readouterr().err
    assert "waits for anchorstream.ingest to read in.click:" in printed
    assert "events published" in printed


@pytest.mark.kafka
def test_on_kafka_it_waits_for_ingest_only_where_one_runs(
    kafka_broker: LocalKafka, topic_prefix: str, tmp_path: Path,
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    connection = kafka_broker.connection
    text = CONFIG.replace('"in.', f'"in-{topic_prefix}.').replace(
        "[kafka]", f'[kafka]\nbootstrap_servers = "{connection.bootstrap}"\ntopic_prefix = "{topic_prefix}"'
    )
    Path("anchorstream.toml").write_text(text)
    settings = load(Path("anchorstream.toml"))
    Path("a.jsonl").write_text("".join(line(n, "click") + "\n" for n in range(40)) + "{half")
    done = result(capsys, "a.jsonl")
    assert (done["ingest"]["waiting"], done["ingest"]["accepted"]) == (41, None)
    with ingesting(settings, connection):
        done = result(capsys, "a.jsonl", "--resume", "at.json")
        assert done["left"] == ["a.jsonl:41"]
        assert (done["ingest"]["accepted"], done["ingest"]["refused"]) == (40, {})
        done = result(capsys, "a.jsonl")
        assert (done["ingest"]["accepted"], done["ingest"]["refused"]) == (40, {"invalid_json": 1})
    assert json.loads(Path("at.json").read_text())["broker"] == connection.identity
