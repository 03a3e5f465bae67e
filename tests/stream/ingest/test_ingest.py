"""Ingest on the embedded broker: nothing lost, garbage isolated with its reason, offsets never ahead."""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import structlog
from confluent_kafka import TopicPartition

from deploy.brokers.process import EmbeddedBroker
from deploy.run.spawn import Spawn
from store.base import logs
from store.base.settings import ModalitySettings
from store.buffer.resources import BufferResources
from store.buffer.token_buffer import TokenBuffer
from stream.clock import AGREE, ClockState, read_clock
from stream.dead_letter import DeadLetterHeaders, source_headers
from stream.events.event import Event, unpack
from stream.events.field_counts import FieldCounts
from stream.ingest.field_presence import FEW
from stream.ingest.ingest import Ingest
from stream.kafka import pacing
from stream.kafka.client import Connection
from stream.kafka.partitioner import partition_of
from stream.processor.encode_events import encode_events
from stream.raw_counts import SINCE_HEADER, read_counts, read_since
from stream.settings import Clock, IngestSettings, KafkaSettings
from stream.topics import Topics
from tests.support.hash_encoder import HashEncoder
from tests.support.processes import Role, wait_until

Start = Callable[[dict[str, int]], EmbeddedBroker]

MODALITIES = {
    "click": ModalitySettings(topic="web", text="{page}", window_days=30, memory_days=0),
    "view": ModalitySettings(topic="web", text="{page}", window_days=30, memory_days=0),
    "pay": ModalitySettings(topic="shop", text="{shop}", numbers=("amount",), window_days=30, memory_days=0),
}
TOPICS = Topics(KafkaSettings(partitions=4))
NAMES = {"web": 3, "shop": 2, TOPICS.events: 4, TOPICS.dead_letters: 4}
DAY_MS = 86_400_000


@contextmanager
def running(connection: Connection, settings: IngestSettings | None = None) -> Iterator[Ingest]:
    """One ingest in a thread; what it raises is raised here."""
    ready, stop = threading.Event(), threading.Event()
    failures: list[BaseException] = []
    ingest = Ingest(connection, TOPICS, MODALITIES, settings or IngestSettings(), on_ready=ready.set)

    def run() -> None:
        try:
            ingest.run(stop)
        except BaseException as exc:
            failures.append(exc)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        assert ready.wait(120) or failures
        yield ingest
    finally:
        stop.set()
        thread.join(120)
        assert not thread.is_alive()
        if failures:
            raise failures[0]


HEADERS = [("trace", b"1"), ("trace", b"2"), ("error", None)]
"""Of every raw message."""
PRODUCED_AT = 1_700_000_000_123


def send(connection: Connection, messages: Sequence[tuple[str, bytes | None, bytes | None]]) -> None:
    producer = connection.producer(**{"message.max.bytes": 4_000_000})
    for topic, key, value in messages:
        producer.produce(topic, value, key=key, headers=HEADERS, timestamp=PRODUCED_AT)
    assert producer.flush(120) == 0


def read_to_end(connection: Connection, topic: str) -> list[Any]:
    """Messages of all partitions, in order within each."""
    consumer = connection.consumer("reader")
    left: dict[int, int] = {}
    for partition in range(NAMES[topic]):
        low, end = consumer.get_watermark_offsets(TopicPartition(topic, partition), timeout=10)
        assert low == 0
        left[partition] = end
    consumer.assign([TopicPartition(topic, partition, 0) for partition, end in left.items() if end])
    messages: list[Any] = []
    while len(messages) < sum(left.values()):
        message = consumer.poll(10)
        assert message is not None
        assert message.error() is None
        messages.append(message)
    consumer.close()
    return sorted(messages, key=lambda m: (m.partition(), m.offset()))


def events_of(connection: Connection) -> list[Event]:
    events = []
    for message in read_to_end(connection, TOPICS.events):
        for event in unpack(message.value()).events:
            assert partition_of(event.user_id, TOPICS.partitions) == message.partition()
            events.append(event)
    return events


def wait_committed(connection: Connection) -> None:
    """Until the group's committed offsets reach the ends of the raw topics."""
    consumer = connection.consumer(TOPICS.group_ingest)
    raw = [TopicPartition(topic, p) for topic in ("web", "shop") for p in range(NAMES[topic])]
    deadline = time.monotonic() + 120
    while True:
        ends = {(tp.topic, tp.partition): consumer.get_watermark_offsets(tp, timeout=5)[1] for tp in raw}
        committed = {(tp.topic, tp.partition): max(tp.offset, 0) for tp in consumer.committed(raw, timeout=5)}
        if committed == ends:
            break
        assert all(committed[tp] <= ends[tp] for tp in ends)
        assert time.monotonic() < deadline, (committed, ends)
        time.sleep(0.05)
    consumer.close()


def good(i: int, now: int) -> tuple[str, bytes, bytes]:
    user = f"u{i % 17}"
    if i % 3:
        event = {"user_id": user, "ts": now - i, "event_id": f"e{i}", "modality": "click", "page": f"p{i % 5}"}
        return "web", user.encode(), json.dumps(event).encode()
    event = {"user_id": user, "ts": now - i, "event_id": f"e{i}", "shop": "baker", "amount": i}
    return "shop", user.encode(), json.dumps(event).encode()


def garbage(now: int) -> list[tuple[str, bytes | None, bytes | None, str]]:
    """(topic, key, value, code) of every kind of bad message."""

    def event(**changes: object) -> bytes:
        return json.dumps({"user_id": "u1", "ts": now, "amount": 1, **changes}).encode()

    return [
        ("shop", b"k", b'{"user_id": "u1", ', "invalid_json"),
        ("shop", None, b"[1, 2, 3]", "not_an_object"),
        ("shop", b"k", None, "null_value"),
        ("shop", b"\xff\xfe", b'{"user_id": "\xff\xfe"}', "invalid_utf8"),
        ("shop", b"k", b"\x82\xa7user_id", "invalid_msgpack"),
        ("shop", b"k", event(user_id=None), "missing_user_id"),
        ("shop", b"k", event(user_id=12), "invalid_user_id"),
        ("shop", b"k", event(event_id=""), "invalid_event_id"),
        ("shop", b"k", event(ts=None), "missing_ts"),
        ("shop", b"k", event(ts="soon"), "invalid_ts"),
        ("shop", b"k", event(ts=now + 3_600_000), "ts_in_future"),
        ("shop", b"k", event(ts=now - 31 * DAY_MS), "ts_too_old"),
        ("shop", b"k", event(amount="12.50"), "invalid_field"),
        ("shop", b"k", event(modality="smell"), "unknown_modality"),
        ("web", b"k", event(page="p"), "missing_modality"),
        ("shop", b"k", event(shop="x" * (1 << 20)), "too_large"),
        ("web", b"k", os.urandom(1 << 20), "too_large"),
        ("web", os.urandom(60_000), b"{", "invalid_json"),
    ]


def test_serve_is_told_which_fields_events_carried(start_embedded: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    """A1: on the message after each look."""
    monkeypatch.setattr("stream.ingest.field_presence.SECONDS", 0.0)
    broker = start_embedded(NAMES)
    now = int(time.time() * 1000)
    with running(broker.connection):
        send(broker.connection, [("shop", *event_with(i, now, "shop" if i % 4 else "store")) for i in range(40)])
        wait_committed(broker.connection)
        send(broker.connection, [("shop", *event_with(40, now, "shop"))])
        wait_committed(broker.connection)
    headers = [
        header for message in read_to_end(broker.connection, TOPICS.events) for header in message.headers() or ()
    ]
    assert {name for name, _ in headers} == {"fields", SINCE_HEADER}
    counted = [FieldCounts.unpack(value).modalities["pay"] for name, value in headers if name == "fields"]
    # a look may have come between two batches; no event is counted twice
    assert 0 < len(counted) <= 2
    events = sum(of.events for of in counted)
    assert FEW <= events <= 40
    assert sum(of.carried["amount"] for of in counted) == events
    assert events * 0.6 < sum(of.carried["shop"] for of in counted) < events * 0.9


def event_with(i: int, now: int, field: str) -> tuple[bytes, bytes]:
    event = {"user_id": "anna", "ts": now - i, "event_id": f"e{i}", field: "baker", "amount": i}
    return b"anna", json.dumps(event).encode()


def test_garbage_is_isolated_and_every_good_event_arrives_once(start_embedded: Start) -> None:
    connection = start_embedded(NAMES).connection
    now = int(time.time() * 1000)
    bad = garbage(now)
    messages: list[tuple[str, bytes | None, bytes | None]] = [good(i, now) for i in range(300)]
    for i, (topic, key, value, _) in enumerate(bad):
        messages.insert(i * 17, (topic, key, value))
    with running(connection):
        send(connection, messages)
        wait_committed(connection)

    assert counted(connection)[1] == Counter(code for *_, code in bad)
    events = events_of(connection)
    assert sorted(int(e.event_id[1:]) for e in events) == list(range(300))
    assert {e.modality for e in events} == {"click", "pay"}
    letters = read_to_end(connection, TOPICS.dead_letters)
    assert Counter(dict(m.headers())["error"].decode() for m in letters) == Counter(code for *_, code in bad)
    assert Counter((m.key(), m.value() or None) for m in letters) == Counter((k, v) for _, k, v, _ in bad)
    for letter in letters:
        headers = DeadLetterHeaders.decode(letter.headers())
        original = read_at(connection, headers)
        assert (original.key(), original.value()) == (letter.key(), letter.value())
        assert source_headers(letter.headers()) == original.headers() == HEADERS
        assert headers.source_timestamp == PRODUCED_AT
        assert headers.detail


def read_at(connection: Connection, headers: DeadLetterHeaders) -> Any:
    """The raw message a dead letter names."""
    consumer = connection.consumer("reader")
    place = TopicPartition(headers.source_topic, headers.source_partition, headers.source_offset)
    consumer.assign([place])
    message = consumer.poll(10)
    consumer.close()
    assert message is not None
    return message


def test_events_of_one_user_keep_their_order(start_embedded: Start) -> None:
    connection = start_embedded(NAMES).connection
    now = int(time.time() * 1000)
    with running(connection, IngestSettings(pack_events=3, batch_messages=7)):
        send(connection, [good(3 * i, now) for i in range(200)])
        wait_committed(connection)
    seen: dict[tuple[str, int], int] = {}
    for event in events_of(connection):
        assert event.source_offset > seen.get((event.user_id, event.source_partition), -1)
        seen[event.user_id, event.source_partition] = event.source_offset
    assert max(len(unpack(m.value()).events) for m in read_to_end(connection, TOPICS.events)) == 3


@pytest.mark.slow
def test_two_members_share_the_work_and_one_leaving_loses_nothing(start_embedded: Start) -> None:
    connection = start_embedded(NAMES).connection
    now = int(time.time() * 1000)
    with running(connection):
        send(connection, [good(i, now) for i in range(100)])
        with running(connection):
            send(connection, [good(i, now) for i in range(100, 400)])
            wait_committed(connection)
        send(connection, [good(i, now) for i in range(400, 500)])
        wait_committed(connection)
    counts = Counter(e.event_id for e in events_of(connection))
    assert counts.keys() == {f"e{i}" for i in range(500)}
    assert counted(connection)[0] == Counter("click" if i % 3 else "pay" for i in range(500))


@pytest.mark.slow
def test_a_blocked_producer_pauses_reading_and_stop_still_works(
    start_embedded: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody reads `events`, so on the embedded broker ingest may write its budget and no more."""
    connection = start_embedded(NAMES).connection
    now = int(time.time() * 1000)
    text = "x" * 1900
    many = [
        ("shop", b"u1", json.dumps({"user_id": "u1", "ts": now, "event_id": f"e{i}", "shop": f"{i} {text}"}).encode())
        for i in range(2500)
    ]
    # longer than the session timeout: the member must stay in its group
    monkeypatch.setattr(pacing, "PAUSE_LOG_SECONDS", connection.session_timeout_ms / 1000 + 2)
    with structlog.testing.capture_logs() as told, running(connection):
        for start in range(0, 2500, 500):
            send(connection, many[start : start + 500])
        wait_until(lambda: any(e["event"] == logs.INPUT_PAUSED for e in told), "ingest waits for its readers")
        consumer = connection.consumer(TOPICS.group_ingest)
        raw = [TopicPartition("shop", p) for p in range(NAMES["shop"])]
        committed = sum(max(tp.offset, 0) for tp in consumer.committed(raw, timeout=5))
        ends = [consumer.get_watermark_offsets(TopicPartition(TOPICS.events, p), timeout=5) for p in range(4)]
    assert max(end for _, end in ends) > 0
    assert all(low == 0 for low, _ in ends), "nothing fell off unread"
    # what was not written was not committed
    assert committed <= len(events_of(connection)) < 2500


def at_time(ts: int, name: str, topic: str = "shop", partition: int = 0, user: str = "u1") -> dict[str, Any]:
    event = {"user_id": user, "ts": ts, "event_id": name, "shop": "s", "page": "p"}
    event |= {"modality": "click"} if topic == "web" else {}
    return {"topic": topic, "partition": partition, "value": json.dumps(event).encode()}


def send_all(connection: Connection, messages: Sequence[dict[str, Any]]) -> None:
    producer = connection.producer()
    for message in messages:
        producer.produce(**message)
    assert producer.flush(20) == 0


def committed_clock(connection: Connection, topic: str, partition: int) -> ClockState:
    consumer = connection.consumer(TOPICS.group_ingest)
    (found,) = consumer.committed([TopicPartition(topic, partition)], timeout=5)
    consumer.close()
    return read_clock(found.metadata)


def counted(connection: Connection) -> tuple[Counter[str], Counter[str]]:
    """Events accepted by modality and messages refused by code, as committed; each partition's reach its offset."""
    consumer = connection.consumer(TOPICS.group_ingest)
    raw = [TopicPartition(topic, p) for topic in ("web", "shop") for p in range(NAMES[topic])]
    accepted, refused = Counter[str](), Counter[str]()
    for tp in consumer.committed(raw, timeout=5):
        counts = read_counts(tp.metadata)
        assert counts is not None
        assert (counts.begin, counts.messages) == (0, tp.offset)
        accepted += Counter(counts.accepted)
        refused += Counter(counts.refused)
    consumer.close()
    return accepted, refused


@pytest.mark.slow
def test_the_stream_clock_survives_a_restart(start_embedded: Start) -> None:
    connection = start_embedded(NAMES).connection
    old = int(time.time() * 1000) - 1000 * DAY_MS
    settings = IngestSettings(clock=Clock.STREAM)
    with running(connection, settings):
        send_all(connection, [at_time(old + 9 * i * DAY_MS, f"a{i}") for i in range(6)])
        wait_committed(connection)
    with running(connection, settings):
        send_all(connection, [at_time(old, "late"), at_time(old + 40 * DAY_MS, "c"), at_time(old + 60 * DAY_MS, "far")])
        wait_committed(connection)
    assert [e.event_id for e in events_of(connection)] == [*(f"a{i}" for i in range(6)), "c"]
    letters = read_to_end(connection, TOPICS.dead_letters)
    assert [dict(m.headers())["error"] for m in letters] == [b"ts_too_old", b"ts_ahead_of_stream"]
    assert committed_clock(connection, "shop", 0) == ClockState(old + 45 * DAY_MS, (old + 60 * DAY_MS,))


@pytest.mark.slow
def test_one_line_dated_now_moves_no_stream_time(start_embedded: Start, tmp_path: Path) -> None:
    """A2: at the beginning, in the middle and at the end of each topic, into the token buffer: all events are there."""
    connection = start_embedded(NAMES).connection
    now = int(time.time() * 1000)
    old = now - 3000 * DAY_MS
    places = [(topic, partition) for topic in ("shop", "web") for partition in range(NAMES[topic])]
    messages: list[dict[str, Any]] = []
    poisoned = dict(zip(places, (0, 20, 40, 1, 39), strict=True))
    for (topic, partition), at in poisoned.items():
        own = [at_time(old + i * 3_600_000, f"{topic}{partition}.{i}", topic, partition) for i in range(40)]
        own.insert(at, at_time(now, f"{topic}{partition}.poison", topic, partition))
        messages += own
    with running(connection, IngestSettings(clock=Clock.STREAM)):
        send_all(connection, messages)
        wait_committed(connection)
    letters = read_to_end(connection, TOPICS.dead_letters)
    assert [dict(m.headers())["error"] for m in letters] == [b"ts_ahead_of_stream"] * 5
    assert all(b".poison" in m.value() for m in letters)
    buffer = TokenBuffer.open(
        tmp_path / "buffer",
        modalities=MODALITIES, encoder_id=HashEncoder().id, dim=HashEncoder().dim, identity=connection.identity,
        expiry_granularity_ms=1000,
        resources=BufferResources.create(block_cache_bytes=8 << 20, write_buffer_bytes=4 << 20),
    )  # fmt: skip
    for n, message in enumerate(read_to_end(connection, TOPICS.events)):
        pack = unpack(message.value())
        since = read_since(dict(message.headers())[SINCE_HEADER], len(pack.sources))
        changes = buffer.prepare(encode_events([pack], HashEncoder(), [since]), source_offset=n)
        buffer.commit(changes, log_offset=0)
    assert buffer.account.total() == {"applied": 200}
    assert buffer.stream_time == old + 39 * 3_600_000
    buffer.close()
    for topic, partition in places:
        state = committed_clock(connection, topic, partition)
        assert state.newest == old + 39 * 3_600_000


@pytest.mark.slow
def test_what_is_held_is_not_committed_and_judged_again(start_embedded: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    """A real gap, with a restart in the middle of it: nothing is refused, nothing is missing."""
    connection = start_embedded(NAMES).connection
    old = int(time.time() * 1000) - 1000 * DAY_MS
    before = [at_time(old + i, f"a{i}") for i in range(AGREE)]
    after = [at_time(old + 200 * DAY_MS + i, f"b{i}") for i in range(AGREE)]
    settings = IngestSettings(clock=Clock.STREAM)
    monkeypatch.setattr("stream.ingest.ingest.QUIET_SECONDS", 600.0)
    marker = {"topic": "shop", "partition": 0, "value": b"{"}
    with running(connection, settings):
        send_all(connection, [*before, *after[:10], marker])
        wait_until(lambda: len(read_to_end(connection, TOPICS.dead_letters)) == 1, "the marker's letter")
    with running(connection, settings):
        send_all(connection, after[10:])
        wait_committed(connection)
    assert {e.event_id for e in events_of(connection)} == {f"{x}{i}" for x in "ab" for i in range(AGREE)}
    assert {m.value() for m in read_to_end(connection, TOPICS.dead_letters)} == {b"{"}


@pytest.mark.slow
@pytest.mark.crash
def test_kill_9_in_the_middle_loses_nothing(start_embedded: Start, spawn: Spawn, tmp_path: Path) -> None:
    connection = start_embedded(NAMES).connection
    now = int(time.time() * 1000)
    command = [sys.executable, "-m", "tests.support.ingest_child", connection.bootstrap, str(connection.identity)]
    child = Role("ingest", command, tmp_path, spawn=spawn)
    for round_ in range(3):
        child.start().wait_ready(120)
        numbers = range(round_ * 1000, round_ * 1000 + 1000)
        send(connection, [m for i in numbers for m in (good(i, now), ("shop", b"k", b"{"))[: 1 + (i % 50 == 0)]])
        time.sleep(0.02 * round_)
        child.kill()
    with running(connection):
        wait_committed(connection)
    assert {e.event_id for e in events_of(connection)} == {f"e{i}" for i in range(3000)}
    # each message once, however often it was judged
    assert counted(connection) == (Counter("click" if i % 3 else "pay" for i in range(3000)), {"invalid_json": 60})


def test_topics_of_different_size_are_read_in_the_order_of_their_events(start_embedded: Start) -> None:
    """D3: a small topic's last events set the time of everybody, while the large one was at its first."""
    broker = start_embedded(NAMES)
    begin = int(time.time() * 1000) - 400 * DAY_MS
    sizes = {"web": 6000, "shop": 300}
    histories = [
        at_time(begin + 365 * DAY_MS * i // count, f"{topic}{i}", topic, i % NAMES[topic], user=f"u{i % 9}")
        for topic, count in sizes.items()
        for i in range(count)
    ]
    send_all(broker.connection, histories)
    with running(broker.connection, IngestSettings(clock=Clock.STREAM)):
        wait_committed(broker.connection)
    assert len(events_of(broker.connection)) == sum(sizes.values())
    newest: dict[int, int] = {}
    late = 0
    for message in read_to_end(broker.connection, TOPICS.events):
        for event in unpack(message.value()).events:
            late = max(late, newest.get(message.partition(), 0) - event.ts)
            newest[message.partition()] = max(newest.get(message.partition(), 0), event.ts)
    # a batch's packs are cut by partition, in its order
    assert late < 3 * DAY_MS
