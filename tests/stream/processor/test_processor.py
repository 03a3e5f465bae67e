"""The processor as a real process: whatever kills it and wherever, buffer and log end as the events say."""

from __future__ import annotations

import json
import random
import shutil
import sys
from collections import Counter
from collections.abc import Callable
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import msgpack
import pytest
from confluent_kafka import TopicPartition
from msgspec.structs import replace

from deploy.brokers.local import LocalKafka
from deploy.brokers.process import EmbeddedBroker
from deploy.kafka import topics as deploy_topics
from deploy.run.spawn import Spawn
from store.base import fault, logs
from store.base.settings import ModalitySettings
from store.buffer.partition_buffers import PartitionBuffers
from store.buffer.resources import BufferResources
from store.buffer.token_buffer import TokenBuffer
from store.buffer.view import BufferView
from stream.events.event import Event, Pack, pack
from stream.kafka.client import Connection
from stream.kafka.partitioner import partition_of
from stream.processor.encode_events import encode_events
from stream.processor.processor import EXIT_BATCH_FAILED
from stream.raw_counts import SINCE_HEADER
from stream.settings import KafkaSettings
from stream.token_log.restore import restore
from stream.topics import Topics
from tests.models.buffer_model import BufferModel
from tests.support.hash_encoder import HashEncoder
from tests.support.offsets import committed
from tests.support.processes import Role, running, wait_until
from tests.support.worker_bench import commit_ends

Start = Callable[[dict[str, int]], EmbeddedBroker]

DAY_MS = 86_400_000
HOUR_MS = 3_600_000
NOW = 1_700_000_000_000
PARTITIONS = 2
POINTS = ("processor.1", "processor.2", "processor.3", "processor.4a", "processor.4", "processor.5")
MODALITIES = {
    "click": ModalitySettings(topic="web", text="{page}", window_days=10, memory_days=25, max_events=15),
    "pay": ModalitySettings(
        topic="shop", text="{shop}", numbers=("amount",), window_days=20, memory_days=0, max_events=5
    ),
    "person": ModalitySettings(topic="person", kind="tabular", window_days=30),  # type: ignore[arg-type]
}


def make_events(seed: int, count: int, *, first: int = 0) -> list[Event]:
    """Events of 12 users over 30 days, disordered, 10 % of them sent twice, some ids with two contents.

    first: raw offset of the first.
    """
    rng = random.Random(seed)
    events = []
    for i in range(count):
        user, modality = f"u{rng.randrange(12)}", rng.choice(("click", "click", "pay", "person"))
        ts = NOW - 30 * DAY_MS + 30 * DAY_MS * i // count - rng.randrange(DAY_MS)
        numbers = (rng.choice((None, float(rng.randrange(1000)))),) if modality == "pay" else ()
        fields = (
            {"age": float(rng.randrange(90)), "city": rng.choice(("a", "b", None))} if modality == "person" else None
        )
        text = "" if fields else f"text {rng.randrange(30)}"
        name = f"e{i}" if rng.random() > 0.02 else "e0"
        event = Event(user, modality, ts, name, text, numbers, fields, f"raw.{modality}", 0, first + len(events), ts, 5)
        events.append(event)
        if rng.random() < 0.1:
            events.append(replace(event, source_offset=first + len(events)))
    return events


@dataclass
class Bench:
    """A broker, topics under a prefix, and a processor's directory."""

    connection: Connection
    topics: Topics
    data_dir: Path
    log_dir: Path
    spawn: Spawn

    def child(self, name: str = "processor", *, env: dict[str, str] | None = None, **spec: Any) -> Role:
        described = {
            "connection": {**asdict(self.connection), "properties": dict(self.connection.properties)},
            "kafka": {"topic_prefix": self.topics.prefix, "partitions": PARTITIONS},
            "modalities": {name: m.model_dump(mode="json") for name, m in MODALITIES.items()},
            "processor": {"batch_messages": 3, "batch_wait_seconds": 0.02},
            "data_dir": str(self.data_dir / name),
            **spec,
        }
        command = [sys.executable, "-m", "tests.support.processor_child", json.dumps(described)]
        return Role(name, command, self.log_dir, env, self.spawn)

    def send(self, events: list[Event], *, pack_events: int = 7) -> dict[int, list[Event]]:
        """Publish in packs; returns the events per partition in order."""
        by_partition: dict[int, list[Event]] = {}
        for event in events:
            by_partition.setdefault(partition_of(event.user_id, PARTITIONS), []).append(event)
        producer = self.connection.producer()
        for partition, own in by_partition.items():
            for at in range(0, len(own), pack_events):
                value = pack(NOW, own[at : at + pack_events])
                producer.produce(self.topics.events, value, partition=partition, headers=[(SINCE_HEADER, b"1")])
        assert producer.flush(20) == 0
        return by_partition

    def committed(self) -> dict[int, int]:
        found = committed(self.connection, self.topics.group_processor, self.topics.events, PARTITIONS)
        return {tp.partition: max(tp.offset, 0) for tp in found}

    def ends(self, topic: str) -> dict[int, int]:
        consumer = self.connection.consumer("ends")
        found = {p: consumer.get_watermark_offsets(TopicPartition(topic, p), timeout=10)[1] for p in range(PARTITIONS)}
        consumer.close()
        return found

    def done(self) -> bool:
        return self.committed() == self.ends(self.topics.events)

    def open(self, path: Path, partition: int) -> TokenBuffer:
        encoder = HashEncoder()
        resources = BufferResources.create(block_cache_bytes=8 << 20, write_buffer_bytes=4 << 20)
        identity = self.connection.identity
        buffers = PartitionBuffers(path, identity, MODALITIES, encoder.id, encoder.dim, HOUR_MS, resources)
        return buffers.open(partition)

    def check(self, sent: dict[int, list[Event]], tmp_path: Path) -> None:
        """The buffer on disk, and one made from `tokens` alone, hold what the model says, byte for byte."""
        for partition, events in sent.items():
            model = BufferModel(MODALITIES, HashEncoder().dim, HOUR_MS)
            outcomes = Counter(model.batch(encode_events([Pack.of(NOW, events)], HashEncoder())))
            expected = model.rows()
            for path in (self.data_dir / "processor", tmp_path / "from log"):
                buffer = self.open(path, partition)
                restore(self.connection, self.topics.tokens, partition, buffer)
                while (left := buffer.prepare([], source_offset=buffer.source_offset)).sweep_rows or left.sweep_left:
                    buffer.commit(left, log_offset=buffer.log_offset)
                rows, account = dict(buffer.rows()), buffer.account.total()
                buffer.close()
                assert account == outcomes, "each once, as what it was judged first"
                assert rows.keys() == expected.keys()
                assert rows == expected
            assert outcomes["applied"] > 20


@pytest.fixture
def embedded(start_embedded: Start, spawn: Spawn, tmp_path: Path) -> Bench:
    topics = Topics(KafkaSettings(topic_prefix="t", partitions=PARTITIONS))
    names = dict.fromkeys((topics.events, topics.tokens, topics.dead_letters), PARTITIONS)
    return Bench(start_embedded(names).connection, topics, tmp_path / "data", tmp_path / "logs", spawn)


@pytest.fixture
def kafka(kafka_broker: LocalKafka, spawn: Spawn, topic_prefix: str, tmp_path: Path) -> Bench:
    topics = Topics(KafkaSettings(topic_prefix=topic_prefix, partitions=PARTITIONS))
    connection = Connection(
        kafka_broker.connection.bootstrap,
        {"session.timeout.ms": 6000, "heartbeat.interval.ms": 500},
        identity=kafka_broker.connection.identity,
    )
    deploy_topics.ensure(connection, topics.specs({}, ()))
    return Bench(connection, topics, tmp_path / "data", tmp_path / "logs", spawn)


def test_events_end_in_the_buffer_and_in_the_log(embedded: Bench, tmp_path: Path) -> None:
    sent = embedded.send(make_events(1, 600))
    child = embedded.child()
    with running(child):
        wait_until(embedded.done, "all committed")
        assert child.stop() == 0, child.tail()
    embedded.check(sent, tmp_path)


def test_foreign_messages_go_to_dead_letters_and_stop_nothing(embedded: Bench, tmp_path: Path) -> None:
    events = make_events(2, 200)
    producer = embedded.connection.producer()
    stranger = replace(events[0], modality="smell")
    short, mistyped = msgpack.packb((1, NOW, [("u", "click")])), pack(NOW, [replace(events[0], ts="x")])
    foreign = [b"", b"{}", b"\xc1", short, mistyped]
    for value in [*foreign, pack(NOW, [stranger])]:
        producer.produce(embedded.topics.events, value, partition=0)
    producer.flush(20)
    sent = embedded.send(events)
    child = embedded.child()
    with running(child):
        wait_until(embedded.done, "all committed")
        assert child.stop() == 0
    embedded.check(sent, tmp_path)
    consumer = embedded.connection.consumer("dead")
    consumer.assign([TopicPartition(embedded.topics.dead_letters, p, 0) for p in range(PARTITIONS)])
    letters = []
    while len(letters) < sum(embedded.ends(embedded.topics.dead_letters).values()):
        letters.append(consumer.poll(10))
    consumer.close()
    codes = Counter(dict(m.headers())["error"].decode() for m in letters)
    assert codes == {"invalid_pack": 5, "unknown_modality": 1}
    assert {m.value() or b"" for m in letters} == {*foreign, pack(NOW, [stranger])}


@pytest.mark.slow
@pytest.mark.crash
def test_an_exception_in_a_batch_stops_the_process_before_anything_is_acknowledged(
    embedded: Bench, tmp_path: Path
) -> None:
    sent = embedded.send(make_events(3, 300))
    failing = embedded.child(fail_at=4).start()
    wait_until(lambda: not failing.alive(), "the process ended")
    assert failing.code() == EXIT_BATCH_FAILED
    assert "the encoder was told to fail" in failing.output()
    committed = embedded.committed()
    durable = {p: embedded.open(embedded.data_dir / "processor", p) for p in range(PARTITIONS)}
    for partition, buffer in durable.items():
        assert committed[partition] <= buffer.source_offset + 1
        buffer.close()
    assert committed != embedded.ends(embedded.topics.events)
    # on an embedded broker rows of a former life, whose size is not known, wait for who reads them
    commit_ends(embedded.connection, embedded.topics.group_worker, embedded.topics.tokens, PARTITIONS)
    with running(embedded.child(), ready_s=30):
        wait_until(embedded.done, "all committed")
    embedded.check(sent, tmp_path)


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


@pytest.mark.kafka
@pytest.mark.crash
@pytest.mark.parametrize("damaged", ["*.sst", "MANIFEST*"])
def test_a_damaged_buffer_is_restored_from_the_log(kafka: Bench, tmp_path: Path, damaged: str) -> None:
    """B14: it died again and again, ready before each death."""
    sent = kafka.send(make_events(3, 300))
    child = kafka.child()
    with running(child, ready_s=30):
        wait_until(kafka.done, "all committed")
        assert child.stop() == 0, child.tail()
    for partition in range(PARTITIONS):
        path = kafka.data_dir / "processor" / str(partition)
        with closing(kafka.open(kafka.data_dir / "processor", partition)) as buffer:
            buffer.compact()
        cut(max(path.glob(damaged), key=lambda file: (file.stat().st_mtime_ns, file.name)))
    for partition, own in kafka.send(make_events(5, 100, first=1000)).items():
        sent[partition] += own
    with running(child, ready_s=30):
        lines = (json.loads(line)["event"] for line in child.output().splitlines() if line.startswith("{"))
        said = [name for name in lines if name in {"partition_usable", "role_ready"}]
        assert said == ["partition_usable"] * PARTITIONS + ["role_ready"]
        wait_until(kafka.done, "all committed")
        set_aside = child.events("state_set_aside")
        assert child.stop() == 0, child.tail()
    assert [line["partition"] for line in set_aside] == list(range(PARTITIONS))
    kafka.check(sent, tmp_path)


@pytest.mark.kafka
@pytest.mark.crash
def test_a_crash_after_any_step_loses_and_doubles_nothing(kafka: Bench, tmp_path: Path) -> None:
    """Die once after each step of the commit protocol, then once by kill -9 in the middle, then finish."""
    sent: dict[int, list[Event]] = {p: [] for p in range(PARTITIONS)}
    events = make_events(4, 900)
    rounds = len(POINTS) + 1
    for i, point in enumerate((*POINTS, "")):
        size = len(events) // rounds
        for partition, own in kafka.send(events[i * size : (i + 1) * size]).items():
            sent[partition] += own
        child = kafka.child(env={"ANCHORSTREAM_FAULT": f"{point}:2"} if point else None).start()
        if point:
            wait_until(lambda one=child: not one.alive(), f"died at {point}")  # type: ignore[misc]
            assert child.code() == fault.EXIT_CODE, child.tail()
        else:
            child.wait_for(lambda: any(kafka.committed().values()), "something committed")
            child.kill()
        committed = kafka.committed()
        for partition in range(PARTITIONS):
            buffer = kafka.open(kafka.data_dir / "processor", partition)
            assert committed[partition] <= buffer.source_offset + 1, "nothing is committed ahead of durable state"
            buffer.close()
    with running(kafka.child(), ready_s=30):
        wait_until(kafka.done, "all committed")
    kafka.check(sent, tmp_path)


@pytest.mark.kafka
@pytest.mark.crash
def test_two_processors_share_the_partitions_and_survive_one_being_killed(kafka: Bench, tmp_path: Path) -> None:
    events = make_events(5, 1200)
    sent: dict[int, list[Event]] = {p: [] for p in range(PARTITIONS)}

    def send(start: int, stop: int) -> None:
        for partition, own in kafka.send(events[start:stop]).items():
            sent[partition] += own

    first, second = kafka.child("processor"), kafka.child("other")
    with running(first):
        send(0, 400)
        wait_until(kafka.done, "first third")
        with running(second):
            wait_until(lambda: "buffer_closed" in first.output(), "a partition moved")
            send(400, 800)
            wait_until(kafka.done, "second third")
            assert "partition_owned" in second.output()
            assert "partition_usable" in second.output(), "how long it took is reported"
            send(800, 1000)
            second.kill()
        send(1000, len(events))
        wait_until(kafka.done, "the rest, by the survivor")
    for partition, own in sent.items():
        model = BufferModel(MODALITIES, HashEncoder().dim, HOUR_MS)
        outcomes = Counter(model.batch(encode_events([Pack.of(NOW, own)], HashEncoder())))
        buffer = kafka.open(tmp_path / "from log", partition)
        restore(kafka.connection, kafka.topics.tokens, partition, buffer)
        assert buffer.account.total() == outcomes
        while (left := buffer.prepare([], source_offset=0)).sweep_rows or left.sweep_left:
            buffer.commit(left, log_offset=buffer.log_offset)
        assert dict(buffer.rows()) == model.rows()
        buffer.close()


@pytest.mark.kafka
def test_a_new_disk_is_restored_before_the_next_event_comes(kafka: Bench, tmp_path: Path) -> None:
    """A copy elsewhere that fell behind is not the furthest for longer than a restore takes."""
    sent = kafka.send(make_events(8, 300))
    child = kafka.child()
    with running(child):
        wait_until(kafka.done, "all committed")
        assert child.stop() == 0, child.tail()
    shutil.rmtree(kafka.data_dir / "processor")
    with running(child):
        wait_until(lambda: len(child.events("partition_usable")) == PARTITIONS, "both are open")
        assert child.stop() == 0, child.tail()
    kafka.check(sent, tmp_path)


@pytest.mark.kafka
@pytest.mark.crash
def test_a_standby_takes_over_what_it_has_followed(kafka: Bench, tmp_path: Path) -> None:
    """The owner is killed; the other had read all it wrote, so nothing is restored, and nothing is lost or doubled."""
    processor = {"batch_messages": 3, "batch_wait_seconds": 0.02, "standby": True}
    events = make_events(9, 1200)
    sent: dict[int, list[Event]] = {p: [] for p in range(PARTITIONS)}

    def send(start: int, stop: int) -> None:
        for partition, own in kafka.send(events[start:stop]).items():
            sent[partition] += own
        wait_until(kafka.done, f"events up to {stop}")

    survivor, other = kafka.child("processor", processor=processor), kafka.child("other", processor=processor)
    with running(survivor):
        with running(other):
            wait_until(lambda: bool(other.events("partition_usable")), "each has one")
            send(0, 800)
            lost = other.events("partition_usable")[-1]["partition"]
            end = kafka.ends(kafka.topics.tokens)[lost]
            path = kafka.data_dir / "processor" / str(lost)
            wait_until(lambda: _log_offset(path) == end, "the standby has read everything")
            before = len(survivor.output())
            other.kill()
        taken = lambda name: [e for e in survivor.events(name, before) if e["partition"] == lost]  # noqa: E731
        wait_until(lambda: bool(taken("partition_usable")), "taken over")
        assert sum(e["rows"] for e in taken("buffer_restored")) == 0
        send(800, len(events))
        assert survivor.stop() == 0, survivor.tail()
    kafka.check(sent, tmp_path)


@pytest.mark.kafka
def test_a_rebalance_does_not_wait_for_a_restore(kafka: Bench, tmp_path: Path) -> None:
    """Nothing is lost, nobody dies."""
    first, second = kafka.child("processor", restore_slowly=True), kafka.child("other")
    sent = kafka.send(make_events(10, 400))
    first.start()
    try:
        first.wait_for(lambda: bool(first.events("restoring")), "the restore has begun")
        assert not first.events("role_ready"), "ready once its partitions are open"
        with running(second):
            wait_until(lambda: bool(first.events("gave_up")), "the restore was given up")
            wait_until(lambda: bool(second.events("partition_usable")), "the other one has its part")
            wait_until(kafka.done, "all committed")
            assert second.stop() == 0, second.tail()
        wait_until(lambda: len(first.events("partitions_assigned")) >= 3, "all is ours again")
        for partition, own in kafka.send(make_events(11, 100, first=1000)).items():
            sent[partition] += own
        wait_until(kafka.done, "all committed")
        assert first.events("role_ready")
        assert first.stop() == 0, first.tail()
    finally:
        if first.alive():
            first.kill()
    kafka.check(sent, tmp_path)


@pytest.mark.kafka
def test_batches_go_on_while_another_partition_is_restored(kafka: Bench, tmp_path: Path) -> None:
    """B13. Events of the one that is restored wait on the broker; nothing is committed past them."""
    cold, warm = 0, 1
    sent = kafka.send(make_events(12, 300))
    child = kafka.child(hold=cold, hold_until=str(tmp_path / "go on"))
    (tmp_path / "go on").touch()
    with running(child):
        wait_until(kafka.done, "all committed")
        assert child.stop() == 0, child.tail()
    (tmp_path / "go on").unlink()
    shutil.rmtree(kafka.data_dir / "processor" / str(cold))
    before = kafka.committed()

    def send(seed: int) -> None:
        for partition, own in kafka.send(make_events(seed, 200, first=1000 * seed)).items():
            sent[partition] += own
        wait_until(lambda: kafka.committed()[warm] == kafka.ends(kafka.topics.events)[warm], "the warm one's events")

    child.start()
    try:
        send(13)
        child.wait_for(lambda: bool(child.events("restoring")), "the cold one is being restored")
        send(14)
        assert [line["partition"] for line in child.events("partition_usable")] == [warm]
        assert kafka.committed()[cold] == before[cold]
        assert not child.events("role_ready"), "ready once its partitions are open"
        (tmp_path / "go on").touch()
        wait_until(kafka.done, "all committed")
        assert [line["partition"] for line in child.events("partition_usable")] == [warm, cold]
        assert child.events("role_ready")
        assert child.stop() == 0, child.tail()
    finally:
        if child.alive():
            child.kill()
    kafka.check(sent, tmp_path)


def _log_offset(path: Path) -> int:
    with BufferView(path, MODALITIES) as view:
        return view.log_offset


@pytest.mark.slow
def test_stop_while_nobody_reads_tokens(embedded: Bench) -> None:
    """On the embedded broker the processor waits for readers of `tokens`; it must still stop, and lose nothing."""
    events = [
        Event(f"u{i % 5}", "click", NOW + i, f"e{i}", f"text {i}", (), None, "raw", 0, i, NOW, NOW)
        for i in range(40_000)
    ]
    embedded.send(events, pack_events=500)
    child = embedded.child(processor={"batch_messages": 4, "batch_wait_seconds": 0.02})
    with running(child):
        wait_until(lambda: any(embedded.ends(embedded.topics.tokens).values()), "something written")
        wait_until(lambda: bool(child.events(logs.INPUT_PAUSED)), "it waits for readers")
        assert not embedded.done(), "it should be waiting"
        assert child.stop() == 0, child.tail()
    committed = embedded.committed()
    for partition in range(PARTITIONS):
        buffer = embedded.open(embedded.data_dir / "processor", partition)
        assert committed[partition] == buffer.source_offset + 1
        buffer.close()
