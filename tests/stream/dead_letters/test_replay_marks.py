"""Marks and the table that they are set in."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream.dead_letters.replay_marks import MAX_RANGES, LetterTable, pack_replay_marks, unpack_replay_mark


@given(st.sets(st.integers(0, 300)))
def test_offsets_come_back(offsets: set[int]) -> None:
    found = [unpack_replay_mark(value) or [] for value in pack_replay_marks(offsets)]
    assert {o for ranges in found for first, last in ranges for o in range(first, last + 1)} == offsets


def test_a_long_mark_is_several() -> None:
    values = pack_replay_marks(range(0, 2 * (MAX_RANGES + 1), 2))
    assert len(values) == 2
    assert all(len(value) < 900_000 for value in pack_replay_marks(range(10**15, 10**15 + 2 * MAX_RANGES, 2)))


@pytest.mark.parametrize(
    "value", [None, b"", b"x", b"[]", b"{}", b'{"v":2,"offsets":[]}', b'{"v":1,"offsets":[1]}', b'{"v":1,"offsets":7}']
)
def test_foreign_bytes_are_no_mark(value: bytes | None) -> None:
    assert unpack_replay_mark(value) is None


@given(
    st.lists(st.tuples(st.integers(0, 2), st.integers(1, 5), st.sampled_from("abc")), max_size=60),
    st.lists(st.tuples(st.integers(0, 2), st.integers(-5, 200), st.integers(-5, 200)), max_size=8),
)
def test_the_table_equals_a_dictionary(letters: list[tuple[int, int, str]], marks: list[tuple[int, int, int]]) -> None:
    table = LetterTable()
    model: dict[tuple[int, int], str] = {}
    at = Counter({0: 7, 1: 0, 2: 100})
    for partition, gap, label in letters:
        at[partition] += gap
        table.note(partition, at[partition], label)
        model[partition, at[partition]] = label
    for partition, first, last in marks:
        table.mark(partition, [(first, last)])
    done = {
        place
        for place in model
        for partition, first, last in marks
        if place[0] == partition and first <= place[1] <= last
    }
    assert {place for place in model if table.replayed(*place)} == done
    assert table.replayed_counts() == Counter(model[place] for place in done)
