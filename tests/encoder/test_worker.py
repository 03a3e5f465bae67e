"""The worker on a broker: rows in `tokens` become the embeddings that a run from scratch gives."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from confluent_kafka import TopicPartition

import encoder.worker as worker_module
from deploy.brokers.process import EmbeddedBroker
from encoder.scheduler import RefreshScheduler
from encoder.settings import ModelSettings
from encoder.user_encoder import UserEncoder
from encoder.worker import Worker
from store.buffer_resources import BufferResources
from store.embedding_record import EmbeddingRecord
from store.settings import ScenarioSettings, StoreSettings
from store.token_buffer import EncodedEvent, TokenBuffer
from stream.client import Connection
from stream.partitioner import partition_of
from stream.settings import KafkaSettings
from stream.token_log import LogReader
from stream.topics import Topics
from tests.support.windows import DIM, MODALITIES, START_MS, vector

PARTITIONS = 2
SCENARIOS = {
    "churn": ScenarioSettings(query="Will this user leave?"),
    "coupon": ScenarioSettings(query="Will this user use a coupon?"),
}
MODEL = ModelSettings(threads=1, min_interval_ms=0, kv_pool_bytes=8 << 20)


class Source:
    """Stands where the processor stands: applies events to primary buffers and logs their rows."""

    def __init__(self, connection: Connection, topics: Topics, folder: Path) -> None:
        self._producer = connection.producer()
        self._topics = topics
        resources = BufferResources.create(block_cache_bytes=8 << 20, write_buffer_bytes=8 << 20)
        self.buffers = [
            TokenBuffer.open(
                folder / str(p), modalities=MODALITIES, encoder_id="e", dim=DIM, identity=connection.identity,
                expiry_granularity_ms=3_600_000, resources=resources,
            )
            for p in range(PARTITIONS)
        ]  # fmt: skip
        self._sent = 0

    def send(self, count: int, users: int = 6) -> None:
        """Apply `count` new events, and log what changed."""
        for _ in range(count):
            i = self._sent
            self._sent += 1
            user = f"user-{i % users}"
            partition = partition_of(user, PARTITIONS)
            event = EncodedEvent(
                user, "bill", START_MS + i * 60_000, f"e{i}", i, np.array([i, 1], np.float32), vector(i), None,
                "raw:0", i, START_MS,
            )  # fmt: skip
            buffer = self.buffers[partition]
            changes = buffer.prepare([event], source_offset=buffer.source_offset + 1)
            for key, value in changes.rows:
                self._producer.produce(self._topics.tokens, value, key, partition)
            assert self._producer.flush(10) == 0
            buffer.commit(changes, log_offset=buffer.log_offset + len(changes.rows))

    def expected(self, encoder: UserEncoder) -> dict[tuple[str, str], Any]:
        """Embeddings from scratch, by (user, scenario)."""
        out: dict[tuple[str, str], Any] = {}
        for buffer in self.buffers:
            for user in buffer.users():
                vectors = encoder.encode_from_scratch([buffer.window(user)], list(SCENARIOS))[0]
                out |= {(user, s): v for s, v in zip(SCENARIOS, vectors, strict=True)}
        return out


@pytest.fixture(scope="module")
def encoder() -> UserEncoder:
    return UserEncoder(MODEL, MODALITIES, SCENARIOS, DIM)


@pytest.fixture
def topics() -> Topics:
    return Topics(KafkaSettings(topic_prefix="w", partitions=PARTITIONS))


@pytest.fixture
def connection(start_embedded: Callable[[dict[str, int]], EmbeddedBroker], topics: Topics) -> Connection:
    return start_embedded({s.name: s.partitions for s in topics.specs(MODALITIES, SCENARIOS)}).connection


def make_worker(
    connection: Connection,
    topics: Topics,
    encoder: UserEncoder,
    state: Path,
    on_ready: Callable[[], None] = lambda: None,
    model: ModelSettings = MODEL,
) -> Worker:
    return Worker(
        connection, topics, MODALITIES, encoder, model=model,
        store=StoreSettings(block_cache_bytes=8 << 20, write_buffer_bytes=8 << 20), state=state,
        text_encoder_id="e", event_dim=DIM, expiry_granularity_ms=3_600_000, on_ready=on_ready,
    )  # fmt: skip


@contextmanager
def by_hand(connection: Connection, topics: Topics, encoder: UserEncoder, state: Path) -> Iterator[Worker]:
    """A worker whose group assigns nothing: the test plays the group."""
    worker = make_worker(connection, topics, encoder, state)
    worker._consumer = connection.consumer(topics.group_worker)
    worker._reader = LogReader(worker._consumer, topics.tokens)
    try:
        yield worker
    finally:
        worker._release(list(worker._reader.buffers), commit=True)
        worker._consumer.close()


@contextmanager
def running(
    connection: Connection, topics: Topics, encoder: UserEncoder, state: Path, model: ModelSettings = MODEL
) -> Iterator[None]:
    ready, stop = threading.Event(), threading.Event()
    failures: list[BaseException] = []

    def run() -> None:
        try:
            make_worker(connection, topics, encoder, state, ready.set, model).run(stop)
        except BaseException as exc:
            failures.append(exc)
            ready.set()
            raise

    thread = threading.Thread(target=run)
    thread.start()
    assert ready.wait(60)
    try:
        yield
    finally:
        stop.set()
        thread.join(60)
    assert not failures
    assert not thread.is_alive()


def read(connection: Connection, topics: Topics) -> list[EmbeddingRecord]:
    """All embedding records so far, in order per partition."""
    consumer = connection.consumer("reader")
    out = []
    for scenario in SCENARIOS:
        for p in range(PARTITIONS):
            tp = TopicPartition(topics.embeddings(scenario), p, 0)
            left = consumer.get_watermark_offsets(tp, timeout=10, cached=False)[1]
            consumer.assign([tp])
            while left:
                message = consumer.poll(10)
                assert message is not None
                assert message.error() is None
                assert message.value() is not None
                assert message.partition() == partition_of(message.key().decode(), PARTITIONS)
                out.append(EmbeddingRecord.unpack(message.value()))
                left -= 1
    consumer.close()
    return out


def wait_for_lag_zero(connection: Connection, topics: Topics) -> None:
    """Until the worker's group has committed everything in `tokens`."""
    consumer = connection.consumer(topics.group_worker)
    deadline = time.monotonic() + 60
    tps = [TopicPartition(topics.tokens, p) for p in range(PARTITIONS)]
    while time.monotonic() < deadline:
        done = [
            tp.offset == consumer.get_watermark_offsets(tp, timeout=10, cached=False)[1]
            for tp in consumer.committed(tps, timeout=10)
        ]
        if all(done):
            consumer.close()
            return
        time.sleep(0.1)
    pytest.fail("the worker did not catch up")


def check(connection: Connection, topics: Topics, source: Source, encoder: UserEncoder) -> list[EmbeddingRecord]:
    records = read(connection, topics)
    latest = {(r.user_id, r.scenario): r for r in records}
    expected = source.expected(encoder)
    assert latest.keys() == expected.keys()
    for key, record in latest.items():
        vector_ = record.vector / np.linalg.norm(record.vector)
        assert float(vector_ @ expected[key]) >= 0.9999, key
        window = source.buffers[partition_of(record.user_id, PARTITIONS)].window(record.user_id)
        assert (record.covers, record.events, record.as_of) == (window.covers, window.events, window.as_of)
        assert record.model == encoder.model_id(record.scenario)
    return records


def test_embeddings_equal_from_scratch_and_lag_reaches_zero(
    connection: Connection, topics: Topics, encoder: UserEncoder, tmp_path: Path
) -> None:
    source = Source(connection, topics, tmp_path / "source")
    source.send(30)
    with running(connection, topics, encoder, tmp_path / "w"):
        source.send(30)
        wait_for_lag_zero(connection, topics)
        check(connection, topics, source, encoder)


def test_a_restart_goes_on_and_refreshes_nobody_twice(
    connection: Connection, topics: Topics, encoder: UserEncoder, tmp_path: Path
) -> None:
    source = Source(connection, topics, tmp_path / "source")
    source.send(12)
    with running(connection, topics, encoder, tmp_path / "w"):
        wait_for_lag_zero(connection, topics)
    before = len(read(connection, topics))
    source.send(1)
    with running(connection, topics, encoder, tmp_path / "w"):
        wait_for_lag_zero(connection, topics)
        assert len(check(connection, topics, source, encoder)) == before + len(SCENARIOS)


def test_a_worker_without_its_disk_restores_and_refreshes_only_what_is_new(
    connection: Connection, topics: Topics, encoder: UserEncoder, tmp_path: Path
) -> None:
    source = Source(connection, topics, tmp_path / "source")
    source.send(12)
    with running(connection, topics, encoder, tmp_path / "w"):
        wait_for_lag_zero(connection, topics)
    before = len(read(connection, topics))
    source.send(1)
    with running(connection, topics, encoder, tmp_path / "other disk"):
        wait_for_lag_zero(connection, topics)
        assert len(check(connection, topics, source, encoder)) == before + len(SCENARIOS)


def test_another_model_refreshes_everybody(
    connection: Connection, topics: Topics, encoder: UserEncoder, tmp_path: Path
) -> None:
    source = Source(connection, topics, tmp_path / "source")
    source.send(12)
    with running(connection, topics, encoder, tmp_path / "w"):
        wait_for_lag_zero(connection, topics)
    other = UserEncoder(MODEL.model_copy(update={"seed": 1}), MODALITIES, SCENARIOS, DIM)
    with running(connection, topics, other, tmp_path / "w"):
        deadline = time.monotonic() + 60
        latest: dict[tuple[str, str], str] = {}
        while time.monotonic() < deadline and set(latest.values()) != {other.model_id(s) for s in SCENARIOS}:
            latest = {(r.user_id, r.scenario): r.model for r in read(connection, topics)}
        check(connection, topics, source, other)


def test_a_replica_left_behind_by_another_member_publishes_nothing_old(
    connection: Connection, topics: Topics, encoder: UserEncoder, tmp_path: Path
) -> None:
    """Found by the random crash test: a member died with users marked dirty, another one refreshed them and went on;
    the first came back and published its old state of them, and nobody corrected it."""
    source = Source(connection, topics, tmp_path / "source")
    source.send(12)
    with running(connection, topics, encoder, tmp_path / "a"):
        wait_for_lag_zero(connection, topics)
    source.send(12)
    # dies between W1 and W4
    resources = BufferResources.create(block_cache_bytes=8 << 20, write_buffer_bytes=8 << 20)
    for p in range(PARTITIONS):
        buffer = TokenBuffer.open(
            tmp_path / "a" / str(p), modalities=MODALITIES, encoder_id="e", dim=DIM, identity=connection.identity,
            expiry_granularity_ms=3_600_000, resources=resources, replica=True,
        )  # fmt: skip
        reader = LogReader(connection.consumer("dead"), topics.tokens)
        reader._consumer.assign([reader.add(p, buffer)])
        while buffer.log_offset < source.buffers[p].log_offset:
            reader.poll(timeout=5)
        assert buffer.dirty_count
        reader._consumer.close()
        buffer.close()
    source.send(12)
    with running(connection, topics, encoder, tmp_path / "b"):
        wait_for_lag_zero(connection, topics)
    with running(connection, topics, encoder, tmp_path / "a"):
        time.sleep(1)
        wait_for_lag_zero(connection, topics)
    check(connection, topics, source, encoder)


def test_a_replica_that_is_behind_never_pauses(
    connection: Connection, topics: Topics, encoder: UserEncoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody is refreshed until the replica has caught up: had it paused for those who wait, it never would."""
    monkeypatch.setattr(worker_module, "POLL_ROWS", 2)
    source = Source(connection, topics, tmp_path / "source")
    source.send(40)
    impatient = MODEL.model_copy(update={"max_staleness_ms": 0})
    with running(connection, topics, encoder, tmp_path / "w", impatient):
        wait_for_lag_zero(connection, topics)
    check(connection, topics, source, encoder)


def test_a_partition_that_was_paused_is_read_when_it_comes_back(
    connection: Connection, topics: Topics, encoder: UserEncoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """librdkafka keeps a partition paused over its next assignment."""
    source = Source(connection, topics, tmp_path / "source")
    source.send(12)
    tps = [TopicPartition(topics.tokens, p) for p in range(PARTITIONS)]
    with by_hand(connection, topics, encoder, tmp_path / "w") as worker:
        worker._assigned(worker._consumer, tps)
        deadline = time.monotonic() + 30
        while worker._behind() and time.monotonic() < deadline:
            worker._poll(0.1)
        monkeypatch.setattr(worker._scheduler, "should_pause", lambda now_ms: True)
        worker._pause_or_resume()
        worker._revoked(worker._consumer, tps)
        worker._consumer.unassign()
        source.send(12)
        monkeypatch.setattr(worker._scheduler, "should_pause", lambda now_ms: False)
        worker._assigned(worker._consumer, tps)
        deadline = time.monotonic() + 10
        while worker._behind() and time.monotonic() < deadline:
            worker._poll(0.1)
            worker._pause_or_resume()
        assert not worker._behind()


def test_a_back_fill_that_was_cut_short_is_done_by_the_next_owner(
    connection: Connection, topics: Topics, encoder: UserEncoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The committed offset says whose embeddings by these models are published: of a back-fill, nobody's yet."""
    source = Source(connection, topics, tmp_path / "source")
    source.send(12)
    with running(connection, topics, encoder, tmp_path / "w"):
        wait_for_lag_zero(connection, topics)
    other = UserEncoder(MODEL.model_copy(update={"seed": 1}), MODALITIES, SCENARIOS, DIM)
    with monkeypatch.context() as nobody_is_due:
        nobody_is_due.setattr(RefreshScheduler, "next_batch", lambda self, now_ms: None)
        with running(connection, topics, other, tmp_path / "w"):
            pass  # it commits as it leaves
    with running(connection, topics, other, tmp_path / "other disk"):
        wait_for_lag_zero(connection, topics)
    check(connection, topics, source, other)
