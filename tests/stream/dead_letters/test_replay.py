"""Dead letters replayed on the embedded broker, through ingest, into the token buffer."""

from __future__ import annotations

import json
import sys
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgpack
import pytest
from confluent_kafka import TopicPartition

from deploy.brokers.local import LocalKafka
from deploy.brokers.process import EmbeddedBroker
from deploy.kafka import topics as deploy_topics
from store.base.errors import BrokerError, ScriptError
from store.base.settings import ModalitySettings
from store.buffer.resources import BufferResources
from store.buffer.token_buffer import TokenBuffer
from store.window.rows import KIND_SUMMARY, Summary, parse_key, unpack_summary
from stream.dead_letter import MAX_KEY_BYTES, RESERVED_BYTES, dead_letter
from stream.dead_letters.order import LetterOrder
from stream.dead_letters.read import Listing, find
from stream.dead_letters.replay import BATCH_LETTERS, Choice, DeadLetterReplay, LetterTally
from stream.dead_letters.script import LetterScript
from stream.events.event import Event, pack, unpack
from stream.ingest.ingest import Ingest
from stream.kafka.client import Connection
from stream.kafka.pacing import SafeProducer
from stream.processor.encode_events import encode_events
from stream.rejection import ErrorCode, Rejection
from stream.settings import Clock, IngestSettings, KafkaSettings
from stream.topics import Topics
from tests.support.hash_encoder import HashEncoder

Row = tuple[int, bytes | None, bytes | None]
"""Partition, key, value of a raw message."""

DAY_MS = 86_400_000
PARTITIONS = 2
MEND_AMOUNT = """
for line in sys.stdin:
    letter = json.loads(line)
    event = letter["event"]
    if event is None:
        print(json.dumps({"skip": True, "reason": "no event"}))
    else:
        print(json.dumps({"value": {**event, "amount": float(event["amount"])}}))
"""


TRACE = [("trace", b"1")]
"""Headers of the refused messages."""


class World:
    """Topics of our own on a broker. `shop` and `web` are the raw ones."""

    def __init__(self, connection: Connection, path: Path, settings: IngestSettings | None = None) -> None:
        prefix = f"t{uuid.uuid4().hex[:8]}"
        self.connection = connection
        self.path = path
        self.settings = settings or IngestSettings()
        self.topics = Topics(KafkaSettings(topic_prefix=prefix, partitions=PARTITIONS))
        self.shop, self.web = f"{prefix}.shop", f"{prefix}.web"
        self.modalities = {
            "pay": ModalitySettings(topic=self.shop, text="{shop}", numbers=("amount",), window_days=30, max_events=6),
            "click": ModalitySettings(topic=self.web, text="{page}", window_days=30, memory_days=0),
            "view": ModalitySettings(topic=self.web, text="{page}", window_days=30, memory_days=0),
        }
        deploy_topics.ensure(connection, self.topics.specs(self.modalities, ()))
        self.producer = connection.producer()
        path.mkdir(exist_ok=True)

    def send(self, topic: str, rows: list[Row]) -> None:
        for partition, key, value in rows:
            self.producer.produce(topic, value, key=key, partition=partition)
        assert self.producer.flush(20) == 0

    def letter(self, n: int, value: bytes | None, *, partition: int = 0, **changes: Any) -> None:
        """One dead letter of the raw place shop:0:n, straight into the topic."""
        made = {"key": b"u", "topic": self.shop, "source": 0, "code": ErrorCode.UNKNOWN_MODALITY, **changes}
        form = dead_letter(
            Rejection(made["code"], "why"), made["key"], value, made["topic"], made["source"], n,
            max_bytes=RESERVED_BYTES + made.get("max_value_bytes", 1 << 20), headers=TRACE,
            source_name=made.get("name"),
        )  # fmt: skip
        self.producer.produce(
            self.topics.dead_letters, form.value, key=form.key, headers=form.headers, partition=partition
        )
        assert self.producer.flush(20) == 0

    def listing(self, **filters: Any) -> Listing:
        return find(self.connection, self.topics.dead_letters, **filters)

    def read(self, topic: str) -> list[Any]:
        consumer = self.connection.consumer("reader")
        tps = [TopicPartition(topic, p, 0) for p in range(PARTITIONS)]
        count = sum(consumer.get_watermark_offsets(tp, timeout=10)[1] for tp in tps)
        consumer.assign(tps)
        found: list[Any] = []
        while len(found) < count:
            message = consumer.poll(10)
            assert message is not None
            found.append(message)
        consumer.close()
        return sorted(found, key=lambda m: (m.partition(), m.offset()))

    def events(self) -> list[Event]:
        return [event for message in self.read(self.topics.events) for event in unpack(message.value()).events]

    @contextmanager
    def ingesting(self) -> Iterator[Callable[[], None]]:
        """A running ingest; gives a function that waits until it has committed everything."""
        ready, stop = threading.Event(), threading.Event()
        ingest = Ingest(self.connection, self.topics, self.modalities, self.settings, on_ready=ready.set)
        thread = threading.Thread(target=ingest.run, args=(stop,))
        thread.start()
        assert ready.wait(20)
        try:
            yield self.wait
        finally:
            stop.set()
            thread.join(40)

    def wait(self) -> None:
        consumer = self.connection.consumer(self.topics.group_ingest)
        raw = [TopicPartition(topic, p) for topic in (self.web, self.shop) for p in range(PARTITIONS)]
        deadline = time.monotonic() + 30
        while any(
            max(tp.offset, 0) < consumer.get_watermark_offsets(tp, timeout=5)[1]
            for tp in consumer.committed(raw, timeout=5)
        ):
            assert time.monotonic() < deadline
            time.sleep(0.05)
        consumer.close()

    def replay(
        self,
        *,
        script: str | None = None,
        dry_run: bool = False,
        stop: threading.Event | None = None,
        modalities: dict[str, ModalitySettings] | None = None,
        **choice: Any,
    ) -> LetterTally:
        stop = stop or threading.Event()
        replay = DeadLetterReplay(
            self.connection,
            self.topics,
            self.modalities if modalities is None else modalities,
            self.settings,
            stop=stop,
        )
        return replay.run(
            Choice(**choice), mender=self.script(script, stop) if script is not None else None, dry_run=dry_run
        )

    def script(self, source: str, stop: threading.Event) -> LetterScript:
        path = self.path / "mend.py"
        path.write_text(f"#!{sys.executable} -S\nimport json, sys\n{source}")
        path.chmod(0o700)
        return LetterScript(path, stop=stop, timeout_seconds=20)

    def buffers(self, name: str) -> tuple[dict[bytes, bytes], Counter[str]]:
        """Rows of all partitions once `events` is applied, whatever our prefix, and outcomes.

        A summary is without its offsets and times of ingestion: a replay has others.
        """
        encoder = HashEncoder()
        rows: dict[bytes, bytes] = {}
        outcomes: Counter[str] = Counter()
        for partition in range(PARTITIONS):
            buffer = TokenBuffer.open(
                self.path / name / str(partition),
                modalities=self.modalities, encoder_id=encoder.id, dim=encoder.dim, identity=self.connection.identity,
                expiry_granularity_ms=1000,
                resources=BufferResources.create(block_cache_bytes=8 << 20, write_buffer_bytes=4 << 20),
            )  # fmt: skip
            for n, message in enumerate(m for m in self.read(self.topics.events) if m.partition() == partition):
                events = encode_events([unpack(message.value())], encoder)
                changes = buffer.prepare(events, source_offset=n)
                outcomes.update(changes.outcomes._asdict())
                buffer.commit(changes, log_offset=0)
            for key, value in buffer.rows():
                if parse_key(key).kind == KIND_SUMMARY:
                    value = placeless(unpack_summary(value)).encode()
                rows[key.replace(self.topics.prefix.encode(), b"prefix")] = value
            buffer.close()
        return rows, outcomes


def placeless(summary: Summary) -> str:
    return repr(summary._replace(covers={source.partition(".")[2]: 0 for source in summary.covers}, ingested_at=0))


@pytest.fixture
def world(shared_embedded_broker: EmbeddedBroker, tmp_path: Path) -> World:
    return World(shared_embedded_broker.connection, tmp_path)


def event(n: int, **changes: Any) -> bytes:
    body = {"user_id": f"u{n % 3}", "ts": int(time.time() * 1000) - n * 60_000, "shop": f"s{n % 4}", "amount": n}
    return json.dumps({k: v for k, v in {**body, **changes}.items() if v is not ...}).encode()


def history(count: int) -> tuple[list[Row], list[Row], int]:
    """(raw messages, the same with the bad ones mended, how many are bad): time forwards, one in four bad."""
    now = int(time.time() * 1000)
    raw: list[Row] = []
    clean: list[Row] = []
    bad = 0
    for n in range(count):
        body: dict[str, Any] = {"user_id": f"u{n % 5}", "ts": now - (count - n) * 60_000, "shop": f"s{n % 4}"}
        if n % 3:
            body["event_id"] = f"e{n}"
        encode: Callable[[Any], bytes] = msgpack.packb if n % 2 else lambda one: json.dumps(one).encode()
        good = encode({**body, "amount": n + 0.5})
        key, partition = body["user_id"].encode(), n % PARTITIONS
        clean.append((partition, key, good))
        if n % 4 == 1:
            raw.append((partition, key, encode({**body, "amount": f"{n + 0.5}"})))
            bad += 1
        else:
            raw.append((partition, key, good))
    return raw, clean, bad


def test_a_replay_after_newer_events_ends_in_the_buffer_of_a_clean_run(world: World) -> None:
    """Letters of the same users, replayed after everything newer was applied, some of it evicting them."""
    raw, clean, bad = history(80)
    twin = World(world.connection, world.path / "twin")
    for one, messages in ((world, raw), (twin, clean)):
        with one.ingesting() as wait:
            one.send(one.shop, messages)
            wait()
            if one is world:
                assert len(world.events()) == 80 - bad
                report = world.replay(script=MEND_AMOUNT)
                assert (report.matched, report.replayed, report.complete) == (bad, bad, True)
                wait()
                assert world.replay(script=MEND_AMOUNT).replayed == 0
                assert world.replay(script=MEND_AMOUNT, again=True).replayed == bad  # as if marks had been lost
                wait()
    rows, outcomes = world.buffers("buffer")
    expected, plain = twin.buffers("buffer")
    assert rows == expected
    assert len(rows) > 10
    assert plain["duplicate"] == plain["conflicting"] == 0
    assert outcomes["duplicate"] + outcomes["applied"] + outcomes["remembered"] == 80 + bad
    assert outcomes["remembered"]
    assert outcomes["conflicting"] == 0


def test_an_event_with_the_same_id_that_arrived_meanwhile_wins(world: World) -> None:
    with world.ingesting() as wait:
        world.send(world.shop, [(0, b"u", event(1, event_id="x", amount="1"))])
        world.send(world.shop, [(0, b"u", event(1, event_id="x", amount=2))])
        wait()
        assert world.replay(script=MEND_AMOUNT).replayed == 1
        wait()
    assert [(e.event_id, e.numbers) for e in world.events()] == [("x", (2.0,)), ("x", (1.0,))]
    _, outcomes = world.buffers("buffer")
    assert (outcomes["applied"], outcomes["conflicting"]) == (1, 1)


def test_letters_of_a_topic_made_anew_are_others(world: World) -> None:
    """A3: the same place, the same bytes, another event: another id."""
    value = event(3, event_id=...)
    world.letter(3, value)
    world.letter(3, value, name=f"{world.shop}#0123abcd")
    assert world.replay().replayed == 2
    ids = [json.loads(m.value())["event_id"] for m in world.read(world.shop)]
    assert sorted(ids) == [f"{world.shop}#0123abcd/0/3", f"{world.shop}/0/3"]


def test_letters_go_back_in_source_order_with_key_and_partition(world: World) -> None:
    values = {n: event(n, event_id=...) for n in range(30)}
    for n in (5, 3, 9, 8, 20, 11):
        world.letter(n, values[n], partition=n % 2, key=b"k%d" % n, source=n % 2)
    world.letter(9, values[9], partition=1, key=b"k9", source=1)  # twice: ingest was killed
    assert world.replay().replayed == 6
    found = world.read(world.shop)
    assert [(m.partition(), m.key()) for m in found] == [
        (0, b"k8"), (0, b"k20"), (1, b"k3"), (1, b"k5"), (1, b"k9"), (1, b"k11"),
    ]  # fmt: skip
    assert [json.loads(m.value())["event_id"] for m in found if m.partition()] == [
        f"{world.shop}/1/{n}" for n in (3, 5, 9, 11)
    ]
    for m in found:
        n = int(m.key()[1:])
        assert m.value().startswith(values[n][:-1])
        assert m.headers() == TRACE
    listing = world.listing(limit=100)
    assert len(listing.replayed_ids) == 7
    assert listing.replayed == {"unknown_modality": 7}


def test_what_would_be_refused_again_stays(world: World) -> None:
    cases: list[tuple[bytes | None, str, dict[str, Any]]] = [
        (b"{", "invalid_json", {"code": ErrorCode.INVALID_JSON}),
        (None, "null_value", {"code": ErrorCode.NULL_VALUE, "key": None}),
        (event(1, amount="1"), "invalid_field", {"code": ErrorCode.INVALID_FIELD}),
        (event(1, ts=5), "ts_too_old", {"code": ErrorCode.TS_TOO_OLD}),
        (event(1), "truncated", {"max_value_bytes": 5}),
        (event(1), "truncated", {"key": b"k" * (MAX_KEY_BYTES + 1)}),
        (event(1), "no_topic", {"topic": "elsewhere"}),
        (pack(1, []), "invalid_pack", {"topic": world.topics.events, "code": ErrorCode.INVALID_PACK}),
        (event(1, event_id="good"), "", {"source": 7}),
    ]
    for n, (value, _, changes) in enumerate(cases):
        world.letter(n, value, **changes)
    world.send(world.topics.dead_letters, [(1, None, b"of somebody")])
    report = world.replay()
    assert report.left == Counter([code for _, code, _ in cases if code] + ["no_source"])
    assert (report.replayed, report.matched, report.complete) == (1, len(cases) + 1, False)
    assert [json.loads(m.value())["event_id"] for m in world.read(world.shop)] == ["good"]
    again = world.replay()
    assert (again.replayed, again.already, again.left) == (0, 1, report.left)


def test_a_line_of_a_file_goes_where_its_modality_says(world: World) -> None:
    """`anchorstream replay` could not tell the topic: there is no source partition, and no guessing now."""
    for n in range(2):
        world.letter(n, event(n, event_id=..., page="p"), source=-1, code=ErrorCode.MISSING_MODALITY)
    assert world.replay().left == {"missing_modality": 2}
    say = "for line in sys.stdin: print(json.dumps({'value': {**json.loads(line)['event'], 'modality': 'view'}}))"
    assert world.replay(script=say).replayed == 2
    assert world.read(world.shop) == []
    ids = [json.loads(m.value())["event_id"] for m in world.read(world.web)]
    assert ids == [f"{world.topics.dead_letters}/0/{n}" for n in range(2)]


def test_a_pack_of_events_goes_back_once_its_modality_is_configured(world: World) -> None:
    raw = Event("u", "sleep", 1, "e", "t", (), None, world.web, 0, 0, 1, 1)
    world.letter(3, pack(1, [raw]), topic=world.topics.events, source=1)
    assert world.replay().left == {"unknown_modality": 1}
    more = {**world.modalities, "sleep": ModalitySettings(topic=world.web)}
    assert world.replay(script=MEND_AMOUNT, modalities=more).left == {"not_raw": 1}
    assert world.replay(modalities=more).replayed == 1
    (message,) = world.read(world.topics.events)
    assert (message.partition(), message.key(), unpack(message.value()).events) == (1, None, [raw])


def test_filters_limit_dry_run_and_again(world: World) -> None:
    for n in range(12):
        code = ErrorCode.MISSING_TS if n % 2 else ErrorCode.INVALID_TS
        world.letter(n, event(n), code=code, topic=world.shop if n < 10 else world.web, partition=n % 2)
    assert world.replay(error="missing_ts", source_topic=world.shop, dry_run=True).replayed == 5
    assert world.read(world.shop) == []
    report = world.replay(error="missing_ts", source_topic=world.shop, limit=2)
    assert (report.matched, report.replayed, report.not_reached, report.complete) == (5, 2, 3, True)
    report = world.replay(error="missing_ts", source_topic=world.shop, limit=100)
    assert (report.matched, report.replayed, report.already) == (5, 3, 2)
    assert len(world.read(world.shop)) == 5
    listing = world.listing(error="missing_ts")
    assert (listing.total, listing.replayed) == (6, {"missing_ts": 5})
    assert world.replay(error="missing_ts", source_topic=world.shop, again=True).replayed == 5
    assert len(world.read(world.shop)) == 10


def test_a_limit_with_a_script_counts_what_is_sent(world: World) -> None:
    for n in range(10):
        world.letter(n, event(n, amount=str(n)) if n % 2 else b"{")
    report = world.replay(script=MEND_AMOUNT, limit=3)
    assert (report.replayed, report.left["skipped"]) == (3, 3)
    report = world.replay(script=MEND_AMOUNT)
    assert (report.replayed, report.already, report.left, report.complete) == (2, 3, {"skipped": 5}, True)


def test_a_script_that_fails_in_the_middle_leaves_what_came_before_done(world: World) -> None:
    for n in range(10):
        world.letter(n, event(n, amount=str(n)))
    broken = MEND_AMOUNT + "    sys.stdout.flush()\n    if letter['offset'] == 5: sys.exit(9)\n"
    with pytest.raises(ScriptError, match="6 letters before it were replayed"):
        world.replay(script=broken)
    assert len(world.read(world.shop)) == 6
    assert world.replay(script=MEND_AMOUNT).replayed == 4
    ids = [json.loads(m.value())["event_id"] for m in world.read(world.shop)]
    assert sorted(ids) == [f"{world.shop}/0/{n}" for n in range(10)]


def test_only_acknowledged_letters_count(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    from stream.dead_letters import replay as dead_letter_replay

    for n in range(4):
        world.letter(n, event(n))

    class Failing(SafeProducer):
        def flush(self, timeout: float = 60.0) -> None:
            super().flush(timeout)
            raise BrokerError("not acknowledged")

    with monkeypatch.context() as patched:
        patched.setattr(dead_letter_replay, "SafeProducer", Failing)
        with pytest.raises(BrokerError):
            world.replay()
    assert world.listing().replayed == {}
    assert world.replay().replayed == 4
    values = Counter(m.value() for m in world.read(world.shop))
    assert set(values.values()) == {2}, "sent twice, byte for byte the same"


def test_stop_ends_it_with_what_was_sent_marked(world: World) -> None:
    for n in range(20):
        world.letter(n, event(n, amount=str(n)))
    stop = threading.Event()
    replay = DeadLetterReplay(
        world.connection, world.topics, world.modalities, world.settings, stop=stop,
        on_progress=lambda what, done, _: stop.set() if (what, done) == ("replaying", 8) else None,
    )  # fmt: skip
    report = replay.run(Choice(again=False))
    assert report.interrupted
    assert not report.complete
    sent = len(world.read(world.shop))
    assert report.replayed == sum(world.listing().replayed.values()) == sent
    assert report.not_reached + sum(report.left.values()) + sent == 20


def test_the_stream_clock_is_ingests(world: World) -> None:
    """Too late by the raw partition's own time: left. By another partition's: sent."""
    world.settings = IngestSettings(clock=Clock.STREAM)
    now = int(time.time() * 1000)
    with world.ingesting() as wait:
        world.send(world.shop, [(0, b"u", event(1, ts=now))])
        wait()
    for partition in range(2):
        world.letter(5, event(2, ts=now - 740 * DAY_MS), source=partition)
    report = world.replay()
    assert (report.replayed, report.left) == (1, {"ts_too_old": 1})
    assert [m.partition() for m in world.read(world.shop)] == [0, 1]


def test_letters_of_a_poisoned_clock_go_back_once_it_is_reset(world: World) -> None:
    """A2: every event after a line dated now was too old, and stayed so whatever was replayed."""
    world.settings = IngestSettings(clock=Clock.STREAM)
    now = int(time.time() * 1000)
    old = now - 1000 * DAY_MS
    with world.ingesting() as wait:  # alone in its partition, so it is believed
        world.send(world.shop, [(0, b"u", event(1, ts=now))])
        wait()
        world.send(world.shop, [(0, b"u", event(n, ts=old + n)) for n in range(40)])
        wait()
        assert world.listing().counts == {"ts_too_old": 40}
        assert world.replay().left == {"ts_too_old": 40}
        report = world.replay(reset_clock=True)
        assert (report.replayed, report.complete) == (40, True)
        wait()
    assert len(world.events()) == 41
    assert world.listing().counts == {"ts_too_old": 40}, "none came back"


def test_letters_that_were_ahead_go_back_once_the_stream_is_there(world: World) -> None:
    world.settings = IngestSettings(clock=Clock.STREAM)
    old = int(time.time() * 1000) - 1000 * DAY_MS
    days = [0, 1, 200, 2, *range(3, 200, 9)]
    with world.ingesting() as wait:
        world.send(world.shop, [(0, b"u", event(n, ts=old + day * DAY_MS)) for n, day in enumerate(days[:4])])
        wait()
        assert world.listing().counts == {"ts_ahead_of_stream": 1}
        assert world.replay().left == {"ts_ahead_of_stream": 1}
        world.send(world.shop, [(0, b"u", event(n, ts=old + day * DAY_MS)) for n, day in enumerate(days[4:], 4)])
        wait()
        assert world.replay().replayed == 1
        wait()
    assert len(world.events()) == len(days)


def test_many_letters_in_portions(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    from stream.dead_letters import order as letter_order

    monkeypatch.setattr(letter_order, "PORTION_BYTES", 200_000)
    count = 2 * BATCH_LETTERS + 17
    for n in range(count):
        form = dead_letter(Rejection(ErrorCode.MISSING_TS, ""), b"u", event(n), world.shop, n % 2, n)
        world.producer.produce(
            world.topics.dead_letters, form.value, key=b"u", headers=form.headers, partition=n % 3 % 2
        )
    assert world.producer.flush(20) == 0
    order = LetterOrder.read(world.connection, world.topics.dead_letters)
    sources = [(g.letter.source_partition, g.letter.source_offset) for g in order.groups() if g is not None]
    assert sources == sorted((n % 2, n) for n in range(count))
    assert world.replay().replayed == count
    assert world.replay().already == count
    assert Counter(m.partition() for m in world.read(world.shop)) == {0: (count + 1) // 2, 1: count // 2}


@pytest.mark.kafka
def test_on_apache_kafka_and_after_a_purge(kafka_broker: LocalKafka, tmp_path: Path) -> None:
    """Marks outlive their letters where somebody deletes these, and mean nothing then."""
    world = World(kafka_broker.connection, tmp_path)
    for n in range(20):
        world.letter(n, event(n, amount=str(n)), partition=n % 2)
    assert world.replay(script=MEND_AMOUNT, limit=8).replayed == 8
    assert world.listing().replayed == {"unknown_modality": 8}
    purge = [TopicPartition(world.topics.dead_letters, p, 3) for p in range(PARTITIONS)]
    admin = world.connection.admin()
    for done in admin.delete_records(purge).values():
        done.result(20)
    assert world.listing().total == 14
    assert world.listing().replayed == {"unknown_modality": 2}
    report = world.replay(script=MEND_AMOUNT)
    assert (report.matched, report.already, report.replayed) == (14, 2, 12)
    ids = Counter(json.loads(m.value())["event_id"] for m in world.read(world.shop))
    assert ids == Counter(f"{world.shop}/0/{n}" for n in range(20))
