"""Samples: spread over the file, or all rows of some users; bounded, and a function of the rows."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from deploy.init.sample import spread, whole_users
from stream.replay.row_file import Row


def rows_of(users: list[int]) -> list[Row]:
    return [Row("f", n + 1, f"{user}".encode()) for n, user in enumerate(users)]


def user_of(row: Row) -> str | None:
    user = (row.value or b"").decode()
    return None if user == "0" else user


@given(st.integers(0, 500), st.integers(1, 50), st.integers(1, 600))
def test_spread_rows_are_even_and_no_more_than_asked_for(rows: int, count: int, most: int) -> None:
    found = spread(rows_of([1] * rows), count, most)
    numbers = [row.number for row in found.rows]
    assert len(numbers) <= count
    assert found.read == min(rows, most)
    assert found.whole is (rows <= min(count, most))
    assert numbers == list(range(1, found.read + 1, int(found.every)))
    assert len(numbers) * 2 >= min(found.read, count)


@given(st.lists(st.integers(0, 20), max_size=300), st.integers(1, 60))
def test_of_a_user_there_are_all_rows_or_none(users: list[int], count: int) -> None:
    rows = rows_of(users)
    found = whole_users(rows, user_of, count, 1000)
    there = Counter(users)
    kept = Counter(int(row.value or b"") for row in found.rows)
    if found.read == len(rows):
        assert all(kept[user] == there[user] for user in kept if user)
    assert len(found.rows) <= count or len(kept) == 1
    if found.whole or count >= len(rows):  # else, of one user alone, it may have stopped at the very last row
        assert found.whole
        assert (found.rows, found.read) == (rows, len(rows))
    assert [row.number for row in found.rows] == sorted(row.number for row in found.rows)
    assert bool(found.rows) or not rows or found.read == len(rows)


def test_memory_is_bounded_by_bytes_too() -> None:
    rows = [Row("f", n, b"x" * 1000) for n in range(200)]
    assert len(spread(rows, 1000, 1000, max_bytes=20_000).rows) <= 20
    assert len(whole_users(rows, lambda row: str(row.number), 1000, 1000, max_bytes=20_000).rows) <= 20
