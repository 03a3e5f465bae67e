"""Applying the log to a primary: what is derived from the rows follows at once, and proportionally."""

from __future__ import annotations

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from store.base.errors import StateError
from store.base.settings import ERASURE
from store.buffer import log_apply
from store.buffer.token_buffer import TokenBuffer
from store.window import layout
from store.window.encoded_event import EncodedEvent
from store.window.layout import parse_expiry_key
from store.window.rows import KIND_SUMMARY, field_key, pack_summary, parse_key, summary_key
from tests.models.events import Log, Open, event, open_buffer, resources

SHARED = resources()


def events_of(*times: int, user: str = "u") -> list[EncodedEvent]:
    return [event(user, "a", ts, f"e{ts}", offset=ts) for ts in times]


def derived(buffer: TokenBuffer) -> dict[str, list[tuple[bytes, bytes]]]:
    db = buffer._db
    return {"ids": list(db.items(db.ids, b"")), "rows": list(buffer.rows())}


@given(st.data())
@settings(max_examples=15, deadline=None)
def test_however_the_log_is_applied_the_same_is_left(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    """In pieces of any size, finished after any of them, bulk or not, reopened anywhere: as if in one go."""
    path = tmp_path_factory.mktemp("pieces")
    made = [
        event(user, modality, 1000 + age, f"e{number}", offset=number)
        for number, (user, modality, age) in enumerate(
            data.draw(
                st.lists(st.tuples(st.sampled_from("uv"), st.sampled_from("ab"), st.integers(0, 400)), max_size=60)
            )
        )
    ]
    log, whole = Log(), open_buffer(path / "whole", SHARED)
    for start in range(0, len(made), 5):
        log.write(whole, made[start : start + 5], start)
    once, pieces = open_buffer(path / "once", SHARED), open_buffer(path / "pieces", SHARED)
    log.replay(once, chunk=len(log) + 1)
    while pieces.log_offset < len(log):
        upto = min(len(log), pieces.log_offset + data.draw(st.integers(1, 20)))
        if data.draw(st.booleans()):
            with pieces.bulk_load():
                log.replay(pieces, chunk=data.draw(st.integers(1, 5)), upto=upto)
        else:
            log.replay(pieces, chunk=data.draw(st.integers(1, 5)), upto=upto)
        if data.draw(st.booleans()):
            pieces.finish_restore()
        if data.draw(st.booleans()):
            pieces.close()
            pieces = open_buffer(path / "pieces", SHARED)
        assert pieces.log_offset == upto
    assert once.finish_restore() == pieces.finish_restore() == 0
    assert derived(pieces) == derived(once) == derived(whole)
    assert pieces.stream_time == once.stream_time == whole.stream_time
    later = [event(user, "a", 5000, "last", offset=99) for user in "uv"]
    for buffer in (whole, once, pieces):  # everything else expires: the indexes of all three find it
        Log().write(buffer, later, 99)
    assert derived(pieces) == derived(once) == derived(whole)
    for buffer in (whole, once, pieces):
        buffer.close()


def test_only_windows_cut_off_from_their_summary_are_looked_at_again(
    opened: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So a take-over costs what is new, not what there is."""
    source, log = opened("source"), Log()
    for i in range(20):
        log.write(source, [event(f"u{i}", "a", 1000 + i, f"e{i}", offset=i)], i)
    torn = source.prepare([event("u3", "a", 1030, "x", offset=21)], source_offset=21)
    log.append(torn.puts, sweep=False)
    buffer = opened("restored")
    log.replay(buffer)
    seen: list[bytes] = []
    scan = buffer._db.items
    monkeypatch.setattr(buffer._db, "items", lambda family, prefix: seen.append(prefix) or scan(family, prefix))
    assert buffer.finish_restore() == 1
    assert [parse_key(prefix + b"\x00").user_id for prefix in seen] == ["u3"]
    buffer.close()
    buffer = opened("restored")
    assert buffer.finish_restore() == 0
    assert buffer.prepare([], source_offset=21).sweep_rows == [
        row for row in buffer.rows() if parse_key(row[0])[:3] == ("u3", "a", KIND_SUMMARY)
    ]


def test_a_restore_that_was_cut_off_remembers_which_summaries_are_missing(opened: Open) -> None:
    source, log = opened("source"), Log()
    log.write(source, events_of(1000, 1010), 0)
    torn = source.prepare(events_of(1020), source_offset=1)
    log.append(torn.puts, sweep=False)
    for bulk in (False, True):
        buffer = opened(f"b{bulk}")
        if bulk:
            with buffer.bulk_load():
                log.replay(buffer)
        else:
            log.replay(buffer)
        buffer.close()
        buffer = opened(f"b{bulk}")
        assert buffer.finish_restore() == 1
        summary = buffer.summary("u", "a")
        assert summary is not None
        assert (summary.rows, summary.newest) == (3, 1020)


def test_following_the_log_leaves_one_entry_a_window_in_the_expiry_index(opened: Open) -> None:
    """Disk follows the windows, not how long a standby has followed."""
    source, buffer, log = opened("source"), opened("follower"), Log()
    for i in range(60):
        log.write(source, events_of(1000 + i), i)
        log.replay(buffer)
    db = buffer._db
    assert [parse_expiry_key(key).ts for key, _ in db.items(db.expiry, b"")] == [1000]


def test_bulk_loading_writes_the_newest_summary_only(opened: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log_apply, "_HELD_ROWS", 25)
    source, buffer, log = opened("source"), opened("restored"), Log()
    for i in range(40):
        log.write(source, events_of(1000 + i), i)
    positions: list[int] = []
    with buffer.bulk_load():
        while buffer.log_offset < len(log):
            log.replay(buffer, upto=min(len(log), buffer.log_offset + 5))
            positions.append(buffer._db.get_int(layout.M_LOG_OFFSET, 0))
            newest = {
                key: value for key, value, _ in log.records[: positions[-1]] if parse_key(key).kind == KIND_SUMMARY
            }
            stored = buffer.summary("u", "a")
            assert ({} if stored is None else {summary_key("u", "a"): pack_summary(stored)}) == newest
    assert 1 < len(set(positions)) < len(positions) / 3
    assert dict(buffer.rows()) == dict(source.rows())


def test_a_replica_is_not_bulk_loaded(opened: Open) -> None:
    with pytest.raises(ValueError, match="replica"), opened("b", replica=True).bulk_load():
        pass


def test_rows_and_summaries_of_a_newer_format_are_refused(opened: Open) -> None:
    source, log = opened("source"), Log()
    log.write(source, events_of(1000), 0)
    (key, value), (key_of_summary, packed) = [record[:2] for record in log.records]
    assert value is not None
    assert packed is not None
    newer = [2, *msgpack.unpackb(packed)[1:]]
    field = field_key("u", "t", "f"), b"\x02" + bytes(30)
    for i, row in enumerate([(key, b"\x03" + value[1:]), field, (key_of_summary, msgpack.packb(newer))]):
        buffer = opened(f"b{i}")
        with pytest.raises(StateError, match=r"format [23]"):
            buffer.apply_log([row], next_offset=1)
        assert buffer.log_offset == 0


def test_a_restore_begun_by_an_older_version_is_begun_anew(opened: Open) -> None:
    """Its expiry index was to be built at the end."""
    buffer = opened("b")
    batch = buffer._db.batch()
    batch.put(layout.M_RESTORING, b"1", buffer._db.h_meta)
    buffer._db.write(batch)
    buffer.close()
    with pytest.raises(StateError, match="older version"):
        opened("b")


def test_the_time_of_an_erased_event_is_restored(opened: Open) -> None:
    """It moved the stream's time and left no row: a restore stood at an earlier one, and kept what had expired."""
    log = Log()
    first = opened("first")
    log.write(first, [event("u", ERASURE, 5000, "x", offset=1), *events_of(1000, 2000)], 0)
    assert first.stream_time == 2000
    assert [key for key, _ in first.rows() if parse_key(key).kind != KIND_SUMMARY] == []
    for name, options in (("again", {}), ("replica", {"replica": True})):
        restored = opened(name, **options)
        log.replay(restored)
        assert restored.stream_time == 2000


def test_the_time_of_an_event_without_fields_is_restored(opened: Open) -> None:
    """Its user erased, a restore had it and the buffer that went on did not; now both."""
    log = Log()
    first = opened("first")
    empty = event("ü", "t", 5000, "y", fields={}, offset=1)
    log.write(first, [*events_of(1000), empty, event("ü", ERASURE, 6000, "x", offset=2)], 0)
    assert first.stream_time == 5000
    for name, options in (("again", {}), ("replica", {"replica": True})):
        restored = opened(name, **options)
        log.replay(restored)
        assert restored.stream_time == 5000
