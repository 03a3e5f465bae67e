"""Events per second of ingest and processor, beside a bare confluent-kafka loop and a Faust agent that does nothing.

Each case runs in a process of its own against one embedded broker in another, reading topics filled beforehand; the
clock runs from 10 % of the events to the last, so start-up does not count. The processor uses the real text encoder
with a warm cache: 400 distinct texts. `pack_events` is how many events travel in one message of `events`.

`cpu_microseconds` is CPU time per event of the whole process (client threads, Faust and RocksDB's among them),
`own_cpu_microseconds` of the one thread that does the role's own work: what other load on the machine changes least.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from deploy.benches.report import BenchResult
from store.base.settings import ModalitySettings
from stream.kafka.client import Connection
from stream.settings import KafkaSettings
from stream.topics import Topics, TopicSpec

RAW, OUT = "bench.raw", "bench.out"
PARTITIONS = 4
USERS = 1000
TEXTS = 400
PACKS = (1, 4, 16, 64)
CASE_SECONDS = 120.0
MODALITIES = {"bill": ModalitySettings(topic=RAW, text="{merchant} by {channel}", numbers=("amount",))}


def run(*, brief: bool) -> BenchResult:
    """`brief`: fewer events, and packs of 1 and 64 only."""
    count = 30_000 if brief else 80_000
    rows: list[dict[str, Any]] = []
    with _broker() as connection:
        _fill_raw(connection, count)
        rows += [_measure(case, connection, Topics(KafkaSettings()), count) for case in ("bare_confluent", "ingest")]
    for pack_events in (1, 64) if brief else PACKS:
        # a message costs Faust about 0.1 ms whatever it holds: fewer events where each is a message
        events = min(count, 10_000 * pack_events)
        for case in ("noop_faust", "processor"):
            with _broker() as connection:
                topics = Topics(KafkaSettings())
                _fill_events(connection, topics, events, pack_events)
                rows.append(_measure(case, connection, topics, events) | {"pack_events": pack_events})
    speed = {(row["case"], row.get("pack_events")): row["events_per_second"] for row in rows}
    ratios = {
        "ingest_vs_bare_confluent": speed["ingest", None] / speed["bare_confluent", None],
        "processor_vs_noop_faust": speed["processor", 64] / speed["noop_faust", 64],
        "processor_vs_noop_faust_one_event_a_message": speed["processor", 1] / speed["noop_faust", 1],
        "packed_processor_vs_noop_faust_one_event_a_message": speed["processor", 64] / speed["noop_faust", 1],
    }
    return BenchResult(rows, ratios)


@contextmanager
def _broker() -> Iterator[Connection]:
    from deploy.brokers.process import EmbeddedBroker

    topics = Topics(KafkaSettings())
    names = dict.fromkeys((RAW, OUT, topics.events, topics.tokens, topics.dead_letters), PARTITIONS)
    with tempfile.TemporaryDirectory() as directory:
        broker = EmbeddedBroker(Path(directory) / "broker.json", names)
        try:
            yield replace(broker.connection, properties=_GROUP)
        finally:
            broker.stop()


_GROUP = {"session.timeout.ms": 6000, "heartbeat.interval.ms": 1000}


def _fill_raw(connection: Connection, count: int) -> None:
    producer, rng, now = connection.producer(), random.Random(1), int(time.time() * 1000)
    for i in range(count):
        user = f"user-{rng.randrange(USERS)}"
        event = {"event_id": f"e{i:09}", "user_id": user, "ts": now - count + i, "amount": rng.randrange(10_000) / 100}
        text = {"merchant": f"shop {rng.randrange(TEXTS)}", "channel": "card"}
        _send(producer, RAW, json.dumps(event | text).encode(), key=user.encode())
    _finish(connection, producer, RAW)


def _fill_events(connection: Connection, topics: Topics, count: int, pack_events: int) -> None:
    from stream.events.event import Event
    from stream.events.packing import packs
    from stream.kafka.partitioner import partition_of
    from stream.raw_counts import SINCE_HEADER, since_header

    producer, rng, now = connection.producer(), random.Random(1), int(time.time() * 1000)
    waiting: dict[int, list[Event]] = {p: [] for p in range(PARTITIONS)}

    def flush(partition: int) -> None:
        for value, sources in packs(now, waiting[partition], pack_events):
            counted = [(SINCE_HEADER, since_header([now] * len(sources)))]
            _send(producer, topics.events, value, partition=partition, headers=counted)
        waiting[partition].clear()

    for i in range(count):
        user, text, amount = f"user-{rng.randrange(USERS)}", f"shop {rng.randrange(TEXTS)} by card", float(i % 977)
        ts = now - count + i
        event = Event(user, "bill", ts, f"e{i:09}", text, (amount,), None, RAW, 0, i, ts, ts)
        partition = partition_of(user, PARTITIONS)
        waiting[partition].append(event)
        if len(waiting[partition]) == pack_events:
            flush(partition)
    for partition in waiting:
        flush(partition)
    _finish(connection, producer, topics.events)


def _send(
    producer: Any,
    topic: str,
    value: bytes,
    *,
    key: bytes | None = None,
    partition: int = -1,
    headers: Sequence[tuple[str, bytes]] = (),
) -> None:
    while True:
        try:
            return producer.produce(topic, value, key, partition, headers=list(headers))  # type: ignore[no-any-return]
        except BufferError:
            producer.poll(0.05)


def _finish(connection: Connection, producer: Any, topic: str) -> None:
    """Flush; fail if the embedded broker, which keeps 5 MiB a partition, has dropped anything."""
    from confluent_kafka import TopicPartition

    producer.flush()
    consumer = connection.consumer("bench.check")
    lows = [consumer.get_watermark_offsets(TopicPartition(topic, p), timeout=10)[0] for p in range(PARTITIONS)]
    consumer.close()
    assert not any(lows), f"{topic} does not fit the embedded broker"


def _measure(case: str, connection: Connection, topics: Topics, count: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as directory:
        spec = {"case": case, "connection": asdict(connection), "count": count, "data_dir": directory}
        done = subprocess.run(
            [sys.executable, "-m", "deploy.benches.stream", json.dumps(spec)],
            check=True,
            stdout=subprocess.PIPE,
            text=True,
            timeout=CASE_SECONDS,
        )
    found = json.loads(done.stdout.splitlines()[-1])
    return {
        "case": case,
        "events": count,
        "seconds": found["seconds"],
        "events_per_second": found["events"] / found["seconds"],
        "cpu_microseconds": 1e6 * found["cpu"] / found["events"],
        "own_cpu_microseconds": 1e6 * found["own_cpu"] / found["events"],
    }


# The child process: one case


def _child(spec: dict[str, Any]) -> None:
    connection, topics = Connection(**spec["connection"]), _Unread(KafkaSettings())
    _CASES[spec["case"]](connection, topics, _Watch(spec["count"]), Path(spec["data_dir"]))


class _Unread(Topics):
    """Nobody reads what is written here, so no writer waits for its readers."""

    def specs(self, modalities: Mapping[str, ModalitySettings], scenarios: Iterable[str]) -> list[TopicSpec]:
        return []


class _Watch:
    """Looks at a counter every few milliseconds; at the last event prints what was spent since the tenth part of them,
    and ends the process."""

    def __init__(self, count: int) -> None:
        self._count = count

    def start(self, progress: Callable[[], float], own_thread: str = "MainThread") -> None:
        """own_thread: how the name of the thread begins that does the role's own work."""
        threading.Thread(target=self._run, args=(progress, own_thread), daemon=True).start()

    def _run(self, progress: Callable[[], float], own_thread: str) -> None:
        while progress() < self._count / 10:
            time.sleep(0.002)
        (ident,) = [t.ident for t in threading.enumerate() if t.name.startswith(own_thread)]
        assert ident is not None
        clock = time.pthread_getcpuclockid(ident)
        base, begun, cpu, own = progress(), time.monotonic(), time.process_time(), time.clock_gettime(clock)
        while progress() < self._count:
            time.sleep(0.002)
        spent = {
            "events": progress() - base,
            "seconds": time.monotonic() - begun,
            "cpu": time.process_time() - cpu,
            "own_cpu": time.clock_gettime(clock) - own,
        }
        sys.stdout.write(f"{json.dumps(spent)}\n")
        sys.stdout.flush()
        os._exit(0)  # a clean end is not what is measured


def _bare_confluent(connection: Connection, topics: Topics, watch: _Watch, _: Path) -> None:
    from confluent_kafka import TopicPartition

    consumer, producer = connection.consumer("bench.bare"), connection.producer()
    consumer.subscribe([RAW])
    done = 0
    watch.start(lambda: done)
    while True:
        messages = consumer.consume(2000, 0.1)
        ends = {}
        for message in messages:
            _send(producer, OUT, message.value(), key=message.key())
            ends[message.partition()] = message.offset() + 1
        producer.flush()
        if ends:
            offsets = [TopicPartition(RAW, partition, end) for partition, end in ends.items()]
            consumer.commit(offsets=offsets, asynchronous=False)
        done += len(messages)


def _ingest(connection: Connection, topics: Topics, watch: _Watch, _: Path) -> None:
    from store.base import metrics
    from stream.ingest.ingest import Ingest
    from stream.settings import IngestSettings

    watch.start(lambda: _total(metrics.EVENTS_ACCEPTED))
    Ingest(connection, topics, MODALITIES, IngestSettings()).run(threading.Event())


def _noop_faust(connection: Connection, topics: Topics, watch: _Watch, data_dir: Path) -> None:
    from stream.events.event import unpack
    from stream.processor import faust_app

    class Noop:
        done = 0
        positions: dict[int, int]

        async def process(self, messages: Sequence[faust_app.Message]) -> None:
            for message in messages:
                self.done += len(unpack(message.value).user_ids)
                self.positions[message.partition] = message.offset + 1

        async def assigned(self, partitions: Sequence[int]) -> None: ...

        def assigning(self) -> None: ...

        def revoking(self) -> None: ...

        async def revoked(self, partitions: Sequence[int]) -> None: ...

        def durable(self, partition: int) -> int | None:
            return self.positions.get(partition)

    noop = Noop()
    noop.positions = {}
    watch.start(lambda: noop.done)

    async def consume() -> None:
        app = faust_app.create(
            topics.group_processor, topics.events, noop, connection, partitions=PARTITIONS, data_dir=data_dir / "faust",
            batch_messages=64, batch_wait_seconds=0.05,
        )  # fmt: skip
        await app.start()
        await asyncio.Event().wait()

    asyncio.run(consume())


def _processor(connection: Connection, topics: Topics, watch: _Watch, data_dir: Path) -> None:
    from encoder.model.text_encoder import TextEncoder
    from store.base import metrics
    from store.buffer.partition_buffers import PartitionBuffers
    from store.buffer.resources import BufferResources
    from stream.processor.processor import Processor
    from stream.settings import ProcessorSettings

    encoder = TextEncoder()
    encoder.encode([f"shop {i} by card" for i in range(TEXTS)])
    watch.start(lambda: _total(metrics.EVENTS_APPLIED), "batch")
    resources = BufferResources.create()
    buffers = PartitionBuffers(data_dir, connection.identity, MODALITIES, encoder.id, encoder.dim, 3_600_000, resources)
    role = Processor(connection, topics, ProcessorSettings(), encoder, buffers)
    role.run(threading.Event())


def _total(counter: Any) -> float:
    return float(sum(s.value for metric in counter.collect() for s in metric.samples if s.name.endswith("_total")))


_CASES: dict[str, Callable[[Connection, Topics, _Watch, Path], None]] = {
    "bare_confluent": _bare_confluent,
    "ingest": _ingest,
    "noop_faust": _noop_faust,
    "processor": _processor,
}

if __name__ == "__main__":
    _child(json.loads(sys.argv[1]))
