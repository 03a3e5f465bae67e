"""Row keys and values: round trips, order, and prefixes that never leak into another user."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from store.window import rows

text = st.text(st.characters(codec="utf-8"), min_size=1, max_size=128)
names = st.from_regex(r"[a-z][a-z0-9_]{0,62}", fullmatch=True)
times = st.integers(0, 2**62)
u64 = st.integers(0, 2**64 - 1)
floats = st.lists(st.floats(width=32), max_size=16)
halves = st.lists(st.floats(-1, 1, width=16), min_size=1, max_size=64)


@given(text, names, times, text)
def test_event_key_round_trip(user: str, modality: str, ts: int, event_id: str) -> None:
    assert rows.parse_key(rows.event_key(user, modality, ts, event_id)) == (
        user,
        modality,
        rows.KIND_EVENT,
        ts,
        event_id,
    )
    assert rows.parse_key(rows.summary_key(user, modality)) == (user, modality, rows.KIND_SUMMARY, 0, "")
    assert rows.parse_key(rows.field_key(user, modality, event_id)) == (user, modality, rows.KIND_FIELD, 0, event_id)


@given(text, names, times, times, text, text)
def test_keys_of_a_modality_sort_by_time_after_its_summary(
    user: str, modality: str, a: int, b: int, x: str, y: str
) -> None:
    first, second = rows.event_key(user, modality, a, x), rows.event_key(user, modality, b, y)
    assert rows.summary_key(user, modality) < min(first, second)
    if a != b:
        assert (first < second) == (a < b)


@given(text, text, names, times)
def test_no_user_is_inside_another_users_range(user: str, other: str, modality: str, ts: int) -> None:
    prefix = rows.user_prefix(user)
    key = rows.event_key(other, modality, ts, "e")
    assert (prefix <= key < rows.prefix_end(prefix)) == (user == other)


@given(st.binary(max_size=64))
def test_parse_key_refuses_or_inverts(key: bytes) -> None:
    try:
        parsed = rows.parse_key(key)
    except ValueError:
        return
    again = {
        rows.KIND_SUMMARY: lambda: rows.summary_key(parsed.user_id, parsed.modality),
        rows.KIND_EVENT: lambda: rows.event_key(parsed.user_id, parsed.modality, parsed.ts, parsed.name),
        rows.KIND_FIELD: lambda: rows.field_key(parsed.user_id, parsed.modality, parsed.name),
    }[parsed.kind]()
    assert again == key


@given(u64, floats, halves)
def test_event_value_round_trip(digest: int, numbers: list[float], vector: list[float]) -> None:
    row = rows.EventRow(digest, np.array(numbers, np.float32), np.array(vector, np.float16))
    back = rows.unpack_event(rows.pack_event(row))
    assert back.digest == digest
    np.testing.assert_array_equal(back.numbers, row.numbers)
    np.testing.assert_array_equal(back.vector, row.vector)


@given(u64, times, text, floats, st.one_of(st.just([]), halves))
def test_field_value_round_trip(digest: int, ts: int, event_id: str, numbers: list[float], vector: list[float]) -> None:
    row = rows.FieldRow(digest, ts, event_id, np.array(numbers, np.float32), np.array(vector, np.float16))
    back = rows.unpack_field(rows.pack_field(row))
    assert (back.digest, back.ts, back.event_id) == (digest, ts, event_id)
    np.testing.assert_array_equal(back.numbers, row.numbers)
    np.testing.assert_array_equal(back.vector, row.vector)


@given(st.dictionaries(text, times), st.lists(st.integers(-(2**40), 2**40), max_size=4))
def test_summary_round_trip_and_canonical(covers: dict[str, int], sums: list[int]) -> None:
    vector = np.arange(8, dtype=np.float32)
    row = rows.Summary(3, 1, 9, vector, tuple(sums), tuple(range(len(sums))), covers, 7)
    packed = rows.pack_summary(row)
    back = rows.unpack_summary(packed)
    assert back._replace(vector_sum=vector) == row._replace(vector_sum=vector)
    np.testing.assert_array_equal(back.vector_sum, vector)
    assert rows.pack_summary(row._replace(covers=dict(reversed(covers.items())))) == packed


def test_another_format_is_refused() -> None:
    value = bytearray(rows.pack_event(rows.EventRow(1, np.zeros(0, np.float32), np.ones(4, np.float16))))
    value[0] = rows.LIGHT + 1
    with pytest.raises(ValueError, match="row format 3"):
        rows.unpack_event(bytes(value))
