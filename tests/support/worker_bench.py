"""A worker on a broker without the rest of the system: who feeds it, what it published, what it should have."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from confluent_kafka import KafkaError, TopicPartition

from deploy.kafka.topics import ensure
from encoder.model.settings import ModelSettings
from encoder.worker.embedding_topic_ids import EmbeddingTopicIds
from encoder.worker.live_scenarios import LiveScenarios
from encoder.worker.scheduler import RefreshScheduler
from encoder.worker.worker import Worker
from store.base.settings import ScenarioSettings
from store.buffer.partition_buffers import PartitionBuffers
from store.buffer.resources import BufferResources
from store.buffer.token_buffer import Changes, EncodedEvent, Row, TokenBuffer
from store.records.back_fill import BackFillRecord
from store.records.embedding import EmbeddingRecord
from store.records.scenario import Registered
from store.window.layout import Arrival
from store.window.silence import SilenceTicks
from stream.kafka.client import Connection
from stream.kafka.partitioner import partition_of
from stream.scenarios.registry import ScenarioRegistry
from stream.token_log.ownership import MARKER_KEY, SWEEP_HEADER
from stream.topics import Topics
from tests.support import offsets
from tests.support.windows import DIM, MODALITIES, START_MS, vector

RESOURCES = BufferResources.create(block_cache_bytes=8 << 20, write_buffer_bytes=8 << 20)


def buffers(connection: Connection, folder: Path, *, replica: bool = False) -> PartitionBuffers:
    """Of a processor, or a worker's replicas."""
    return PartitionBuffers(folder, connection.identity, MODALITIES, "e", DIM, 3_600_000, RESOURCES, replica)


DAY_MS = 86_400_000


class Source:
    """Stands where the processor stands: applies events to primary buffers and logs their rows."""

    def __init__(self, connection: Connection, topics: Topics, folder: Path) -> None:
        self._producer = connection.producer()
        self._topics = topics
        opened = buffers(connection, folder)
        self.buffers = [opened.open(partition) for partition in range(topics.partitions)]
        self.sent = 0
        """Events, each at its own offset of the raw topic."""

    def send(self, count: int, users: int = 6) -> None:
        """Apply `count` new events, one to each user in turn, and log what changed."""
        for _ in range(count):
            self.send_to(f"user-{self.sent % users}")

    def send_to(self, user: str, *, days: int = 0) -> None:
        """One new event, so many days later than its turn: others may expire of it."""
        buffer, changes = self._prepare(user, days)
        self._log(user, changes.rows)
        self._log(user, changes.sweep_rows, [(SWEEP_HEADER, b"")])
        buffer.commit(changes, log_offset=buffer.log_offset + len(changes.rows) + len(changes.sweep_rows))

    def say_arrived(self, partition: int, at_ms: int) -> None:
        """A marker: when the events of the rows that follow came in."""
        buffer = self.buffers[partition]
        marker = buffer.marker(arrival=Arrival(at_ms, int(time.time() * 1000) - at_ms))
        self._producer.produce(self._topics.tokens, marker, MARKER_KEY, partition)
        assert self._producer.flush(10) == 0
        changes = buffer.prepare([], source_offset=buffer.source_offset)
        buffer.commit(changes, log_offset=buffer.log_offset + 1)

    def tear(self, user: str) -> None:
        """One new event of which only the rows reach the log: the processor ends before their summary."""
        _, changes = self._prepare(user)
        self._log(user, changes.puts)

    def _prepare(self, user: str, days: int = 0) -> tuple[TokenBuffer, Changes]:
        i = self.sent
        self.sent += 1
        event = EncodedEvent(
            user, "bill", START_MS + i * 60_000 + days * DAY_MS, f"e{i}", i, np.array([i, 1], np.float32), vector(i),
            None, "raw:0", i, START_MS,
        )  # fmt: skip
        buffer = self.buffers[partition_of(user, self._topics.partitions)]
        return buffer, buffer.prepare([event], source_offset=buffer.source_offset + 1)

    def _log(self, user: str, rows: Sequence[Row], headers: Sequence[tuple[str, bytes]] = ()) -> None:
        partition = partition_of(user, self._topics.partitions)
        for key, value in rows:
            self._producer.produce(self._topics.tokens, value, key, partition, headers=list(headers))
        assert self._producer.flush(10) == 0

    @property
    def users(self) -> list[str]:
        """Everyone, partition by partition."""
        return [user for buffer in self.buffers for user in buffer.users()]

    def expected(self, encoder: Any, names: Sequence[str]) -> dict[tuple[str, str], Any]:
        """Embeddings from scratch, by (user, scenario)."""
        out: dict[tuple[str, str], Any] = {}
        for buffer in self.buffers:
            for user in buffer.users():
                vectors = encoder.encode_from_scratch([buffer.window(user)], list(names))[0]
                out |= {(user, name): v for name, v in zip(names, vectors, strict=True)}
        return out


def make_worker(
    connection: Connection,
    topics: Topics,
    encoder: Any,
    state: Path,
    *,
    scenarios: Mapping[str, ScenarioSettings],
    model: ModelSettings,
    on_ready: Callable[[], None] = lambda: None,
    requests: Any = None,
) -> Worker:
    """With a registry of its own."""
    registry = ScenarioRegistry(connection, topics, scenarios)
    return Worker(
        connection,
        topics,
        buffers(connection, state, replica=True),
        LiveScenarios(
            registry,
            encoder,
            lambda names: ensure(connection, map(topics.embeddings_spec, names)),
            EmbeddingTopicIds(connection, topics),
        ),
        RefreshScheduler.of(model, sum(m.max_events for m in MODALITIES.values())),
        ticks=SilenceTicks(model.silence_days),
        on_ready=on_ready,
        requests=requests,
    )


@contextmanager
def running(worker_of: Callable[[Callable[[], None]], Worker]) -> Iterator[None]:
    """A worker on a thread of its own. worker_of: makes it, given its `on_ready`."""
    ready, stop = threading.Event(), threading.Event()
    failures: list[BaseException] = []

    def run() -> None:
        try:
            worker_of(ready.set).run(stop)
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


def read_topic(connection: Connection, topic: str, partitions: int) -> list[Any]:
    """All messages so far, in order per partition."""
    consumer = connection.consumer("reader", **{"enable.partition.eof": True})
    out = []
    for p in range(partitions):
        consumer.assign([TopicPartition(topic, p, 0)])
        while True:
            message = consumer.poll(60)
            assert message is not None
            if (error := message.error()) is not None:
                assert error.code() == KafkaError._PARTITION_EOF, error
                break
            out.append(message)
    consumer.close()
    return out


def embeddings(connection: Connection, topics: Topics, names: Sequence[str]) -> list[EmbeddingRecord]:
    """All embedding records so far, in order per partition."""
    out = []
    for name in names:
        for message in read_topic(connection, topics.embeddings(name), topics.partitions):
            assert message.value() is not None
            assert message.partition() == partition_of(message.key().decode(), topics.partitions)
            out.append(EmbeddingRecord.unpack(message.value()))
    return out


def back_fills(connection: Connection, topics: Topics) -> dict[tuple[str, int], BackFillRecord]:
    """The newest record of each (scenario, partition)."""
    out: dict[tuple[str, int], BackFillRecord] = {}
    for message in read_topic(connection, topics.back_fills, 1):
        scenario, _, partition = message.key().decode().partition("|")
        key = scenario, int(partition)
        out.pop(key, None)
        if message.value() is not None:
            out[key] = BackFillRecord.unpack(message.value())
            assert out[key].key == message.key()
    return out


def register(
    connection: Connection, topics: Topics, name: str, settings: ScenarioSettings | None, life: int = 1
) -> None:
    """What serve does: the scenario's topic, then its record; None = retire it."""
    ensure(connection, [topics.embeddings_spec(name)])
    producer = connection.producer()
    value = None if settings is None else Registered(settings, life).pack()
    producer.produce(topics.scenarios, value, name.encode(), 0)
    assert producer.flush(10) == 0


def committed(connection: Connection, topics: Topics) -> list[TopicPartition]:
    """What the worker's group has committed: offsets and metadata."""
    return offsets.committed(connection, topics.group_worker, topics.tokens, topics.partitions)


def commit_ends(connection: Connection, group: str, topic: str, partitions: int) -> None:
    """A group has read everything: on an embedded broker, who writes the topic waits for it."""
    consumer = connection.consumer(group)
    tps = [TopicPartition(topic, p) for p in range(partitions)]
    ends = [consumer.get_watermark_offsets(tp, timeout=10, cached=False)[1] for tp in tps]
    offsets = [TopicPartition(topic, p, end) for p, end in enumerate(ends)]
    consumer.commit(offsets=offsets, asynchronous=False)
    consumer.close()


def wait_until(true: Callable[[], bool], what: str, seconds: float = 60.0) -> None:
    """Wait for a condition; fails with its name."""
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, f"not within {seconds:g} s: {what}"
        time.sleep(0.1)


def lag_is_zero(connection: Connection, topics: Topics) -> bool:
    """Whether the worker's group has committed everything in `tokens`."""
    consumer = connection.consumer(topics.group_worker)
    tps = consumer.committed([TopicPartition(topics.tokens, p) for p in range(topics.partitions)], timeout=10)
    ends = [consumer.get_watermark_offsets(tp, timeout=10, cached=False)[1] for tp in tps]
    consumer.close()
    return [tp.offset for tp in tps] == ends
