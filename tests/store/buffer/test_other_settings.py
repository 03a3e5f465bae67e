"""Windows and memories that are configured otherwise than when the buffer was written."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from store.base.settings import ERASURE, ModalitySettings
from store.buffer import database
from store.buffer.token_buffer import TokenBuffer
from store.window.event_batch import SWEEP_ROWS
from store.window.layout import M_ACCEPTED
from store.window.rows import LIGHT, parse_key
from tests.models.checks import check_sums, light
from tests.models.events import GRANULARITY_MS, Log, Open, days, event, modalities

USERS = ("u", "v", "w")
MANY = 30
"""Batches after which a sweep that has little to do must have ended."""


def a_with(memory_ms: int, window_ms: int = 100, max_events: int = 3) -> dict[str, ModalitySettings]:
    changed = {"memory_days": days(memory_ms) if memory_ms else 0, "window_days": days(window_ms)}
    made = modalities()
    return made | {"a": made["a"].model_copy(update=changed | {"max_events": max_events})}


def drive(buffer: TokenBuffer, log: Log, events: list[Any], source_offset: int) -> list[str]:
    return log.write(buffer, events, source_offset, most=MANY)


def test_a_memory_that_was_shortened_ends_when_it_says(opened: Open) -> None:
    buffer, log = opened("b", modalities=a_with(2500)), Log()
    drive(buffer, log, [event("u", "a", 1000, "e", offset=1)], 0)
    drive(buffer, log, [event("v", "b", 1200, "v", offset=2)], 1)
    assert light(buffer) == ["e"]
    buffer.close()
    buffer = opened("b", modalities=a_with(300))
    drive(buffer, log, [event("v", "b", 1300, "v2", offset=3)], 2)
    assert light(buffer) == ["e"]
    drive(buffer, log, [event("v", "b", 1310, "v3", offset=4)], 3)
    assert not light(buffer)


def test_a_longer_window_does_not_lengthen_the_memory(opened: Open) -> None:
    buffer, log = opened("b", modalities=a_with(2500)), Log()
    drive(buffer, log, [event("u", "a", 1000, "e", offset=1)], 0)
    drive(buffer, log, [event("v", "b", 1200, "v", offset=2)], 1)
    buffer.close()
    buffer = opened("b", modalities=a_with(2500, 1500))
    drive(buffer, log, [event("v", "b", 3500, "v2", offset=3)], 2)
    assert light(buffer) == ["e"]
    drive(buffer, log, [event("v", "b", 3510, "v3", offset=4)], 3)
    assert not light(buffer)


@pytest.mark.parametrize("memory_ms", [0, 300])
def test_a_row_that_came_after_the_change_leaves_the_window_in_time(opened: Open, memory_ms: int) -> None:
    buffer, log = opened("b", modalities=a_with(2500)), Log()
    drive(buffer, log, [event("u", "a", 1000, "e", offset=1)], 0)
    drive(buffer, log, [event("v", "b", 1200, "v", offset=2)], 1)
    buffer.close()
    buffer = opened("b", modalities=a_with(memory_ms))
    drive(buffer, log, [event("u", "a", 1210, "new", offset=3)], 2)
    drive(buffer, log, [event("v", "b", 1320, "v2", offset=4)], 3)
    assert buffer.window("u").modalities["a"].names == []


def test_users_whose_other_window_is_not_swept_yet_keep_no_sweep_busy(opened: Open) -> None:
    """A leap of time makes all of very many users due at once: that of one modality waits for that of another."""
    buffer, log, users = opened("b"), Log(), 2500
    for at in range(0, users, 500):
        events = [
            made
            for i in range(at, at + 500)
            for made in (
                event(f"u{i}", "b", 1000, "e", offset=1),
                event(f"u{i}", "t", 1000, "f", fields={"f": True}, offset=1),
            )
        ]
        drive(buffer, log, events, 0)
    drive(buffer, log, [event("v", "a", 9000, "v", offset=2)], 1)
    assert list(buffer.users()) == ["v"]


def test_users_written_under_a_long_memory_keep_no_sweep_busy(opened: Open) -> None:
    buffer, log = opened("b", modalities=a_with(2500)), Log()
    events = [event("u", "a", 1000, "e", offset=1), event("u", "t", 1000, "f", fields={"f": True}, offset=1)]
    drive(buffer, log, events, 0)
    drive(buffer, log, [event("v", "b", 1250, "v", offset=2)], 1)
    buffer.close()
    buffer = opened("b", modalities=a_with(0))
    for ts in (1300, 1450, 1600, 1700, 1800):
        drive(buffer, log, [event("v", "b", ts, f"v{ts}", offset=ts)], ts)
    assert list(buffer.users()) == ["v"]


def test_an_index_that_was_made_anew_is_kept(opened: Open) -> None:
    """The same settings again: nothing is indexed, so opening reads no summaries."""
    buffer, log = opened("b"), Log()
    drive(buffer, log, [event("u", "a", 1000, "e", offset=1)], 0)
    entries = dict(buffer._db.items(buffer._db.expiry, b""))
    buffer.close()
    buffer = opened("b", modalities=a_with(2500, 50))
    buffer.close()
    buffer = opened("b", modalities=a_with(2500, 50))
    for entry in entries:
        buffer._db.expiry.delete(entry)
    buffer.close()
    buffer = opened("b", modalities=a_with(2500, 50))
    assert not dict(buffer._db.items(buffer._db.expiry, b""))


@pytest.mark.parametrize("seed", range(12))
def test_whatever_was_configured_before_a_restored_buffer_ends_in_the_same(opened: Open, seed: int) -> None:
    rng = np.random.default_rng(seed)
    log, made = Log(), some_settings(rng)
    buffer, twin, twin_log = opened("b", modalities=made), None, Log()
    now, count, erased = 1000, 0, dict.fromkeys(USERS, -1)
    history: list[Any] = []
    for step in range(14):
        if rng.random() < 0.5:
            buffer.close()
            made = some_settings(rng)
            buffer = opened("b", modalities=made)
            twin, twin_log = opened(f"twin{step}", modalities=made), Log()
            log.restore(twin)
            twin_log.records = list(log.records)
        events = []
        for _ in range(int(rng.integers(1, 12))):
            now += int(rng.choice([0, 1, 5, 20, 200, 900], p=[0.3, 0.3, 0.2, 0.1, 0.07, 0.03]))
            count += 1
            again = history and rng.random() < 0.2
            events.append(history[rng.integers(len(history))] if again else some_event(rng, now, count))
            if events[-1].modality == ERASURE:
                erased[events[-1].user_id] = max(erased[events[-1].user_id], events[-1].ts)
        history += events
        outcomes = drive(buffer, log, events, step)
        if twin is not None:
            assert drive(twin, twin_log, events, step) == outcomes
            assert dict(twin.rows()) == dict(buffer.rows())
        check_sums(buffer, made)
        for key, value in buffer.rows():
            parsed = parse_key(key)
            if parsed.kind == 1:
                reach = made[parsed.modality].memory_ms if value[0] == LIGHT else made[parsed.modality].window_ms
                assert parsed.ts >= buffer.stream_time // GRANULARITY_MS * GRANULARITY_MS - reach
                assert parsed.ts > erased[parsed.user_id]
    replica = opened("replica", replica=True, modalities=made)
    log.replay(replica)
    assert dict(replica.rows()) == dict(buffer.rows())


@pytest.mark.parametrize("restored", [False, True])
def test_who_was_erased_stays_so_when_more_is_remembered(opened: Open, restored: bool) -> None:
    """Nothing tells any more that the user was erased, since nothing as old was accepted."""
    short = modalities(memory_days=0, window_days=days(100))
    buffer, log = opened("b", modalities=short), Log()
    history = [event("u", "a", 1000, "e", offset=1), event("u", "t", 1000, "f", fields={"f": True}, offset=1)]
    drive(buffer, log, history, 0)
    drive(buffer, log, [event("u", ERASURE, 1005, "x", offset=2)], 1)
    drive(buffer, log, [event("v", "a", 1250, "v", offset=3)], 2)
    assert list(buffer.users()) == ["v"]
    buffer.close()
    long = a_with(2500, 2000) | {"t": modalities(window_days=days(1000))["t"]}
    buffer = opened("restored" if restored else "b", modalities=long)
    if restored:
        log.restore(buffer)
    assert drive(buffer, log, [*history, event("u", "a", 1149, "g", offset=4)], 3) == ["expired"] * 3
    assert drive(buffer, log, [event("u", "a", 1150, "h", offset=4)], 4) == ["applied"]
    buffer.close()
    buffer = opened("b2", modalities=long)
    log.restore(buffer)
    assert drive(buffer, log, [event("u", "a", 1149, "i", offset=5)], 5) == ["expired"]


def test_an_older_version_is_taken_to_have_remembered_nothing(opened: Open) -> None:
    """Neither its database nor the markers of its log say what was accepted."""
    buffer, log = opened("b", modalities=a_with(0)), Log()
    drive(buffer, log, [event("v", "a", 1250, "v", offset=3)], 0)
    buffer._db.meta.delete(M_ACCEPTED)
    buffer.close()
    restored = opened("restored", modalities=a_with(2500))
    log.marker = b""
    log.restore(restored)
    for each in (opened("b", modalities=a_with(2500)), restored):
        late = [event("u", "a", ts, f"e{ts}", offset=4) for ts in (1149, 1150)]
        assert drive(each, Log(), late, 1) == ["applied", "expired"]


def some_settings(rng: np.random.Generator) -> dict[str, ModalitySettings]:
    made = modalities()
    for name in "ab":
        window = int(rng.choice([50, 100, 300]))
        memory = int(rng.choice([0, 0, 300, 800]))
        changed = {"window_days": days(window), "memory_days": days(memory) if memory else 0}
        made[name] = made[name].model_copy(update=changed | {"max_events": int(rng.choice([1, 3, 5, 9]))})
    return made


def some_event(rng: np.random.Generator, now: int, count: int) -> Any:
    user, modality = str(rng.choice(USERS)), str(rng.choice(["a", "a", "a", "b", "t"]))
    ts = max(0, now - int(rng.choice([0, 0, 0, 1, 5, 50, 99, 101, 200, 300, 700])))
    if rng.random() < 0.05:
        return event(user, ERASURE, ts, f"x{count}", offset=count)
    if modality == "t":
        fields = {"f": bool(rng.random() < 0.7), "g": True}
        return event(user, "t", ts, f"p{count}", fields=fields, offset=count)
    return event(user, modality, ts, f"e{ts}_{rng.integers(3)}", offset=count)


def test_a_late_event_in_a_window_that_may_hold_more_does_not_lie_below_the_memory(
    opened: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A light row gets no vector back. Were what is older a whole row, the window would be sought from there on."""
    buffer, log = opened("b", modalities=a_with(10**6, 10**6)), Log()
    drive(buffer, log, [event("u", "a", ts, f"e{ts}", offset=ts) for ts in range(1000, 1100, 2)], 0)
    buffer.close()
    made = a_with(10**6, 10**6, max_events=50)
    buffer = opened("b", modalities=made)
    late = [event("u", "a", ts, f"e{ts}", offset=ts) for ts in (900, 1093, 1095, 1000, 1101)]
    assert drive(buffer, log, late, 1) == ["applied"] * 3 + ["duplicate", "remembered"]
    read = []
    walk = database.walk_range

    def counting(*args: Any) -> Any:
        for entry in walk(*args):
            read.append(entry)
            yield entry

    monkeypatch.setattr(database, "walk_range", counting)
    assert buffer.window("u").modalities["a"].names == [
        "e1093", "e1094", "e1095", "e1096", "e1098", "e1101",
    ]  # fmt: skip
    assert len(read) == 6 + 1
    check_sums(buffer, made)


def test_a_log_that_was_cut_has_no_more_whole_rows_than_the_window_takes(opened: Open) -> None:
    buffer, log = opened("b"), Log()
    drive(buffer, log, [event("u", "a", 1000 + i, f"e{i}", offset=i) for i in range(3)], 0)
    before = len(log)
    drive(buffer, log, [event("u", "a", 1010 + i, f"f{i}", offset=i) for i in range(3)], 1)
    for cut in range(before, len(log)):
        restored = opened(f"r{cut}")
        log.replay(restored, upto=cut)
        whole = [key for key, value in restored.rows() if parse_key(key).kind == 1 and value[0] != LIGHT]
        assert len(whole) <= 3


def test_a_long_memory_that_ends_at_once_ends_in_batches(opened: Open) -> None:
    buffer, log, rows = opened("b", modalities=a_with(10**6, 10**6)), Log(), 3 * SWEEP_ROWS
    for at in range(1000, 1000 + rows, 2000):
        drive(buffer, log, [event("u", "a", ts, f"e{ts}", offset=ts) for ts in range(at, at + 2000)], 0)
    buffer.close()
    made = a_with(0, 500)
    buffer = opened("b", modalities=made)
    batches = 0
    while True:
        changes = buffer.prepare([], source_offset=1)
        assert len(changes.sweep_rows) <= SWEEP_ROWS + 1
        log.append(changes.sweep_rows, sweep=True)
        buffer.commit(changes, log_offset=len(log))
        check_sums(buffer, made)
        batches += 1
        if not changes.sweep_left:
            break
    assert batches >= 3
    assert not light(buffer)
    assert buffer.window("u").modalities["a"].names == [f"e{ts}" for ts in range(997 + rows, 1000 + rows)]
    replica = opened("r", replica=True, modalities=made)
    log.replay(replica)
    assert dict(replica.rows()) == dict(buffer.rows())
