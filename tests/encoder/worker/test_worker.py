"""The worker on a broker: rows in `tokens` become the embeddings that a run from scratch gives."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from confluent_kafka import TopicPartition

import encoder.worker.worker as worker_module
from deploy.brokers.process import EmbeddedBroker
from encoder.forward.model_set import ModelSet
from encoder.model.settings import ModelSettings
from encoder.worker.scheduler import RefreshScheduler
from encoder.worker.worker import Worker
from store.base.settings import ScenarioSettings
from store.records.embedding import EmbeddingRecord
from stream.kafka.client import Connection
from stream.kafka.partitioner import partition_of
from stream.lag.reader import LagReader, plan
from stream.settings import KafkaSettings
from stream.token_log.reader import LogReader
from stream.topics import Topics
from tests.support import worker_bench
from tests.support.windows import DIM, MODALITIES
from tests.support.worker_bench import Source, make_worker

PARTITIONS = 2
SCENARIOS = {
    "churn": ScenarioSettings(query="Will this user leave?"),
    "coupon": ScenarioSettings(query="Will this user use a coupon?"),
}
MODEL = ModelSettings(threads=1, min_interval_ms=0, kv_pool_bytes=8 << 20)
OTHER_MODEL = MODEL.model_copy(update={"seed": 1})


@pytest.fixture(scope="module")
def encoder() -> ModelSet:
    return ModelSet(MODEL, {}, MODALITIES, SCENARIOS, DIM)


@pytest.fixture
def topics() -> Topics:
    return Topics(KafkaSettings(topic_prefix="w", partitions=PARTITIONS))


@pytest.fixture
def connection(start_embedded: Callable[[dict[str, int]], EmbeddedBroker], topics: Topics) -> Connection:
    return start_embedded({s.name: s.partitions for s in topics.specs(MODALITIES, SCENARIOS)}).connection


@contextmanager
def by_hand(connection: Connection, topics: Topics, encoder: ModelSet, state: Path) -> Iterator[Worker]:
    """A worker whose group assigns nothing: the test plays the group."""
    worker = make_worker(connection, topics, encoder, state, scenarios=SCENARIOS, model=MODEL)
    worker._attach(connection.consumer(topics.group_worker))
    try:
        yield worker
    finally:
        worker._detach()


@contextmanager
def running(
    connection: Connection, topics: Topics, encoder: ModelSet, state: Path, model: ModelSettings = MODEL
) -> Iterator[None]:
    def worker_of(ready: Callable[[], None]) -> Worker:
        return make_worker(connection, topics, encoder, state, scenarios=SCENARIOS, model=model, on_ready=ready)

    with worker_bench.running(worker_of):
        yield


def read(connection: Connection, topics: Topics) -> list[EmbeddingRecord]:
    return worker_bench.embeddings(connection, topics, list(SCENARIOS))


def wait_for_lag_zero(connection: Connection, topics: Topics) -> None:
    worker_bench.wait_until(lambda: worker_bench.lag_is_zero(connection, topics), "the worker caught up")


def wait_for_back_fills(connection: Connection, topics: Topics, encoder: ModelSet) -> None:
    """Until all partitions report that everybody has the embeddings of this encoder."""

    def done() -> bool:
        found = worker_bench.back_fills(connection, topics)
        return all(
            (record := found.get((s, p))) is not None and record.complete and record.model == encoder.model_id(s)
            for s in SCENARIOS
            for p in range(PARTITIONS)
        )

    worker_bench.wait_until(done, "the back-fill is complete")


def check(connection: Connection, topics: Topics, source: Source, encoder: ModelSet) -> list[EmbeddingRecord]:
    records = read(connection, topics)
    latest = {(r.user_id, r.scenario): r for r in records}
    expected = source.expected(encoder, list(SCENARIOS))
    assert latest.keys() == expected.keys()
    for key, record in latest.items():
        vector_ = record.vector / np.linalg.norm(record.vector)
        assert float(vector_ @ expected[key]) >= 0.9999, key
        window = source.buffers[partition_of(record.user_id, PARTITIONS)].window(record.user_id)
        assert (record.covers, record.events, record.as_of) == (window.covers, window.events, window.as_of)
        assert record.model == encoder.model_id(record.scenario)
    return records


def test_embeddings_equal_from_scratch_and_lag_reaches_zero(
    connection: Connection, topics: Topics, encoder: ModelSet, tmp_path: Path
) -> None:
    source = Source(connection, topics, tmp_path / "source")
    source.send(30)
    with running(connection, topics, encoder, tmp_path / "w"):
        source.send(30)
        wait_for_lag_zero(connection, topics)
        check(connection, topics, source, encoder)


def test_lag_says_how_many_users_are_left_and_for_how_long(
    connection: Connection, topics: Topics, encoder: ModelSet, tmp_path: Path
) -> None:
    """D4."""
    source = Source(connection, topics, tmp_path / "source")
    source.send(12, users=6)
    reader = LagReader(connection, plan(topics, (), SCENARIOS))

    def left() -> tuple[int | None, float | None]:
        (group,) = [g for g in reader.read(max_age_seconds=0).groups() if g.role == "worker"]
        return group.users_left, group.drain_seconds

    hourly = MODEL.model_copy(update={"min_interval_ms": 3_600_000})
    with running(connection, topics, encoder, tmp_path / "w", hourly):
        wait_for_lag_zero(connection, topics)
        worker_bench.wait_until(lambda: left() == (0, None), "nobody is left")
        source.send(6, users=6)  # all of them wait for an hour to be over
        worker_bench.wait_until(lambda: left()[0] == 6, "all are left")
        seconds = left()[1]
        assert seconds is not None
        assert 0 < seconds < 3600
    with running(connection, topics, encoder, tmp_path / "w"):
        wait_for_lag_zero(connection, topics)
        worker_bench.wait_until(lambda: left() == (0, None), "nobody is left")
    reader.close()


def test_a_restart_goes_on_and_refreshes_nobody_twice(
    connection: Connection, topics: Topics, encoder: ModelSet, tmp_path: Path
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
    connection: Connection, topics: Topics, encoder: ModelSet, tmp_path: Path
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
    connection: Connection, topics: Topics, encoder: ModelSet, tmp_path: Path
) -> None:
    source = Source(connection, topics, tmp_path / "source")
    source.send(12)
    with running(connection, topics, encoder, tmp_path / "w"):
        wait_for_lag_zero(connection, topics)
    other = ModelSet(OTHER_MODEL, {}, MODALITIES, SCENARIOS, DIM)
    with running(connection, topics, other, tmp_path / "w"):
        wait_for_back_fills(connection, topics, other)
    check(connection, topics, source, other)


@pytest.mark.parametrize("disk", ["w", "other disk"])
def test_rows_whose_summary_has_not_come_are_in_no_embedding(
    connection: Connection, topics: Topics, encoder: ModelSet, tmp_path: Path, disk: str
) -> None:
    """A5: a back-fill while the processor is away, dead between a batch's rows and their summaries."""
    source = Source(connection, topics, tmp_path / "source")
    source.send(12)
    with running(connection, topics, encoder, tmp_path / "w"):
        wait_for_lag_zero(connection, topics)
        for user in source.users:
            source.tear(user)
        wait_for_lag_zero(connection, topics)
    other = ModelSet(OTHER_MODEL, {}, MODALITIES, SCENARIOS, DIM)
    with running(connection, topics, other, tmp_path / disk):
        wait_for_back_fills(connection, topics, other)
    check(connection, topics, source, other)


def test_a_replica_left_behind_by_another_member_publishes_nothing_old(
    connection: Connection, topics: Topics, encoder: ModelSet, tmp_path: Path
) -> None:
    """Found by the random crash test: a member died with users marked dirty, another one refreshed them and went on;
    the first came back and published its old state of them, and nobody corrected it."""
    source = Source(connection, topics, tmp_path / "source")
    source.send(12)
    with running(connection, topics, encoder, tmp_path / "a"):
        wait_for_lag_zero(connection, topics)
    source.send(12)
    # dies between W1 and W4
    for p in range(PARTITIONS):
        buffer = worker_bench.buffers(connection, tmp_path / "a", replica=True).open(p)
        reader = LogReader(connection.consumer("dead"), topics.tokens)
        reader._consumer.assign([reader.add(p, buffer)])
        while buffer.log_offset < source.buffers[p].log_offset:
            reader.poll(timeout=5)
        assert len(buffer.dirty)
        reader._consumer.close()
        buffer.close()
    source.send(12)
    with running(connection, topics, encoder, tmp_path / "b"):
        wait_for_lag_zero(connection, topics)
    with running(connection, topics, encoder, tmp_path / "a"):
        markers = {partition_of(user, PARTITIONS): user for user in map("marker-{}".format, range(50))}
        for partition in range(PARTITIONS):  # what lies before these is done with once they are
            source.send_to(markers[partition])
        wait_for_lag_zero(connection, topics)
    check(connection, topics, source, encoder)


def test_a_replica_that_is_behind_never_pauses(
    connection: Connection, topics: Topics, encoder: ModelSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody of a partition is refreshed until it has caught up: had it paused for those who wait, it never would."""
    monkeypatch.setattr(worker_module, "POLL_ROWS", 2)
    source = Source(connection, topics, tmp_path / "source")
    source.send(40)
    impatient = MODEL.model_copy(update={"max_staleness_ms": 0})
    with running(connection, topics, encoder, tmp_path / "w", impatient):
        wait_for_lag_zero(connection, topics)
    check(connection, topics, source, encoder)


def test_a_partition_that_was_paused_is_read_when_it_comes_back(
    connection: Connection, topics: Topics, encoder: ModelSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """librdkafka keeps a partition paused over its next assignment."""
    source = Source(connection, topics, tmp_path / "source")
    source.send(12)
    tps = [TopicPartition(topics.tokens, p) for p in range(PARTITIONS)]
    with by_hand(connection, topics, encoder, tmp_path / "w") as worker:
        worker._assigned(worker._consumer, tps)
        deadline = time.monotonic() + 30
        while len(worker._mine.usable) < PARTITIONS and time.monotonic() < deadline:
            worker._step()
        monkeypatch.setattr(worker._scheduler, "should_pause", lambda now_ms: True)
        worker._pause_or_resume()
        worker._revoked(worker._consumer, tps)
        worker._consumer.unassign()
        source.send(12)
        monkeypatch.setattr(worker._scheduler, "should_pause", lambda now_ms: False)
        worker._assigned(worker._consumer, tps)
        deadline = time.monotonic() + 10
        while len(worker._mine.usable) < PARTITIONS and time.monotonic() < deadline:
            worker._step()
        assert len(worker._mine.usable) == PARTITIONS


def test_a_back_fill_that_was_cut_short_is_done_by_the_next_owner(
    connection: Connection, topics: Topics, encoder: ModelSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The committed offset says whose embeddings by these models are published: of a back-fill, nobody's yet."""
    source = Source(connection, topics, tmp_path / "source")
    source.send(12)
    with running(connection, topics, encoder, tmp_path / "w"):
        wait_for_lag_zero(connection, topics)
    other = ModelSet(OTHER_MODEL, {}, MODALITIES, SCENARIOS, DIM)
    with monkeypatch.context() as nobody_is_due:
        nobody_is_due.setattr(RefreshScheduler, "next_batch", lambda self, now_ms, **_: None)
        with running(connection, topics, other, tmp_path / "w"):
            pass  # it commits as it leaves
    with running(connection, topics, other, tmp_path / "other disk"):
        wait_for_back_fills(connection, topics, other)
    check(connection, topics, source, other)
