"""What is exported is what the topic or the service has, whatever the format."""

from __future__ import annotations

import json
import random
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from deploy import cli
from deploy.brokers.process import EmbeddedBroker
from deploy.operate.export import Exported, from_topic
from deploy.operate.export_files import ROWS, save
from store.base.errors import ConfigError, NotFoundError, StateError
from store.base.settings import ScenarioSettings
from store.http.app import create_app
from store.http.wire.server import Serve
from store.records.embedding import EmbeddingRecord
from store.records.scenario import Registered
from stream.kafka.client import Connection
from stream.settings import KafkaSettings
from stream.topics import Topics
from tests.support.serving import Serving

PARTITIONS = 3
TOPICS = Topics(KafkaSettings(partitions=PARTITIONS))


def record(user: str, seed: int, *, registration: int = 0, scenario: str = "churn") -> EmbeddingRecord:
    vector = np.random.default_rng(seed).standard_normal(128).astype(np.float16).astype(np.float32)
    return EmbeddingRecord(
        user, scenario, f"m{seed % 2}", seed, 2, 3, vector, {"raw:0": seed}, {"bill": 2}, registration
    )


def same(a: EmbeddingRecord, b: EmbeddingRecord) -> bool:
    return a.pack() == b.pack()


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Connection]:
    names = {TOPICS.embeddings(name): PARTITIONS for name in ("churn", "empty", "loan")} | {TOPICS.scenarios: 1}
    broker = EmbeddedBroker(Path(tmp_path_factory.mktemp("export")) / "broker.json", names)
    yield broker.connection
    broker.stop()


@pytest.fixture(scope="module")
def sent(broker: Connection) -> dict[str, list[EmbeddingRecord | None]]:
    """Every user's history in the topic `churn`, random."""
    rng, producer = random.Random(7), broker.producer()
    histories: dict[str, list[EmbeddingRecord | None]] = {}
    for n in range(900):
        user = f"user/{rng.randrange(120)}é"
        one = None if rng.random() < 0.2 else record(user, n, registration=0 if rng.random() < 0.9 else 5)
        histories.setdefault(user, []).append(one)
        value = None if one is None else one.pack()
        producer.produce(TOPICS.embeddings("churn"), value, user.encode(), partition=hash(user) % PARTITIONS)
    assert producer.flush(10) == 0
    return histories


def newest(history: list[EmbeddingRecord | None], *, gone: bool) -> Exported | None:
    last = history[-1]
    if last is None and gone:
        last = next((one for one in reversed(history) if one is not None), None)
    return None if last is None or last.registration else Exported(last, history[-1] is None)


@pytest.mark.parametrize("gone", [False, True])
def test_the_newest_record_of_every_user(
    broker: Connection, sent: dict[str, list[EmbeddingRecord | None]], gone: bool
) -> None:
    steps: list[tuple[int, int]] = []
    progress = lambda done, of: steps.append((done, of))  # noqa: E731
    found = {row.record.user_id: row for row in from_topic(broker, TOPICS, "churn", 0, progress, gone=gone)}
    wanted = {user: row for user, history in sent.items() if (row := newest(history, gone=gone)) is not None}
    assert found.keys() == wanted.keys()
    assert all(same(found[user].record, row.record) and found[user].gone is row.gone for user, row in wanted.items())
    assert any(row.gone for row in found.values()) is gone
    assert steps[-1] == (900, 900)
    assert steps == sorted(steps)


def test_no_topic_and_an_empty_one(broker: Connection, tmp_path: Path) -> None:
    nobody = lambda *_: None  # noqa: E731
    with pytest.raises(NotFoundError, match="there is no topic"):
        list(from_topic(broker, TOPICS, "nothing", 0, nobody, gone=False))
    for suffix in ("jsonl", "parquet", "npy"):
        assert save(tmp_path / f"none.{suffix}", from_topic(broker, TOPICS, "empty", 0, nobody, gone=False)) == 0
    assert np.load(tmp_path / "none.npy").shape == (0, 128)
    assert pq.read_table(tmp_path / "none.parquet").num_rows == 0
    assert (tmp_path / "none.jsonl").read_bytes() == b""


@pytest.mark.parametrize("count", [1, ROWS, ROWS + 1])
def test_every_format_holds_the_same(tmp_path: Path, count: int) -> None:
    rows = [Exported(record(f"u {n} ü", n), n % 3 == 0) for n in range(count)]
    assert {save(tmp_path / f"all.{suffix}", rows) for suffix in ("jsonl", "parquet", "npy")} == {count}
    vectors = np.stack([row.record.vector for row in rows])
    lines = [json.loads(line) for line in (tmp_path / "all.jsonl").read_text().splitlines()]
    table = pq.read_table(tmp_path / "all.parquet")
    array = np.load(tmp_path / "all.npy")
    assert array.dtype == np.float32
    np.testing.assert_array_equal(array, vectors)
    np.testing.assert_array_equal(np.array([line["vector"] for line in lines], np.float32), vectors)
    np.testing.assert_array_equal(np.array(table["vector"].to_pylist(), np.float32), vectors)
    users = [row.record.user_id for row in rows]
    assert users == [line["user_id"] for line in lines] == table["user_id"].to_pylist()
    assert users == (tmp_path / "all.users.txt").read_text().splitlines()
    assert [row.gone for row in rows] == [line["gone"] for line in lines] == table["gone"].to_pylist()
    assert dict(table["covers"][0].as_py()) == lines[0]["covers"] == rows[0].record.covers
    assert table["as_of"].cast("int64").to_pylist() == [line["as_of"] for line in lines]


def test_what_fails_leaves_the_older_file(tmp_path: Path) -> None:
    path = tmp_path / "all.npy"
    save(path, [Exported(record("anna", 1))])
    before = path.read_bytes()

    def rows() -> Iterator[Exported]:
        yield Exported(record("ben", 2))
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        save(path, rows())
    assert path.read_bytes() == before
    assert {found.name for found in tmp_path.iterdir()} == {"all.npy", "all.users.txt"}
    with pytest.raises(ConfigError, match="suffix"):
        save(tmp_path / "all.csv", [])
    for suffix in ("jsonl", "parquet", "npy"):
        with pytest.raises(StateError, match="cannot be written"):
            save(path / f"below-a-file.{suffix}", [])
        assert save(tmp_path / "new" / f"all.{suffix}", []) == 0


def test_the_command_reads_the_topic(
    broker: Connection,
    sent: object,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Of a scenario that was registered too: records of an earlier life of its name are left out."""
    producer = broker.producer()
    producer.produce(TOPICS.scenarios, Registered(ScenarioSettings(query="A loan?"), 9).pack(), b"loan")
    for user, registration in (("anna", 9), ("ben", 3)):
        one = record(user, 1, registration=registration, scenario="loan")
        producer.produce(TOPICS.embeddings("loan"), one.pack(), user.encode(), partition=0)
    assert producer.flush(10) == 0
    monkeypatch.chdir(tmp_path)
    Path("anchorstream.toml").write_text(
        f'[kafka]\nbootstrap_servers = "{broker.bootstrap}"\n[scenarios.churn]\nquery = "Gone?"\n'
    )
    assert cli.run(["export", "loan", "--to", "loan.jsonl", "--source", "topic", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["users"], told["models"]) == (1, {"m1": 1})
    assert json.loads(Path("loan.jsonl").read_text())["user_id"] == "anna"
    assert cli.run(["export", "nobody", "--to", "x.npy", "--source", "topic"]) == 1
    assert "no scenario 'nobody'" in capsys.readouterr().err
    assert cli.run(["export", "churn", "--to", "x.npy", "--gone"]) == 2
    assert not Path("x.npy").exists()


class Idle:
    """A tail with nothing to read."""

    def __init__(self) -> None:
        self.ready = threading.Event()
        self.ready.set()

    def run(self, stop: threading.Event) -> None:
        stop.wait()


def test_the_command_asks_the_service(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    serving = Serving()
    for n in range(2500):
        serving.add(f"user {n:04d}/ü", scenario="credit")
    up, stop = threading.Event(), threading.Event()
    serve = Serve(create_app(serving.service), Idle(), host="127.0.0.1", port=0, on_ready=lambda _: up.set())
    thread = threading.Thread(target=serve.run, args=(stop,))
    thread.start()
    try:
        assert up.wait(30)
        monkeypatch.chdir(tmp_path)
        assert cli.run(["export", "credit", "--to", "credit.parquet", "--url", serve.url]) == 0
        assert "2,500 users" in capsys.readouterr().err
        assert cli.run(["export", "nobody", "--to", "x.npy", "--url", serve.url]) == 1
    finally:
        stop.set()
        thread.join(30)
    table = pq.read_table("credit.parquet")
    assert table["user_id"].to_pylist() == [f"user {n:04d}/ü" for n in range(2500)]
    first = serving.catalog["credit"].index.get("user 0000/ü")
    assert first is not None
    np.testing.assert_array_equal(np.array(table["vector"][0].as_py(), np.float32), first.record.vector)
