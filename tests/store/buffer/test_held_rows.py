"""A replica uses a window's rows only together with their summary, wherever the log is cut (A5)."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from store.buffer import held_rows
from store.buffer.token_buffer import TokenBuffer
from store.window import layout
from store.window.layout import split_prefix
from store.window.rows import KIND_SUMMARY, parse_key
from store.window.user_window import summary_by_scan
from tests.models.events import DIM, Log, Open, event, modalities, open_buffer, resources

SHARED = resources()
Windows = dict[tuple[str, str], dict[bytes, bytes]]


def windows(buffer: TokenBuffer) -> Windows:
    """Per window that has a summary, all its rows, the summary among them."""
    rows: Windows = {}
    for key, value in buffer.rows():
        user, modality, *_ = parse_key(key)
        rows.setdefault((user, modality), {})[key] = value
    return {window: of for window, of in rows.items() if any(parse_key(key).kind == KIND_SUMMARY for key in of)}


def check(replica: TokenBuffer) -> None:
    """Every summary is the one that the rows beside it give."""
    made = modalities()
    for (user, modality), rows in windows(replica).items():
        summary = replica.summary(user, modality)
        assert summary is not None
        cut = len(user.encode()) + len(modality) + 3
        scanned = summary_by_scan(
            ((key[cut:], value) for key, value in rows.items() if key[cut] != KIND_SUMMARY),
            summary,
            made[modality],
            DIM,
        )
        assert scanned.pack() == rows[min(rows)], (user, modality)


batches = st.lists(
    st.tuples(st.sampled_from("uvw"), st.sampled_from("abt"), st.integers(0, 200), st.booleans()),
    min_size=1,
    max_size=10,
)


@given(st.data())
@settings(max_examples=40, deadline=None)
def test_at_every_position_rows_and_summary_belong_together(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    """Batches cut anywhere, done again in other pieces; the replica reopened anywhere."""
    path = tmp_path_factory.mktemp("held")
    log, primary = Log(), open_buffer(path / "p", SHARED)
    replica = open_buffer(path / "r", SHARED, replica=True)
    offset = 0
    for step in range(data.draw(st.integers(1, 5))):
        made = []
        for user, modality, age, flag in data.draw(batches):
            offset += 1
            fields = {"x": flag, "y": True} if modality == "t" else None
            made.append(event(user, modality, 1000 + 60 * step + age, f"e{offset}", fields=fields, offset=offset))
        changes = primary.prepare(made, source_offset=offset)
        rows = [(row, False) for row in changes.rows] + [(row, True) for row in changes.sweep_rows]
        for row, sweep in rows[: data.draw(st.integers(0, len(rows)))]:
            log.append([row], sweep=sweep)
        follow(replica, log, data.draw(st.integers(1, 7)))
        if data.draw(st.booleans()):
            replica.close()
            replica = open_buffer(path / "r", SHARED, replica=True)
            follow(replica, log, 3)
        primary.close()
        primary = open_buffer(path / "p", SHARED)
        log.replay(primary)
        primary.finish_restore()
        pieces = data.draw(st.integers(1, 5))
        for start in range(0, len(made), pieces):
            log.write(primary, made[start : start + pieces], offset)
        follow(replica, log, data.draw(st.integers(1, 7)))
        log.write(primary, [], offset)
        follow(replica, log, 7)
        assert windows(replica) == windows(primary)
    replica.close()
    primary.close()


def follow(replica: TokenBuffer, log: Log, chunk: int) -> None:
    while replica.log_offset < len(log):
        log.replay(replica, chunk=chunk, upto=min(len(log), replica.log_offset + chunk))
        check(replica)


def test_a_batch_without_its_summaries_changes_nothing_that_is_seen(opened: Open) -> None:
    primary, log = opened("p"), Log()
    log.write(primary, [event("u", "a", 1000, "e1"), event("v", "b", 1000, "e2")], 0)
    torn = primary.prepare([event("u", "a", 1010 + i, f"x{i}") for i in range(3)], source_offset=1)
    log.append(torn.deletes + torn.puts, sweep=False)
    replica = opened("r", replica=True)
    log.replay(replica, mark_dirty=True)
    assert windows(replica) == windows(primary)
    assert replica.log_offset == len(log)
    replica.close()
    replica = opened("r", replica=True)
    assert replica.log_offset < len(log), "what was held is read again"
    log.append(torn.summaries, sweep=False)
    log.replay(replica)
    primary.commit(torn, log_offset=len(log))
    assert windows(replica) == windows(primary)


def test_the_position_on_disk_carries_the_owner_in_force_there(opened: Open) -> None:
    """Else rows of a former owner that are read again after a take-over would be taken for late ones."""
    primary, log = opened("p"), Log()
    log.write(primary, [event("u", "a", 1000, "e1")], 0)
    torn = primary.prepare([event("u", "a", 1010, "x")], source_offset=1)
    replica = opened("r", replica=True)
    replica.apply_log([r[:2] for r in log.records], next_offset=2, owner=b"owner-01")
    replica.apply_log(torn.puts, next_offset=3)
    replica.apply_log([], next_offset=4, owner=b"owner-02")
    assert (replica.log_offset, replica.owner) == (4, b"owner-02")
    replica.close()
    replica = opened("r", replica=True)
    assert (replica.log_offset, replica.owner) == (2, b"owner-01")


def test_a_compacted_log_is_followed_in_bounded_memory(opened: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of each key the newest record is left: all rows of a window come long before its only summary."""
    monkeypatch.setattr(held_rows, "HELD_ROWS", 20)
    monkeypatch.setattr(held_rows, "HELD_RECORDS", 50)
    rng = random.Random(5)
    primary, log = opened("p"), Log()
    users = [f"u{i}" for i in range(60)]
    for i in range(150):
        made = [event(user, "ab"[i % 2], 1000 + i, f"e{i}.{user}", offset=i) for user in rng.sample(users, 4)]
        log.write(primary, made, i)
    last = {key: at for at, (key, _, _) in enumerate(log.records)}
    compacted = Log()
    compacted.records = [record for at, record in enumerate(log.records) if last[record[0]] == at]
    replica = opened("r", replica=True)
    most, behind = 0, 0
    while replica.log_offset < len(compacted):
        compacted.replay(replica, chunk=10, upto=min(len(compacted), replica.log_offset + 10))
        waiting = replica._log._waiting
        assert waiting is not None
        most = max(most, waiting._count)
        behind = max(behind, replica.log_offset - replica._db.get_int(layout.M_LOG_OFFSET, 0))
    assert 10 < most <= 30
    assert behind <= 50 + 2 * 10
    assert windows(replica) == windows(primary)
    assert waiting._count == len(waiting) == 0


def test_rows_of_a_modality_that_is_not_configured_do_not_hold_the_position_back(
    opened: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(held_rows, "HELD_ROWS", 2)
    primary, log = opened("p"), Log()
    log.write(primary, [event("u", "b", 1000, "e1")], 0)
    log.append(
        primary.prepare([event("u", "b", 1001 + i, f"x{i}") for i in range(3)], source_offset=1).puts, sweep=False
    )
    without = {name: modality for name, modality in modalities().items() if name != "b"}
    replica = opened("r", replica=True, modalities=without)
    log.replay(replica, chunk=2)
    assert replica._db.get_int(layout.M_LOG_OFFSET, 0) == len(log)


def test_rows_logged_again_are_followed_by_their_summary(opened: Open) -> None:
    """Also where the batch changes the same window: else a replica would hold them for good."""
    primary, log = opened("p"), Log()
    log.write(primary, [event("u", "a", 1000 + i, f"e{i}") for i in range(2)], 0)
    again = [key for key, _ in primary.rows() if parse_key(key).kind != KIND_SUMMARY]
    for made in ([], [event("u", "a", 1010, "x")]):
        primary.note_stale(again)
        changes = primary.prepare(made, source_offset=1)
        sent = [key for key, _ in changes.rows + changes.sweep_rows]
        assert set(again) <= set(sent)
        for key in again:
            summary = key[: layout.prefix_length(key)] + b"\x00"
            assert sent.index(key) < sent.index(summary)
            assert split_prefix(summary[:-1]) == ("u", "a")
        primary.commit(changes, log_offset=len(log) + len(sent))
