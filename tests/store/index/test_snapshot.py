"""Snapshots: whole or refused, fuzzy and still right, and durable step by step."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from structlog.testing import capture_logs

from store.base import fault
from store.index import snapshot
from store.index.index import ScenarioIndex
from store.index.snapshot import Header, SnapshotStore, Wanted
from store.index.snapshotter import Snapshotter
from tests.support.index_twin import DIM, entry, partition_of

DAY_MS = 86_400_000
NOW = 1_700_000_000_000


def filled(users: int = 20, registration: int = 0) -> ScenarioIndex:
    index = ScenarioIndex("s", dim=DIM, registration=registration)
    vectors = np.random.default_rng(5).standard_normal((users, DIM), np.float32)
    index.apply([entry(f"u{i}", i, v, registration=registration) for i, v in enumerate(vectors)], now_ms=1)
    index.apply([entry("u1", 100, None)], now_ms=1)
    return index


def load(
    store: SnapshotStore, *, now_ms: int = NOW, refuse: str = "", dim: int = DIM, registration: int = 0
) -> tuple[ScenarioIndex | None, str]:
    """The index and the last reason for a refusal."""
    with capture_logs() as lines:
        found = store.load({"s": Wanted(dim, registration)}, now_ms=now_ms, accept=lambda _: refuse)
    reasons = [line["reason"] for line in lines if line["event"] == "snapshot_refused"]
    return found.get("s"), (reasons or [""])[-1]


@pytest.fixture
def store(tmp_path: Path) -> SnapshotStore:
    return SnapshotStore(tmp_path / "serve", identity="kafka:a")


def same(a: ScenarioIndex, b: ScenarioIndex) -> bool:
    one, two = a.page("", 10_000), b.page("", 10_000)
    return (
        [(r.partition, r.offset, r.record.user_id, r.record.covers, r.record.vector.tobytes()) for r in one]
        == [(r.partition, r.offset, r.record.user_id, r.record.covers, r.record.vector.tobytes()) for r in two]
        and a.applied() == b.applied()
        and a.copy_tombstones() == b.copy_tombstones()
    )


def test_restored_bit_for_bit(store: SnapshotStore) -> None:
    index = filled()
    written = store.write({"s": index}, topic_ids={"s": "t1"}, now_ms=NOW)
    assert written.applied == {"s": index.applied()}
    restored, reason = load(store)
    assert reason == ""
    assert restored is not None
    assert same(index, restored)


def test_two_are_kept_and_the_older_serves_when_the_newer_is_broken(store: SnapshotStore) -> None:
    index = filled()
    store.write({"s": index}, topic_ids={}, now_ms=NOW)
    older = index.applied()
    for offset in (200, 300):
        index.apply([entry("u2", offset, np.ones(DIM, np.float32))], now_ms=1)
        store.write({"s": index}, topic_ids={}, now_ms=NOW)
    first, second = store.paths()
    assert len(store.paths()) == 2
    first.write_bytes(first.read_bytes()[:-7])
    restored, reason = load(store)
    assert "cut off" in reason or "end is missing" in reason
    assert restored is not None
    assert older != restored.applied() != index.applied()
    second.unlink()
    assert load(store)[0] is None


@pytest.mark.parametrize(
    ("change", "options", "reason"),
    [
        ({"identity": "kafka:b"}, {}, "written for broker kafka:a"),
        ({}, {"now_ms": NOW + 8 * DAY_MS}, "the topics keep deletions"),
        ({}, {"dim": DIM + 1}, "has dim"),
        ({}, {"refuse": "its offset is not within"}, "its offset is not within"),
    ],
)
def test_what_cannot_be_trusted_is_refused(
    store: SnapshotStore, change: dict[str, str], options: dict[str, int], reason: str
) -> None:
    store.write({"s": filled()}, topic_ids={}, now_ms=NOW)
    reader = SnapshotStore(store.directory, identity=change.get("identity", "kafka:a"))
    restored, why = load(reader, **options)  # type: ignore[arg-type]
    assert restored is None
    assert reason in why


def test_another_format_is_refused(store: SnapshotStore, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(snapshot, "FORMAT", snapshot.FORMAT + 1)
        store.write({"s": filled()}, topic_ids={}, now_ms=NOW)
    assert "of format" in load(store)[1]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=150)
@given(st.data())
def test_damage_anywhere_is_noticed(store: SnapshotStore, data: st.DataObject) -> None:
    if not store.paths():
        store.write({"s": filled()}, topic_ids={}, now_ms=NOW)
    (path,) = store.paths()
    whole = path.read_bytes()
    at = data.draw(st.integers(0, len(whole) - 1))
    cut = data.draw(st.booleans())
    damaged = whole[:at] if cut else whole[:at] + bytes((whole[at] ^ data.draw(st.integers(1, 255)),)) + whole[at + 1 :]
    path.write_bytes(damaged)
    try:
        restored, reason = load(store)
        assert restored is None
        assert reason
    finally:
        path.write_bytes(whole)


def test_rows_of_another_registration_are_left_out_and_the_rest_is_used(store: SnapshotStore) -> None:
    index = filled(registration=7)
    store.write({"s": index, "other": filled()}, topic_ids={}, now_ms=NOW)
    restored, reason = load(store, registration=7)
    assert reason == ""
    assert restored is not None
    assert restored.registration == 7
    assert same(index, restored)
    for registration in (0, 8):
        seen: list[Header] = []
        found = store.load(
            {"s": Wanted(DIM, registration), "other": Wanted(DIM)},
            now_ms=NOW,
            accept=lambda header, seen=seen: seen.append(header) or "",  # type: ignore[misc, func-returns-value]
        )
        assert found.keys() == seen[0].scenarios.keys() == {"other"}


def test_a_file_from_before_registrations_is_read(store: SnapshotStore, monkeypatch: pytest.MonkeyPatch) -> None:
    index = filled()
    with monkeypatch.context() as patch:
        patch.setattr(snapshot, "ScenarioHeader", _HeaderOfBefore)
        store.write({"s": index}, topic_ids={}, now_ms=NOW)
    restored, reason = load(store)
    assert reason == ""
    assert restored is not None
    assert same(index, restored)
    assert load(store, registration=7)[0] is None


class _HeaderOfBefore(tuple[object, ...]):
    """`ScenarioHeader` as it was: five members."""

    def __new__(cls, *values: object) -> _HeaderOfBefore:
        return super().__new__(cls, values[:5])

    @property
    def applied(self) -> object:
        return self[2]


def test_header_says_where_reading_goes_on(store: SnapshotStore) -> None:
    store.write({"s": filled()}, topic_ids={"s": "abc"}, now_ms=NOW)
    seen: list[Header] = []

    def accept(header: Header) -> str:
        seen.append(header)
        return ""

    store.load({"s": Wanted(DIM)}, now_ms=NOW, accept=accept)
    position = seen[0].scenarios["s"]
    assert (seen[0].identity, seen[0].created_at, position.topic_id) == ("kafka:a", NOW, "abc")
    assert position.applied == filled().applied()
    assert (position.users, position.models) == (19, {"m1": 19})


def test_written_while_rows_change_it_still_restores_the_same(
    store: SnapshotStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fuzzy: the copy mixes moments; replaying everything after its offsets makes it one again."""
    monkeypatch.setattr(snapshot, "CHUNK_ROWS", 7)
    index = ScenarioIndex("s", dim=DIM)
    rng = np.random.default_rng(6)
    log = []
    ended = threading.Event()

    def write() -> None:
        offset = 0
        while not ended.is_set():
            offset += 1
            vector = None if rng.random() < 0.3 else rng.standard_normal(DIM).astype(np.float32)
            log.append(entry(f"u{rng.integers(60)}", offset, vector))
            index.apply(log[-1:], now_ms=1)

    thread = threading.Thread(target=write)
    thread.start()
    try:
        for _ in range(25):
            written = store.write({"s": index}, topic_ids={}, now_ms=NOW)
    finally:
        ended.set()
        thread.join()
    restored, _ = load(store)
    assert restored is not None
    assert restored.applied() == written.applied["s"]
    since = [item for item in log if item.offset >= written.applied["s"].get(partition_of(item.user_id), 0)]
    restored.apply(since, now_ms=1)
    assert same(index, restored)


def test_erased_rows_leave_the_disk(store: SnapshotStore) -> None:
    index = filled()
    erased = index.get("u7")
    assert erased is not None
    snapshots = Snapshotter(store, {"s": index}, interval_seconds=1000)
    snapshots.finish(now_ms=NOW)
    assert any(erased.record.vector.tobytes() in path.read_bytes() for path in store.paths())
    index.apply([entry("u7", 900, None)], now_ms=1)
    snapshots.erased()
    snapshots.finish(now_ms=NOW)
    snapshots.close()
    assert len(store.paths()) == 2
    assert not any(erased.record.vector.tobytes() in path.read_bytes() for path in store.paths())


def test_a_retired_scenario_leaves_the_disk(store: SnapshotStore) -> None:
    indexes = {"s": filled(registration=7), "other": filled()}
    gone = indexes["s"].get("u7")
    assert gone is not None
    indexes["other"].apply([entry("u7", 900, None)], now_ms=1)
    snapshots = Snapshotter(store, indexes, interval_seconds=1000)
    snapshots.finish(now_ms=NOW)
    assert any(gone.record.vector.tobytes() in path.read_bytes() for path in store.paths())
    del indexes["s"]
    snapshots.retired("s")
    assert "s" not in snapshots.durable
    snapshots.finish(now_ms=NOW)
    snapshots.close()
    assert not any(gone.record.vector.tobytes() in path.read_bytes() for path in store.paths())
    assert "s" not in snapshots.durable


def test_tombstones_are_forgotten_only_after_the_topic_forgets_them(store: SnapshotStore) -> None:
    index = filled()
    assert index.prune_tombstones(before_ms=100) == 0  # erased at 100
    assert index.prune_tombstones(before_ms=101) == 1
    assert index.tombstones == 0


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), MemoryError(), ValueError("other")])
def test_a_snapshot_that_fails_is_told_and_tried_again(
    store: SnapshotStore, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    """C3: a full disk killed serve, again and again."""
    index = filled()
    snapshots = Snapshotter(store, {"s": index}, interval_seconds=10)
    snapshots.erased()

    def full(*_: object) -> None:
        raise error

    def step(now: float) -> list[str]:
        with capture_logs() as lines:
            snapshots.step(now=now, now_ms=NOW)
            snapshots._executor.submit(int).result()
            snapshots.step(now=now, now_ms=NOW)
        return [line["event"] for line in lines if line["log_level"] == "error"]

    with monkeypatch.context() as patched:
        patched.setattr("os.fsync", full)
        assert step(0.0) == ["snapshot_failed"]
        assert step(5.0) == [], "not before its time"
        assert step(11.0) == ["snapshot_failed"]
        with capture_logs():
            snapshots.finish(now_ms=NOW)
        assert list(store.directory.iterdir()) == []
        assert snapshots.durable == {}
    assert step(30.0) == []
    assert snapshots.durable == {"s": index.applied()}
    assert step(41.0) == []
    snapshots.close()
    assert len(store.paths()) == 2, "both that were asked for, although some failed"


def test_a_directory_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    (tmp_path / "serve").write_text("a file, not a directory")
    snapshots = Snapshotter(SnapshotStore(tmp_path / "serve", identity="x"), {"s": filled()}, interval_seconds=0.0)
    with capture_logs() as lines:
        snapshots.finish(now_ms=NOW)
    assert [line["event"] for line in lines] == ["snapshot_failed"]
    snapshots.close()


def test_files_of_others_are_left_alone_and_our_leftovers_go(store: SnapshotStore) -> None:
    """C3: a file `snapshot-backup.bin` beside the others ended every start."""
    store.write({"s": filled()}, topic_ids={}, now_ms=NOW)
    others = ["snapshot-backup.bin", "snapshot-1.2.bin", "snapshot-٣.bin", "notes.tmp", ".notes.7.tmp"]
    leftover = ".snapshot-0000000000000007.bin.4711.tmp"
    for name in [*others, leftover]:
        (store.directory / name).write_bytes(b"x")
    (store.directory / "snapshot-0000000000000001.bin").mkdir()  # named as ours, and cannot be removed
    restored, reason = load(store)
    assert (restored is not None, reason) == (True, "")
    assert not (store.directory / leftover).exists()
    for i in (1, 2):
        store.write({"s": filled()}, topic_ids={}, now_ms=NOW + i)
    assert {path.name for path in store.directory.iterdir()} >= set(others)
    assert len([path for path in store.paths() if path.is_file()]) == 2


def test_nobody_else_reads_them(store: SnapshotStore) -> None:
    """C11."""
    before = os.umask(0)
    try:
        path = store.write({"s": filled()}, topic_ids={}, now_ms=NOW).path
    finally:
        os.umask(before)
    assert (path.stat().st_mode & 0o777, store.directory.stat().st_mode & 0o777) == (0o600, 0o700)


def test_when_a_snapshot_is_due(store: SnapshotStore) -> None:
    index = filled()
    snapshots = Snapshotter(store, {"s": index}, interval_seconds=10, max_bytes=100)

    def step(now: float) -> int:
        before = set(store.paths())
        snapshots.step(now=now, now_ms=NOW)
        snapshots._executor.submit(int).result()
        snapshots.step(now=now, now_ms=NOW)
        return len(set(store.paths()) - before)

    assert step(0.0) == 1
    assert step(50.0) == 0, "nothing changed"
    index.apply([entry("u3", 500, np.ones(DIM, np.float32))], now_ms=1)
    assert step(51.0) == 1
    index.apply([entry("u3", 501, np.ones(DIM, np.float32))], now_ms=1)
    assert step(52.0) == 0, "too soon"
    snapshots.read(100)
    assert step(53.0) == 1
    assert snapshots.durable == {"s": index.applied()}
    snapshots.close()


@pytest.mark.parametrize("point", ["frames.before_rename", "frames.after_rename"])
def test_a_crash_while_writing_leaves_a_whole_snapshot(store: SnapshotStore, point: str) -> None:
    store.write({"s": filled(5)}, topic_ids={}, now_ms=NOW)
    script = (
        "from pathlib import Path\nfrom tests.store.index.test_snapshot import NOW, filled\n"
        "from store.index.snapshot import SnapshotStore\n"
        f"SnapshotStore(Path({str(store.directory)!r}), identity='kafka:a')"
        ".write({'s': filled(9)}, topic_ids={}, now_ms=NOW + 1)\n"
    )
    environment = {**os.environ, "ANCHORSTREAM_FAULT": point}
    assert subprocess.run([sys.executable, "-c", script], env=environment, timeout=60).returncode == fault.EXIT_CODE
    restored, reason = load(store)
    assert reason == ""
    assert restored is not None
    assert len(restored) == (4 if point == "frames.before_rename" else 8)
    store.write({"s": filled()}, topic_ids={}, now_ms=NOW + 2)
    assert not list(store.directory.glob("*.tmp"))
