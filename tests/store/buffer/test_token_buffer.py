"""What the token buffer promises, one promise a test."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from store.base.errors import StateError
from store.buffer.inspection import inspect
from store.buffer.token_buffer import TokenBuffer
from store.window.encoded_event import EncodedEvent
from store.window.rows import event_key, summary_key
from tests.models.buffer_model import BufferModel
from tests.models.events import (
    DIM,
    GRANULARITY_MS,
    WINDOW_MS,
    Log,
    days,
    event,
    modalities,
    open_buffer,
    resources,
)

SHARED = resources()
Open = Callable[..., TokenBuffer]


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[Open]:
    """Factory of buffers by name; closed at the end."""
    live: list[TokenBuffer] = []

    def make(name: str = "b", **changes: Any) -> TokenBuffer:
        live.append(open_buffer(tmp_path / name, SHARED, **changes))
        return live[-1]

    yield make
    for buffer in live:
        buffer.close()


def events_of(*times: int, user: str = "u", modality: str = "a") -> list[EncodedEvent]:
    return [event(user, modality, ts, f"e{ts}", offset=ts) for ts in times]


def names(buffer: TokenBuffer, user: str = "u", modality: str = "a") -> list[str]:
    window = buffer.window(user).modalities.get(modality)
    return [] if window is None else window.names


@st.composite
def any_order(draw: st.DrawFn) -> tuple[list[EncodedEvent], list[list[EncodedEvent]]]:
    """Distinct events within two windows, and the same in another order with duplicates, cut into batches."""
    made: list[EncodedEvent] = []
    shapes = st.tuples(st.sampled_from(["u", "v"]), st.sampled_from("abt"), st.integers(1000, 1000 + 2 * WINDOW_MS - 1))
    for i, (user, modality, ts) in enumerate(draw(st.lists(shapes, min_size=1, max_size=25))):
        fields = draw(st.dictionaries(st.sampled_from("fghij"), st.booleans(), min_size=1, max_size=3))
        made.append(event(user, modality, ts, f"e{i:02}", fields=fields if modality == "t" else None, offset=i))
    order = draw(st.permutations(made + draw(st.lists(st.sampled_from(made), max_size=8))))
    cuts = sorted(draw(st.sets(st.integers(0, len(order)), max_size=5)) | {0, len(order)})
    return made, [order[a:b] for a, b in pairwise(cuts)]


@given(any_order())
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_order_and_duplicates_leave_no_trace(
    tmp_path_factory: pytest.TempPathFactory, case: tuple[list[EncodedEvent], list[list[EncodedEvent]]]
) -> None:
    """Invariant 2: same rows, byte for byte, as all events at once; and as the model says."""
    made, batches = case
    model = BufferModel(modalities(), DIM, GRANULARITY_MS)
    model.batch(made)
    buffer = open_buffer(tmp_path_factory.mktemp("order"), SHARED)
    log = Log()
    for i, batch in enumerate(batches):
        log.write(buffer, batch, i)
    assert dict(buffer.rows()) == model.rows()
    buffer.close()


@given(st.data())
@settings(max_examples=10, deadline=None)
def test_a_log_cut_anywhere_restores_to_exact_summaries(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    """`finish_restore` makes summaries equal a scan; reading the events again ends in the full state, and what was
    recomputed reaches the log, so that another reader of it agrees."""
    path = tmp_path_factory.mktemp("torn")
    times = data.draw(st.lists(st.integers(1000, 1150), min_size=1, max_size=20, unique=True))
    rng = list(enumerate(times))
    made = [event("u", "ab"[ts % 2], ts, f"e{ts}", offset=i) for i, ts in rng]
    log = Log()
    whole = open_buffer(path / "whole", SHARED)
    for start in range(0, len(made), 4):
        log.write(whole, made[start : start + 4], start)
    log.records = log.records[: data.draw(st.integers(0, len(log)))]
    torn = open_buffer(path / "torn", SHARED)
    log.replay(torn, chunk=data.draw(st.integers(1, 9)))
    torn.finish_restore()
    log.write(torn, [], -1)
    twin = open_buffer(path / "twin", SHARED, replica=True)
    log.replay(twin)
    assert dict(twin.rows()) == dict(torn.rows())
    log.write(torn, made, 0)
    assert dict(torn.rows()) == dict(whole.rows())
    for buffer in (whole, torn, twin):
        buffer.close()


def test_every_outcome_advances_covers(opened: Open) -> None:
    """Invariant 4: an embedding's `covers` reaches every accepted event, also one that changes nothing."""
    buffer, log = opened(), Log()
    assert log.write(buffer, events_of(1000, 1010, 1020), 0) == ["applied"] * 3
    cases = {
        "duplicate": event("u", "a", 1010, "e1010", offset=2000),
        "conflicting": event("u", "a", 1010, "e1010", content=1, offset=2002),
        "remembered": event("u", "a", 990, "e990", offset=2004),
        "expired": event("u", "a", 100, "e100", offset=2006),
    }
    for i, (outcome, late) in enumerate(cases.items()):
        assert log.write(buffer, [late], i) == [outcome]
        assert buffer.window("u").covers[late.source] == late.source_offset
        assert log.records[-1][0] == summary_key("u", "a"), "the summary is logged: the user is refreshed"
        assert names(buffer) == ["e1000", "e1010", "e1020"]
    assert log.write(buffer, [event("stranger", "a", 100, "e", offset=7)], 9) == ["expired"]
    assert log.write(buffer, [event("stranger", "a", 900, "e", offset=8)], 10) == ["remembered"]
    crowd = [event("u", "b", 1000 + i, f"b{i}", offset=2008 + i) for i in range(6)]
    assert log.write(buffer, list(reversed(crowd)), 11) == ["applied"] * 5 + ["evicted"], "b has no memory"


def test_a_user_with_nothing_left_is_forgotten_one_window_later(opened: Open) -> None:
    """Invariant 6: the summary outlives the rows by one window, for late duplicates; then nothing is left."""
    buffer, log = opened(modalities=modalities(memory_days=0)), Log()
    log.write(buffer, events_of(1000), 0)
    log.write(buffer, events_of(1000 + WINDOW_MS + GRANULARITY_MS, user="v"), 1)
    assert names(buffer) == []
    summary = buffer.summary("u", "a")
    assert summary is not None
    assert (summary.rows, summary.oldest, summary.newest) == (0, 0, 1000)
    window = buffer.window("u")
    assert (window.newest_event, window.as_of) == (1000, 1000), "it does not go back"
    assert (window.at(1500).newest_event, window.at(1500).as_of, window.at(500).as_of) == (1000, 1500, 1000)
    log.write(buffer, events_of(1000 + 2 * WINDOW_MS + GRANULARITY_MS, user="v"), 2)
    assert list(buffer.users()) == ["v"]
    assert log.records[-1] == (summary_key("u", "a"), None, True)
    log.write(buffer, events_of(5000, user="w"), 3)
    log.write(buffer, events_of(9000, user="w"), 3)
    assert list(buffer.users()) == ["w"]
    assert list(buffer._db.items(buffer._db.ids, b"")) == [
        (b"\x00\x01w\x01ae9000", buffer._db.ids.get(b"\x00\x01w\x01ae9000"))
    ]
    assert len(list(buffer._db.items(buffer._db.expiry, b""))) == 1


def test_a_sweep_is_bounded_and_goes_on_with_the_next_batch(opened: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    buffer, log = opened(), Log()
    crowd = [event(f"u{i:03}", "a", 1000 + i % 50, "e", offset=i) for i in range(300)]
    log.write(buffer, crowd, 0)
    monkeypatch.setattr("store.window.event_batch.EventBatch.sweep.__defaults__", (100,))
    changes = buffer.prepare(events_of(3000, user="v"), source_offset=1)
    assert changes.sweep_left
    assert len(changes.sweep_rows) < 220
    buffer.commit(changes, log_offset=1)
    rounds = 0
    while (changes := buffer.prepare([], source_offset=1)).sweep_left:
        buffer.commit(changes, log_offset=1)
        rounds += 1
    buffer.commit(changes, log_offset=1)
    assert rounds >= 2
    assert list(buffer.users()) == ["v"]
    assert not buffer.prepare([], source_offset=1).sweep_rows


def test_a_smaller_window_takes_effect_on_touch_and_on_sweep(opened: Open) -> None:
    buffer, log = opened(), Log()
    log.write(buffer, events_of(1000, 1010, 1020) + events_of(1000, 1020, user="v"), 0)
    buffer.close()
    buffer = opened(modalities=modalities(max_events=2, window_days=days(30)))
    assert names(buffer) == ["e1000", "e1010", "e1020"]
    log.write(buffer, events_of(1025), 1)
    assert names(buffer) == ["e1020", "e1025"], "touched: by count"
    log.write(buffer, events_of(1040), 2)
    assert names(buffer, "v") == ["e1020"], "swept: by age"
    summary = buffer.summary("v", "a")
    assert summary is not None
    assert (summary.rows, summary.oldest) == (1, 1020)


def test_another_number_of_numbers_recomputes_the_summary_on_touch(opened: Open) -> None:
    buffer, log = opened(), Log()
    log.write(buffer, events_of(1000, 1010), 0)
    buffer.close()
    buffer = opened(modalities=modalities(numbers=("x",)))
    log.write(buffer, events_of(1020), 1)
    buffer.close()
    fresh = opened("fresh", modalities=modalities(numbers=("x",)))
    Log().write(fresh, events_of(1000, 1010, 1020), 0)
    expected = fresh.summary("u", "a")
    got = opened(modalities=modalities(numbers=("x",))).summary("u", "a")
    assert expected is not None
    assert got is not None
    assert (got.number_sums, got.number_counts) == (expected.number_sums, expected.number_counts)


@pytest.mark.parametrize(
    ("changed", "code"),
    [
        ({"encoder_id": "other"}, "state_mismatch"),
        ({"dim": DIM + 1}, "state_mismatch"),
        ({"identity": "embedded:new"}, "broker_replaced"),
        ({"replica": True}, "state_mismatch"),
    ],
)
def test_a_foreign_buffer_is_refused_unchanged(opened: Open, changed: dict[str, Any], code: str) -> None:
    opened().close()
    with pytest.raises(StateError) as caught:
        opened(**changed)
    assert caught.value.code == code
    assert caught.value.action
    opened().close()


def test_a_buffer_in_use_is_refused(opened: Open) -> None:
    held = opened()
    with pytest.raises(StateError) as caught:
        opened()
    assert caught.value.code == "state_locked"
    held.close()


def test_an_abandoned_iteration_does_not_keep_the_lock(opened: Open) -> None:
    buffer = opened()
    Log().write(buffer, events_of(1000, 1010), 0)
    rows, users = buffer.rows(), buffer.users()
    next(rows)
    next(users)
    del rows, users
    buffer.close()
    assert list(opened().users()) == ["u"]


def test_changes_of_an_older_state_are_refused(opened: Open) -> None:
    buffer = opened()
    stale = buffer.prepare(events_of(1000), source_offset=0)
    buffer.commit(buffer.prepare(events_of(1010), source_offset=1), log_offset=3)
    with pytest.raises(ValueError, match="before the buffer's last commit"):
        buffer.commit(stale, log_offset=3)


@pytest.mark.parametrize(
    "bad", [np.full(DIM, 0.30004, np.float16) / 8192, np.full(DIM, 2, np.float16), np.zeros(3, np.float16)]
)
def test_a_vector_off_the_grid_is_refused(opened: Open, bad: Any) -> None:
    """Exact summaries rest on it."""
    good = event("u", "a", 1000, "e")
    with pytest.raises(ValueError, match="vectors must"):
        opened().prepare([replace(good, vector=bad)], source_offset=0)


def test_an_unknown_modality_is_refused(opened: Open) -> None:
    with pytest.raises(ValueError, match="not configured"):
        opened().prepare(events_of(1000, modality="zz"), source_offset=0)


def test_a_window_comes_as_arrays_in_order(opened: Open) -> None:
    buffer = opened()
    made = [event("u", "b", ts, name, offset=1) for ts, name in [(1005, "z"), (1001, "k"), (1005, "a")]]
    tabular = event("u", "t", 1003, "p", fields={"g": True, "f": True, "h": False}, offset=3)
    Log().write(buffer, [*made, tabular], 0)
    window = buffer.window("u")
    b, t = window.modalities["b"], window.modalities["t"]
    assert (b.ts.tolist(), b.names) == ([1001, 1005, 1005], ["k", "a", "z"])
    assert b.numbers.shape == (3, 0)
    assert np.array_equal(b.vectors, np.stack([made[1].vector, made[2].vector, made[0].vector]))
    assert (t.names, t.numbers.shape, t.summary.rows) == (["f", "g"], (2, 1), 2), "null fields are not shown"
    assert (window.as_of, window.events) == (1005, {"b": 3, "t": 2})
    assert not buffer.window("nobody").modalities
    json.dumps(inspect(buffer, "u"))


def test_rows_of_a_former_owner_are_logged_again(opened: Open) -> None:
    """A zombie's record that follows ours in the log is written over, in the next batch, once."""
    made = modalities(memory_days=0)
    buffer, log = opened(modalities=made), Log()
    log.write(buffer, events_of(1000, 1010, 1020, 1030), 0)
    gone, kept = event_key("u", "a", 1000, "e1000"), event_key("u", "a", 1030, "e1030")
    buffer.note_stale([gone, kept])
    buffer.close()
    buffer = opened(modalities=made)
    changes = buffer.prepare([], source_offset=0)
    stored = dict(buffer.rows())
    assert dict(changes.rows) == {gone: None, kept: stored[kept]}
    assert dict(changes.sweep_rows) == {summary_key("u", "a"): stored[summary_key("u", "a")]}
    buffer.commit(changes, log_offset=9)
    after = buffer.prepare([], source_offset=0)
    assert not after.rows
    assert not after.sweep_rows


def test_marks_survive_and_carry_priority(opened: Open) -> None:
    buffer = opened(replica=True)
    log = Log()
    primary = opened("p")
    log.write(primary, events_of(1000) + events_of(1001, user="v"), 0)
    log.write(primary, events_of(1200, user="v"), 1)
    log.replay(buffer, mark_dirty=True)
    by_user = {d.user_id: d.mark for d in buffer.dirty}
    assert [d.user_id for d in buffer.dirty] == ["u", "v"]
    assert buffer.dirty.oldest_offset() == 0
    assert not by_user["u"].sweep
    buffer.dirty.clear(["u", "v"], upto=buffer.log_offset)
    assert (len(buffer.dirty), buffer.dirty.oldest_offset()) == (0, None)
    at = buffer.log_offset
    log.write(primary, events_of(1500, user="v"), 2)
    log.replay(buffer, mark_dirty=True)
    buffer.dirty.clear(["v"], upto=at)
    buffer.close()
    buffer = opened(replica=True)
    marks = {d.user_id: d.mark for d in buffer.dirty}
    assert [d.user_id for d in buffer.dirty] == ["v", "u"], "u changed by a sweep only: last"
    assert marks["u"].sweep
    assert marks["v"].first == at


def test_checkpoint_is_a_buffer_of_its_own(opened: Open, tmp_path: Path) -> None:
    buffer, log = opened(), Log()
    log.write(buffer, events_of(1000), 0)
    before = dict(buffer.rows())
    buffer.checkpoint(tmp_path / "copy")
    log.write(buffer, events_of(1010), 1)
    copy = opened("copy")
    assert dict(copy.rows()) == before
    assert copy.source_offset == 0


def test_a_batch_done_again_without_reading_the_log_first_leaves_nothing_behind(opened: Open) -> None:
    """The first attempt ended earlier and sent rows that come and go within the second: they are deleted."""
    buffer, log = opened(), Log()
    log.write(buffer, events_of(1000, 1010, 1020), 0)
    tabular = [event("u", "t", 1030 + i, f"p{i}", fields={name: True}, offset=i) for i, name in enumerate("fghi")]
    first = buffer.prepare([*events_of(1030), *tabular[:1]], source_offset=1)
    log.append(first.rows, sweep=False)
    buffer.close()
    buffer = opened()
    log.write(buffer, [*events_of(1030, 1040, 1050, 1060), *tabular], 2)
    replica = opened("replica", replica=True)
    log.replay(replica)
    assert dict(replica.rows()) == dict(buffer.rows())


def test_a_late_event_expires_at_its_own_time(opened: Open) -> None:
    """The expiry index learns of an oldest row that came after younger ones."""
    buffer, log = opened(), Log()
    log.write(buffer, events_of(1080), 0)
    log.write(buffer, events_of(1010), 1)
    log.write(buffer, events_of(1010 + WINDOW_MS + GRANULARITY_MS, user="v"), 2)
    assert names(buffer) == ["e1080"]


def test_an_id_that_came_back_at_another_time_survives_the_old_rows_deletion(opened: Open) -> None:
    """A log may hold the put of a later batch's first attempt before the delete of an earlier one."""
    old, new = event("u", "a", 1000, "x", offset=0), event("u", "a", 1090, "x", content=1, offset=1)
    source = opened("source")
    (old_key, old_value), (new_key, new_value) = (
        source.prepare([each], source_offset=0).puts[0] for each in (old, new)
    )  # fmt: skip
    buffer = opened()
    buffer.apply_log([(old_key, old_value)], next_offset=1)
    buffer.apply_log([(new_key, new_value)], next_offset=2)
    buffer.apply_log([(old_key, None)], next_offset=3)
    buffer.finish_restore()
    assert buffer.prepare([new], source_offset=0).outcomes.duplicate == 1
