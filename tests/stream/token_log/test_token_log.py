"""Restoring from, following and owning the `tokens` log on a broker."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from deploy.brokers.local import LocalKafka
from deploy.brokers.process import EmbeddedBroker
from store.base.errors import DataLossError, PartitionTaken, StateError
from store.buffer.token_buffer import TokenBuffer
from store.window.encoded_event import EncodedEvent
from store.window.rows import LIGHT, event_key
from stream.kafka.client import Connection
from stream.kafka.pacing import SafeProducer
from stream.token_log import restore as restoring
from stream.token_log.ownership import OWNER_HEADER, epoch
from stream.token_log.reader import LogReader
from stream.token_log.restore import restore
from stream.token_log.take_over import OwnedLog, take_over
from tests.models.events import Open, event, modalities
from tests.support.processes import wait_until

TOPIC = "tokens"


@pytest.fixture
def connection(embedded_broker: EmbeddedBroker) -> Connection:
    return embedded_broker.connection


def own(connection: Connection, buffer: TokenBuffer, partition: int = 0) -> tuple[OwnedLog, SafeProducer]:
    producer = SafeProducer(connection)
    taken = take_over(connection, TOPIC, partition, buffer, producer)
    assert taken is not None
    return taken[0], producer


def write(log: OwnedLog, producer: SafeProducer, buffer: TokenBuffer, events: list[EncodedEvent], offset: int) -> None:
    changes = buffer.prepare(events, source_offset=offset)
    log.send(changes)
    producer.flush()
    buffer.commit(changes, log_offset=log.delivered())


def batch(start: int, count: int = 4, step: int = 7) -> list[EncodedEvent]:
    return [event(f"u{i % 3}", "ab"[i % 2], start + i * step, f"e{start + i}", offset=start + i) for i in range(count)]


def test_a_lost_disk_is_restored_and_the_log_goes_on(connection: Connection, opened: Open) -> None:
    first = opened("first")
    log, producer = own(connection, first)
    for i in range(6):
        write(log, producer, first, batch(1000 + 40 * i, 8), i)
    second = opened("second")
    seen: list[tuple[int, int]] = []
    result = restore(connection, TOPIC, 0, second, on_progress=lambda rows, left: seen.append((rows, left)))
    assert dict(second.rows()) == dict(first.rows())
    assert second.stream_time == first.stream_time
    assert second.owner == log.owner
    assert result.complete
    assert (result.stale, result.recomputed) == (0, 0)
    assert seen[-1] == (result.rows, 0)
    assert restore(connection, TOPIC, 0, second).rows == 0, "resumed at the end"
    log2, producer2 = own(connection, second)
    assert epoch(log2.owner) == epoch(log.owner) + 1
    write(log2, producer2, second, batch(1300), 6)
    third = opened("third")
    restore(connection, TOPIC, 0, third)
    assert dict(third.rows()) == dict(second.rows())


def test_a_restore_can_be_stopped_and_resumed(
    connection: Connection, opened: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = opened("first")
    log, producer = own(connection, first)
    for i in range(20):
        write(log, producer, first, batch(1000 + 5 * i, 8, 1), i)
    monkeypatch.setattr("stream.token_log.restore.CONSUME_MESSAGES", 20)
    second = opened("second")
    rounds = 0
    while True:
        stop = threading.Event()
        result = restore(connection, TOPIC, 0, second, stop=stop, on_progress=lambda *_: stop.set())  # noqa: B023
        if result.complete:
            break
        rounds += 1
        second.close()
        second = opened("second")
    assert rounds > 3
    assert dict(second.rows()) == dict(first.rows())


@pytest.mark.parametrize("bulk", [False, True])
def test_a_lost_disk_is_not_restored_into_another_schema(
    connection: Connection, opened: Open, monkeypatch: pytest.MonkeyPatch, bulk: bool
) -> None:
    """A8: nobody takes the partition over, nothing reaches the log; with the old configuration it goes on."""
    monkeypatch.setattr(restoring, "BULK_RECORDS", 1 if bulk else 1 << 40)
    first = opened("first")
    log, producer = own(connection, first)
    write(log, producer, first, batch(1000), 0)
    before = len(records(connection))
    other = modalities()
    other["a"] = other["a"].model_copy(update={"numbers": ("x", "price")})
    for _ in range(2):  # and again when it is started anew
        second = opened("second", modalities=other)
        with pytest.raises(StateError, match=r"modalities\.a with numbers = \['x', 'y'\], not \['x', 'price'\]"):
            own(connection, second)
        second.close()
    assert len(records(connection)) == before
    second = opened("second")
    own(connection, second)
    assert dict(second.rows()) == dict(first.rows())
    second.close()
    with pytest.raises(StateError, match=r"modalities\.a"):
        opened("second", modalities=other)


def test_a_zombie_is_not_believed_and_what_it_wrote_over_is_logged_again(connection: Connection, opened: Open) -> None:
    """A stops before sending, B takes over and goes on, A wakes up: A cannot commit, readers skip its rows, and B
    logs its own state of them again, so that the newest record of every key is the owner's."""
    a = opened("a")
    log_a, producer_a = own(connection, a)
    write(log_a, producer_a, a, batch(1000), 0)
    asleep = a.prepare(batch(1050), source_offset=1)
    b = opened("b")
    log_b, producer_b = own(connection, b)
    write(log_b, producer_b, b, batch(1050), 1)
    write(log_b, producer_b, b, batch(1200), 2)
    log_a.send(asleep)
    producer_a.flush()
    with pytest.raises(PartitionTaken):
        log_a.delivered()
    reader = opened("reader")
    assert restore(connection, TOPIC, 0, reader).stale == len(asleep.rows) + len(asleep.sweep_rows)
    assert dict(reader.rows()) == dict(b.rows())
    write(log_b, producer_b, b, batch(1210), 3)
    changes = b.prepare([], source_offset=3)
    assert {key for key, _ in asleep.rows} <= {key for key, _ in changes.rows + changes.sweep_rows}
    write(log_b, producer_b, b, [], 3)
    newest = {key: (value, owner) for key, value, owner in records(connection)}
    held = dict(b.rows())
    assert {newest[key][1] for key, _ in asleep.rows} == {log_b.owner}
    assert {key: value for key, (value, _) in newest.items() if value is not None and key in held} == held
    remembered, owner = newest[event_key("u0", "a", 1000, "e1000")]
    assert remembered is not None
    assert (remembered[0], owner) == (LIGHT, log_b.owner)


def test_a_new_owner_heals_what_it_found(connection: Connection, opened: Open) -> None:
    """A's late rows lie in the log, then B dies: C, restoring, skips them and logs its state of them again."""
    a = opened("a")
    log_a, producer_a = own(connection, a)
    asleep = a.prepare(batch(1000), source_offset=0)
    b = opened("b")
    log_b, producer_b = own(connection, b)
    write(log_b, producer_b, b, batch(1000), 0)
    write(log_b, producer_b, b, batch(1200), 1)
    log_a.send(asleep)
    producer_a.flush()
    c = opened("c")
    log_c, producer_c = own(connection, c)
    assert dict(c.rows()) == dict(b.rows())
    write(log_c, producer_c, c, [], 1)
    newest = {key: (value, owner) for key, value, owner in records(connection)}
    assert all(newest[key] == (dict(c.rows()).get(key), log_c.owner) for key, _ in asleep.rows)


def test_a_reader_follows_several_partitions_and_marks_users(connection: Connection, opened: Open) -> None:
    primaries = [opened(f"p{i}") for i in range(2)]
    logs = [own(connection, buffer, i) for i, buffer in enumerate(primaries)]
    consumer = connection.consumer("follower")
    reader = LogReader(consumer, TOPIC)
    replicas = [opened(f"r{i}", replica=True) for i in range(2)]
    consumer.assign([reader.add(i, replica) for i, replica in enumerate(replicas)])
    for i, (log, producer) in enumerate(logs):
        write(log, producer, primaries[i], batch(1000 + i), 0)
    follow(reader, primaries)
    for primary, replica in zip(primaries, replicas, strict=True):
        assert dict(replica.rows()) == dict(primary.rows())
        assert {d.user_id for d in replica.dirty} == set(primary.users())
        replica.dirty.clear(list(replica.users()), upto=replica.log_offset)
    write(logs[0][0], logs[0][1], primaries[0], [event("new", "a", 1400, "x", offset=1)], 1)
    follow(reader, primaries)
    marks = {d.user_id: d.mark.sweep for d in replicas[0].dirty}
    assert marks == {"new": False, "u0": True, "u1": True, "u2": True}, "the others only lost rows: low priority"
    assert len(replicas[1].dirty) == 0
    consumer.close()


def test_a_position_that_is_not_in_the_log_is_an_error(connection: Connection, opened: Open) -> None:
    buffer = opened("b")
    buffer.apply_log([], next_offset=99)
    with pytest.raises(DataLossError):
        restore(connection, TOPIC, 0, buffer)


@pytest.mark.kafka
def test_a_compacted_log_restores_the_same(kafka_broker: LocalKafka, topic_prefix: str, opened: Open) -> None:
    """Real Kafka, compaction at once: the records left are enough."""
    from confluent_kafka import TopicPartition
    from confluent_kafka.admin import NewTopic

    connection = kafka_broker.connection
    topic = f"{topic_prefix}.tokens"
    config = {"cleanup.policy": "compact", "segment.ms": "100", "min.cleanable.dirty.ratio": "0.001",
              "min.compaction.lag.ms": "0", "delete.retention.ms": "600000"}  # fmt: skip
    admin = connection.admin()
    admin.create_topics([NewTopic(topic, 1, 1, config=config)])[topic].result()
    producer = SafeProducer(connection)
    first = opened("first")
    taken = take_over(connection, topic, 0, first, producer)
    assert taken is not None
    offset = 0

    def more() -> bool:
        """Write a batch; whether the log has shrunk behind us."""
        nonlocal offset
        write(taken[0], producer, first, batch(1000 + offset % 50, 8, 1), offset)
        offset += 1
        consumer = connection.consumer("count")
        consumer.assign([TopicPartition(topic, 0, 0)])
        found = [m for m in consumer.consume(100_000, 0.3) if m.error() is None]
        consumer.close()
        return len(found) < first.log_offset // 2

    wait_until(more, "compacted", timeout_s=60)
    second = opened("second")
    result = restore(connection, topic, 0, second)
    assert result.rows < first.log_offset // 2
    assert dict(second.rows()) == dict(first.rows())
    assert second.owner == taken[0].owner


def follow(reader: LogReader, primaries: list[TokenBuffer]) -> None:
    for _ in range(200):
        reader.poll(timeout=0.05)
        if all(reader.buffers[i].log_offset == primary.log_offset for i, primary in enumerate(primaries)):
            return
    raise AssertionError({i: b.log_offset for i, b in reader.buffers.items()})


def records(connection: Connection) -> list[tuple[bytes, bytes | None, bytes]]:
    """Everything in the log: (key, value, owner)."""
    from confluent_kafka import TopicPartition

    consumer = connection.consumer("records")
    _, end = consumer.get_watermark_offsets(TopicPartition(TOPIC, 0), timeout=10)
    consumer.assign([TopicPartition(TOPIC, 0, 0)])
    found: list[Any] = []
    while len(found) < end:
        found += consumer.consume(1000, 0.1)
    consumer.close()
    return [(m.key(), m.value(), dict(m.headers())[OWNER_HEADER]) for m in found]
