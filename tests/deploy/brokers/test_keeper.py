"""What an embedded broker was given outlives it: the next one has every message, in order, and what comes beside."""

from __future__ import annotations

import json
import random
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import KafkaException, TopicPartition

from deploy.brokers.embedded import Keep
from deploy.brokers.kept_log import KeptLog, KeptMessage
from deploy.brokers.process import EmbeddedBroker
from store.base.errors import BrokerError
from store.base.files import read_json
from stream.kafka.client import Connection
from stream.kafka.pacing import SafeProducer
from stream.topics import TopicSpec

TOPICS = {"raw": 2, "other": 1, "derived": 1}
KEPT = ("raw", "other")
INGEST = "ingest"


@contextmanager
def broker(directory: Path) -> Iterator[EmbeddedBroker]:
    keep = Keep(directory / "kept", KEPT, (INGEST,))
    started = EmbeddedBroker(directory / "broker.json", TOPICS, log_path=directory / "broker.log", keep=keep)
    try:
        yield started
    finally:
        started.stop()


class Ingest:
    """Reads the kept topics from the beginning, and commits; a thread."""

    def __init__(self, connection: Connection) -> None:
        self.found: list[KeptMessage] = []
        self._consumer = connection.consumer(INGEST)
        self._consumer.assign([TopicPartition(name, p, 0) for name in KEPT for p in range(TOPICS[name])])
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while not self._stop.is_set():
            batch = self._consumer.consume(500, 0.05)
            self.found += [kept(message) for message in batch if message.error() is None]
            if batch:
                with suppress(KafkaException):  # the broker was killed
                    at = self._consumer.position(self._consumer.assignment())
                    self._consumer.commit(asynchronous=False, offsets=at)

    def wait(self, count: int) -> None:
        deadline = time.monotonic() + 60
        while len(self.found) < count:
            assert time.monotonic() < deadline, f"{len(self.found)} of {count}"
            time.sleep(0.02)

    def close(self) -> None:
        self._stop.set()
        self._thread.join(30)
        if not self._thread.is_alive():  # a commit may wait for good for a broker that was killed
            self._consumer.close()


def kept(message: Any) -> KeptMessage:
    headers = tuple((name, value) for name, value in message.headers() or ())
    return KeptMessage(
        message.topic(), message.partition(), message.timestamp()[1], message.key(), message.value(), headers
    )


def produce(connection: Connection, messages: list[KeptMessage]) -> None:
    specs = [TopicSpec(name, TOPICS[name], readers=(INGEST,), ours=False) for name in KEPT]
    producer = SafeProducer(connection, specs)
    for topic, partition, timestamp, key, value, headers in messages:
        producer.produce(topic, value, key, partition, list(headers) or None, timestamp)
    producer.flush()
    producer.wait_kept()


def some(rng: random.Random, count: int, *, size: int = 20) -> list[KeptMessage]:
    """Many of them alike: a message that comes again is another one."""
    out = []
    for n in range(count):
        topic = rng.choice(KEPT)
        value = rng.choice((None, b"", b"same", rng.randbytes(size)))
        headers = ((("trace", b"1"), ("none", None)),)[: rng.randrange(2)]
        place = topic, rng.randrange(TOPICS[topic])
        out.append(KeptMessage(*place, 1_000_000 + n // 7, rng.choice((None, b"u1")), value, *headers))
    return out


def by_place(messages: list[KeptMessage]) -> dict[tuple[str, int], list[KeptMessage]]:
    out: dict[tuple[str, int], list[KeptMessage]] = {}
    for message in messages:
        out.setdefault((message.topic, message.partition), []).append(message)
    return out


def test_all_is_there_in_order_through_any_number_of_lives(tmp_path: Path) -> None:
    rng, sent, names = random.Random(3), [], set()
    for life in range(4):
        with broker(tmp_path) as started:
            ingest = Ingest(started.connection)
            assert started.restoring == len(sent)
            names.add(started.connection.history)
            ingest.wait(len(sent))
            sent += (new := some(rng, 300))
            produce(started.connection, new)
            if life % 2:
                started.kill()  # kill -9: what was waited for is written down
            else:
                ingest.wait(len(sent))
            ingest.close()
    assert len(names) == 1
    with broker(tmp_path) as started:
        ingest = Ingest(started.connection)
        ingest.wait(len(sent))
        ingest.close()
        assert by_place(ingest.found) == by_place(sent)
        deadline = time.monotonic() + 30
        while (state := read_json(tmp_path / "broker.json")) is None or state["restoring"]:
            assert time.monotonic() < deadline
            time.sleep(0.02)


def test_what_comes_while_it_is_restored_is_kept_too(tmp_path: Path) -> None:
    """Far more than a broker holds unread, so that it takes a while; the others do not wait."""
    rng = random.Random(5)
    history, beside = some(rng, 4000, size=20_000), some(rng, 300)
    (tmp_path / "kept").mkdir()
    with KeptLog(tmp_path / "kept") as log:
        for message in history:
            log.append(message)
    with broker(tmp_path) as started:
        ingest = Ingest(started.connection)
        produce(started.connection, beside)
        ingest.wait(len(history) + len(beside))
        ingest.close()
    with KeptLog(tmp_path / "kept") as log:
        assert by_place(list(log)) == by_place(history + beside)


def test_stopped_while_it_is_restored_nothing_is_doubled(tmp_path: Path) -> None:
    history = some(random.Random(6), 3000, size=10_000)
    (tmp_path / "kept").mkdir()
    with KeptLog(tmp_path / "kept") as log:
        for message in history:
            log.append(message)
    for _ in range(2):
        with broker(tmp_path) as started:  # nobody reads: the feeder waits
            produce(started.connection, [])
    with KeptLog(tmp_path / "kept") as log:
        assert list(log) == history


def test_what_is_no_longer_configured_stays_in_the_file(tmp_path: Path) -> None:
    (tmp_path / "kept").mkdir()
    gone = [KeptMessage("gone", 0, 1, None, b"a"), KeptMessage("raw", 7, 1, None, b"b")]
    there = KeptMessage("raw", 1, 1, None, b"c")
    with KeptLog(tmp_path / "kept") as log:
        for message in (*gone, there):
            log.append(message)
    with broker(tmp_path) as started:
        ingest = Ingest(started.connection)
        ingest.wait(1)
        ingest.close()
        assert ingest.found == [there]
    with KeptLog(tmp_path / "kept") as log:
        assert list(log) == [*gone, there]


def test_what_cannot_be_kept_ends_the_broker(tmp_path: Path) -> None:
    """Rather than that it takes what its end will lose."""
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept" / "messages.log").write_bytes(b"somebody else's")
    with pytest.raises(BrokerError, match="ended with code"), broker(tmp_path):
        pass
    assert "no log of an embedded broker" in (tmp_path / "broker.log").read_text()


FULL = """
import resource, sys, time
from pathlib import Path
from tests.deploy.brokers.test_keeper import broker
limit = 200_000
with broker(Path(sys.argv[1])) as running:
    resource.prlimit(running.pid, resource.RLIMIT_FSIZE, (limit, limit))
    producer = running.connection.producer()
    for _ in range(60):
        producer.produce("raw", bytes(9000), partition=0)
    producer.flush(10)
    deadline = time.monotonic() + 60
    while running.alive():
        assert time.monotonic() < deadline
        time.sleep(0.05)
"""


def test_a_full_disk_is_said_and_ends_the_broker(tmp_path: Path) -> None:
    ended = subprocess.run(
        [sys.executable, "-c", FULL, str(tmp_path)], cwd=Path(__file__).parents[3], capture_output=True, text=True,
        timeout=120, check=False,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr
    lines = [json.loads(line) for line in (tmp_path / "broker.log").read_text().splitlines()]
    assert "Traceback" not in (tmp_path / "broker.log").read_text()
    (kept,) = [line for line in lines if line["event"] == "broker_keeps_nothing"]
    assert kept["error"] == "data_dir_unwritable"
    assert lines[-1]["event"] == "role_failed"
    assert "cannot be written" in lines[-1]["detail"]
    assert "free space" in lines[-1]["action"]
