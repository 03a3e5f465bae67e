"""Token buffer and its log: appends, disk, windows, restore; each beside the bare calls it cannot do without."""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import rocksdict
from confluent_kafka import TopicPartition
from confluent_kafka.admin import NewTopic

from deploy.benches.report import BenchResult
from deploy.brokers.local import LocalKafka
from store.base.errors import BrokerError
from store.base.settings import ModalitySettings
from store.buffer.resources import BufferResources
from store.buffer.token_buffer import TokenBuffer
from store.window.encoded_event import EncodedEvent
from store.window.rows import FORMAT, LIGHT
from stream.kafka.client import Connection
from stream.token_log.ownership import OWNER_HEADER
from stream.token_log.restore import RESTORE_CONFIG, restore

DIM = 384
WINDOW = 250
PACK = 64
"""Events in one message of `events` (`ingest.pack_events`): the processor applies no fewer under load."""
BATCH = 500
START_MS = 1_700_000_000_000
DAYS = 730
"""What window and memory reach, and appends span: a memory of 26 blocks."""
MODALITIES = {
    "bill": ModalitySettings(topic="bill", numbers=("amount",), window_days=DAYS, memory_days=DAYS, max_events=WINDOW)
}
_OWNER = bytes(8)
_ROUNDS = 3


class Source:
    """An endless, seeded stream of events, `step_ms` apart."""

    def __init__(self, users: int, step_ms: int = 1000) -> None:
        self._step_ms = step_ms
        self._rng = np.random.default_rng(7)
        vectors = self._rng.normal(size=(1000, DIM))
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        self._vectors = (np.rint(vectors * 2**14) / 2**14).astype("<f2")
        self._users = users
        self._n = 0

    def take(self, count: int) -> list[EncodedEvent]:
        """The next events."""
        users = self._rng.integers(0, self._users, count).tolist()
        return [self._make(user) for user in users]

    def _make(self, user: int) -> EncodedEvent:
        n = self._n
        self._n += 1
        ts = START_MS + self._step_ms * n
        return EncodedEvent(
            f"user-{user:07d}", "bill", ts, f"event-{n:010d}", n, np.array([n % 997], np.float32),
            self._vectors[n % 1000], None, "behavior.bill:0", n, ts,
        )  # fmt: skip


def run(*, brief: bool, bootstrap: str | None = None) -> BenchResult:
    """Measure. The restore needs a Kafka broker: `bootstrap`, or a local one started for it (Java, Maven)."""
    rows: list[dict[str, Any]] = []
    ratios: dict[str, float] = {}
    with _directory() as path:
        _append(path, rows, ratios, users=40 if brief else 200)
        _disk(path, rows, ratios)
    with _directory() as path:
        try:
            with _broker(path, bootstrap) as connection:
                _restore(path, connection, rows, ratios, count=100_000 if brief else 1_000_000)
        except BrokerError as exc:
            rows.append({"case": "restore", "note": f"not measured: {exc.detail}"})
    return BenchResult(rows, ratios)


def _open(path: Path) -> TokenBuffer:
    return TokenBuffer.open(
        path,
        modalities=MODALITIES,
        encoder_id="bench",
        dim=DIM,
        identity="bench",
        expiry_granularity_ms=3_600_000,
        resources=BufferResources.create(),
    )


def _append(path: Path, rows: list[dict[str, Any]], ratios: dict[str, float], *, users: int) -> None:
    """Appends to full windows: remember one row, add one, bring the summary up to date."""
    before = int(users * WINDOW * 1.3)
    buffer, source = _open(path / "append"), Source(users, DAYS * 86_400_000 // (before + 20_000))
    for i in range(before // BATCH):
        buffer.commit(buffer.prepare(source.take(BATCH), source_offset=i), log_offset=i)
    traces: list[list[Any]] = []
    for label, batch, repeat in (
        ("append", PACK, 100),
        ("append, large batches", BATCH, 20),
        ("append, alone", 1, 1000),
    ):
        ours = 0.0
        traces.clear()
        for i in range(repeat):
            events = source.take(batch)
            begin = time.perf_counter()
            changes = buffer.prepare(events, source_offset=i)
            buffer.commit(changes, log_offset=i)
            ours += time.perf_counter() - begin
            traces.append([events, changes])
        raw = _raw_calls(path, traces)
        n = batch * repeat
        rows.append(_row(label, n, ours, f"{batch} event(s) a batch, {users} users with {WINDOW} rows"))
        rows.append(_row(f"{label}: raw rocksdict", n, raw, "the same reads and writes, nothing else"))
        ratios[f"{'' if batch == PACK else f'batch_{batch}_'}append_vs_raw_rocksdict"] = ours / raw
    begin = time.perf_counter()
    names = list(buffer.users())[:100]
    windows = [buffer.window(name) for name in names]
    rows.append(_row("window", len(names), time.perf_counter() - begin, f"arrays of {WINDOW} rows"))
    assert all(window.events["bill"] for window in windows)
    buffer.close()


def _raw_calls(path: Path, traces: list[list[Any]]) -> float:
    """Seconds of the rocksdict calls that the batches need, on a database with the same rows."""
    resources = BufferResources.create()
    shutil.copytree(path / "append", path / "raw", ignore=shutil.ignore_patterns("LOCK"))
    db = rocksdict.Rdict(str(path / "raw"), resources.database_options(), column_families=resources.family_options())
    names = ("rows", "summaries", "ids", "meta")
    families = {name: db.get_column_family(name) for name in names}
    handles = {name: db.get_column_family_handle(name) for name in names}
    spent = 0.0
    for events, changes in traces:
        keys = [key for key, _ in changes.summaries]
        ids = [key[:-1] + event.event_id.encode() for event in events for key in keys[:1]]
        begin = time.perf_counter()
        families["summaries"].get(keys)
        families["ids"].get(ids)
        cursor = families["rows"].iter()
        for key in [key for key, _ in changes.deletes] + [key for key, value in changes.puts if value[0] == LIGHT]:
            cursor.seek(key)
            if cursor.valid():
                cursor.key()
                cursor.value()
                cursor.next()
                cursor.key()
        batch = rocksdict.WriteBatch(raw_mode=True)
        for key, _ in changes.deletes:
            batch.delete(key, handles["rows"])
        for key, value in changes.puts:
            batch.put(key, value, handles["rows"])
        for key, value in changes.summaries:
            batch.put(key, value, handles["summaries"])
        for key, value in changes.ids:
            if value is None:
                batch.delete(key, handles["ids"])
            else:
                batch.put(key, value, handles["ids"])
        for name in (b"source_offset", b"log_offset", b"stream_time"):
            batch.put(name, bytes(8), handles["meta"])
        db.write(batch)
        spent += time.perf_counter() - begin
        del cursor
    families.clear()
    handles.clear()
    db.close()
    shutil.rmtree(path / "raw")
    return spent


def _disk(path: Path, rows: list[dict[str, Any]], ratios: dict[str, float]) -> None:
    """Bytes on disk after compaction, of everything, beside the bytes of the event rows alone."""
    buffer = _open(path / "append")
    begin = time.perf_counter()
    buffer.compact()
    seconds = time.perf_counter() - begin
    sizes: dict[int, list[int]] = {FORMAT: [], LIGHT: []}
    for key, value in buffer.rows():
        if len(value) < 4 * DIM:
            sizes[value[0]].append(len(key) + len(value))
    disk = buffer.disk_bytes()
    buffer.close()
    whole, light = (sum(sizes[which]) / len(sizes[which]) for which in (FORMAT, LIGHT))
    ratios["disk_vs_row_bytes"] = disk / sum(map(sum, sizes.values()))
    ratios["remembered_vs_row_bytes"] = light / whole
    rows.append(
        _row(
            "compact", sum(map(len, sizes.values())), seconds,
            f"{disk / 1e6:.1f} MB on disk; {len(sizes[FORMAT])} rows of {whole:.0f} B, "
            f"{len(sizes[LIGHT])} remembered ones of {light:.0f} B",
        )
    )  # fmt: skip


def _restore(
    path: Path, connection: Connection, rows: list[dict[str, Any]], ratios: dict[str, float], count: int
) -> None:
    """A log of `count` rows into an empty buffer, beside a consumer that only counts them."""
    topic = f"bench.{time.time_ns()}.tokens"
    admin = connection.admin()
    admin.create_topics([NewTopic(topic, 1, 1, config={"cleanup.policy": "compact"})])[topic].result()
    written = _fill(path, connection, topic, count)
    best: dict[str, dict[str, Any]] = {}
    for i in range(_ROUNDS):
        for label in ("bare consumer", "restore"):
            begin, cpu = time.perf_counter(), time.process_time()
            if label == "restore":
                buffer = _open(path / f"restored-{i}")
                done = restore(connection, topic, 0, buffer).rows
            else:
                done = _consume(connection, topic, written)
            seconds, cpu = time.perf_counter() - begin, time.process_time() - cpu
            assert done == written
            row = _row(label, done, seconds, f"rows of `tokens`, zstd, one partition; best of {_ROUNDS}")
            row["cpu_microseconds"] = 1e6 * cpu / done
            best[label] = min(row, best.get(label, row), key=lambda row: row["seconds"])
            if label == "restore":
                buffer.close()
                shutil.rmtree(path / f"restored-{i}")
    rows += best.values()
    ratios["restore_vs_bare_consumer"] = best["bare consumer"]["seconds"] / best["restore"]["seconds"]
    ratios["restore_rows_per_second"] = best["restore"]["per_second"]
    admin.delete_topics([topic])[topic].result()


def _fill(path: Path, connection: Connection, topic: str, count: int) -> int:
    buffer, source = _open(path / "filler"), Source(max(10, count // 100))
    producer = connection.producer(
        **{"linger.ms": 50, "batch.size": 1_000_000, "queue.buffering.max.messages": 1_000_000}
    )
    headers = [(OWNER_HEADER, _OWNER)]
    written = 0
    while written < count:
        changes = buffer.prepare(source.take(BATCH), source_offset=written)
        for key, value in changes.rows:
            producer.produce(topic, value, key, 0, headers=headers)
        written += len(changes.rows)
        buffer.commit(changes, log_offset=written)
        producer.poll(0)
    assert producer.flush(120) == 0
    buffer.close()
    return written


def _consume(connection: Connection, topic: str, count: int) -> int:
    consumer = connection.consumer(f"{topic}.bare", **{**RESTORE_CONFIG, "enable.partition.eof": False})
    consumer.assign([TopicPartition(topic, 0, 0)])
    seen = 0
    while seen < count:
        seen += len(consumer.consume(5000, 0.05))
    consumer.close()
    return seen


@contextmanager
def _broker(path: Path, bootstrap: str | None) -> Iterator[Connection]:
    if bootstrap is not None:
        yield Connection(bootstrap, {}, identity="bench")
        return
    broker = LocalKafka(path)
    try:
        yield broker.connection
    finally:
        broker.stop()


@contextmanager
def _directory() -> Iterator[Path]:
    path = Path(tempfile.mkdtemp(prefix="anchorstream-bench-"))
    try:
        yield path
    finally:
        shutil.rmtree(path)


def _row(case: str, count: int, seconds: float, note: str) -> dict[str, Any]:
    return {
        "case": case,
        "count": count,
        "seconds": seconds,
        "per_second": count / seconds,
        "microseconds": 1e6 * seconds / count,
        "note": note,
    }
