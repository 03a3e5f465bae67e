"""What left its window is remembered as light rows: what that costs, what it survives, and when it ends."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from store.base.errors import StateError
from store.base.settings import ERASURE
from store.buffer import database
from store.window.layout import FORMAT_BEFORE, M_FORMAT
from store.window.memory import BLOCK_MS, TOTAL_SCALE
from store.window.rows import LIGHT, modality_prefix, parse_key
from tests.models.checks import check_sums, light
from tests.models.events import GRANULARITY_MS, MEMORY_MS, WINDOW_MS, Log, Open, days, event, modalities

LONG = modalities(memory_days=3660)


def steps(times: Any, user: str = "u", modality: str = "a") -> list[Any]:
    return [event(user, modality, ts, f"e{ts}", offset=ts) for ts in times]


def test_a_row_that_leaves_keeps_its_key_and_numbers_until_the_memory_ends(opened: Open) -> None:
    buffer, log = opened("b"), Log()
    log.write(buffer, steps(range(1000, 1005)), 0)
    assert light(buffer) == ["e1000", "e1001"]  # by number: the window takes 3
    log.write(buffer, steps([1000 + WINDOW_MS + GRANULARITY_MS], user="v"), 1)
    assert light(buffer) == [f"e{ts}" for ts in range(1000, 1005)]  # by age
    summary = buffer.summary("u", "a")
    assert summary is not None
    assert (summary.rows, summary.oldest, summary.newest) == (0, 0, 1004)
    assert (summary.memory.rows, summary.memory.oldest) == (5, 1000)
    numbers = np.array([made.numbers.astype(np.float64) for made in steps(range(1000, 1005))])
    (block,) = summary.memory.blocks.values()
    assert block.totals == tuple(np.nansum(np.rint(numbers * TOTAL_SCALE), axis=0).astype(int).tolist())
    assert buffer.window("u").newest_event == 1004
    assert buffer.window("u").is_known
    log.write(buffer, steps([1000 + MEMORY_MS + GRANULARITY_MS], user="w"), 2)
    assert light(buffer) == ["e1110"]
    assert log.write(buffer, steps([1003]), 3) == ["expired"], "its id is forgotten with it"
    log.write(buffer, steps([1000 + MEMORY_MS + WINDOW_MS + 2 * GRANULARITY_MS], user="w"), 4)
    assert list(buffer.users()) == ["v", "w"]


def test_a_light_row_takes_no_more_than_sixty_bytes_beside_the_ids(opened: Open) -> None:
    """Key and value of its row and of its entry in the id index, without user, modality and event id."""
    buffer, log = opened("b"), Log()
    log.write(buffer, steps(range(1000, 1010)), 0)
    rows = {key: value for key, value in buffer.rows() if value[0] == LIGHT}
    prefix = modality_prefix("u", "a")
    for key, value in rows.items():
        name = parse_key(key).name.encode()
        entry = buffer._db.ids.get(prefix + name)
        beside = len(key) - len(prefix) - len(name) + len(value) + len(entry)
        assert beside <= 60
        assert entry == key[len(prefix) + 1 :][:8] + value[2:10]


def test_duplicates_and_conflicts_are_told_in_memory(opened: Open) -> None:
    buffer, log = opened("b"), Log()
    log.write(buffer, steps(range(1000, 1010)), 0)
    before = dict(buffer.rows())
    assert log.write(buffer, steps([1001]), 1) == ["duplicate"]
    for ts in (1001, 1002, 2000):
        assert log.write(buffer, [event("u", "a", ts, "e1001", content=1, offset=1)], 2) == ["conflicting"]
    assert buffer.stream_time == 1009
    assert {k: v for k, v in buffer.rows() if v[0] == LIGHT} == {k: v for k, v in before.items() if v[0] == LIGHT}


def test_reading_a_window_does_not_touch_the_memory(opened: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    buffer, log = opened("b", modalities=LONG), Log()
    for modality in "ab":
        for at in range(1000, 2000, 100):
            log.write(buffer, steps(range(at, at + 100), modality=modality), 0)
    log.write(buffer, [event("u", "t", 1999, "f", fields={"f": True, "g": True}, offset=1)], 1)
    read = []
    walk = database.walk_range

    def counting(family: Any, start: bytes, end: bytes) -> Any:
        for entry in walk(family, start, end):
            read.append(entry)
            yield entry

    monkeypatch.setattr(database, "walk_range", counting)
    window = buffer.window("u")
    assert {name: m.names for name, m in window.modalities.items()} == {
        "a": [f"e{ts}" for ts in range(1997, 2000)],
        "b": [f"e{ts}" for ts in range(1995, 2000)],
        "t": ["f", "g"],
    }
    assert window.modalities["a"].summary.memory.rows == 997
    assert len(read) == 3 + 5 + 2 + 3, "rows of the windows, and summaries"


def test_rows_of_one_time_are_told_apart(opened: Open) -> None:
    buffer, log = opened("b"), Log()
    log.write(buffer, [event("u", "a", 1000, f"e{i}", offset=i) for i in (3, 1, 4, 0, 2)], 0)
    assert buffer.window("u").modalities["a"].names == ["e2", "e3", "e4"]
    assert light(buffer) == ["e0", "e1"]


def test_an_erasure_takes_what_is_remembered(opened: Open) -> None:
    buffer, replica, log = opened("b"), opened("r", replica=True), Log()
    log.write(buffer, steps(range(1000, 1010)), 0)
    log.write(buffer, [event("u", ERASURE, 1004, "x", offset=5)], 1)
    assert light(buffer) == ["e1005", "e1006"]
    assert log.write(buffer, steps([1003]), 2) == ["expired"]
    log.replay(replica)
    assert dict(replica.rows()) == dict(buffer.rows())
    log.write(buffer, [event("u", ERASURE, 1009, "y", offset=6)], 3)
    assert all(parse_key(key).kind == 0 for key, _ in buffer.rows())
    assert not buffer.window("u").is_known
    assert not list(buffer._db.items(buffer._db.ids, b""))
    check_sums(buffer, modalities())


@pytest.mark.parametrize("touch", [True, False])
def test_a_memory_that_is_switched_off_goes(opened: Open, touch: bool) -> None:
    log, buffer = Log(), opened("b")
    log.write(buffer, steps(range(1000, 1010)), 0)
    buffer.close()
    buffer = opened("b", modalities=modalities(memory_days=0))
    log.write(buffer, steps([1010], user="u" if touch else "v"), 1)
    if not touch:  # by sweep, as soon as anything of it is due
        log.write(buffer, steps([1000 + WINDOW_MS + GRANULARITY_MS], user="v"), 2)
    assert not light(buffer)
    check_sums(buffer, modalities(memory_days=0))
    replica = opened("r", replica=True, modalities=modalities(memory_days=0))
    log.replay(replica)
    assert dict(replica.rows()) == dict(buffer.rows())


@pytest.mark.parametrize("changed", [{"window_days": days(3 * WINDOW_MS)}, {"max_events": 6}, {"max_events": 1}])
def test_another_window_takes_effect_with_what_comes(opened: Open, changed: dict[str, Any]) -> None:
    """A light row does not get its vector back: a window that grew may have light rows among its own."""
    log, buffer = Log(), opened("b")
    log.write(buffer, steps([1000, 1010, 1020, 1030, 1040, 1050, 1130]), 0)
    buffer.close()
    made = modalities(memory_days=3660) | {"a": modalities()["a"].model_copy(update=changed)}
    buffer = opened("b", modalities=made)
    assert log.write(buffer, steps([1045, 1015, 1131]), 1).count("duplicate") == 0
    check_sums(buffer, made)
    read = buffer.window("u").modalities["a"]
    assert read.names == [f"e{ts}" for ts in read.ts.tolist()]
    assert len(read.names) == read.summary.rows
    assert len(light(buffer)) == read.summary.memory.rows
    for ts in range(1140, 1700, 7):
        log.write(buffer, steps([ts]), 2)
        check_sums(buffer, made)
    replica = opened("r", replica=True, modalities=made)
    log.replay(replica)
    assert dict(replica.rows()) == dict(buffer.rows())


def test_what_was_written_before_there_were_memories_is_read_as_it_is(opened: Open) -> None:
    """A database and a log of that version: rows that left are gone, what leaves from now on is remembered."""
    before = modalities(memory_days=0)
    log, buffer = Log(), opened("b", modalities=before)
    log.write(buffer, steps(range(1000, 1010)), 0)
    batch = buffer._db.batch()
    batch.put(M_FORMAT, FORMAT_BEFORE.encode(), buffer._db.h_meta)
    buffer._db.write(batch)
    buffer.close()
    restored = opened("restored")
    log.replay(restored)
    buffer = opened("b")
    assert buffer._db.meta.get(M_FORMAT) != FORMAT_BEFORE.encode()
    for each in (buffer, restored):
        assert not light(each)
        Log().write(each, steps([1010, 1011]), 1)
        assert light(each) == ["e1007", "e1008"]
        check_sums(each, modalities())


def test_a_format_that_is_not_known_is_refused(opened: Open) -> None:
    buffer = opened("b")
    batch = buffer._db.batch()
    batch.put(M_FORMAT, b"1.3", buffer._db.h_meta)
    buffer._db.write(batch)
    buffer.close()
    with pytest.raises(StateError, match=r"1\.3"):
        opened("b")


def test_blocks_are_of_the_epoch(opened: Open) -> None:
    """Who asks for empty blocks finds them by the numbers that are not there."""
    buffer, log = opened("b", modalities=LONG), Log()
    times = [BLOCK_MS - 1, BLOCK_MS, 3 * BLOCK_MS, 3 * BLOCK_MS + 1]
    log.write(buffer, steps([*times, *range(5 * BLOCK_MS, 5 * BLOCK_MS + 3)]), 0)
    summary = buffer.summary("u", "a")
    assert summary is not None
    assert {number: block.rows for number, block in summary.memory.blocks.items()} == {0: 1, 1: 1, 3: 2}
