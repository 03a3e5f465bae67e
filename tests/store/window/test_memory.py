"""What is kept of a window's past, as bytes and as sums."""

from __future__ import annotations

import math

import msgpack
import numpy as np
from hypothesis import example, given
from hypothesis import strategies as st

from store.window.memory import (
    BLOCK_MS,
    NO_MEMORY,
    TOTAL_LIMIT,
    TOTAL_SCALE,
    Block,
    Memory,
    pack_blocks,
    shift_blocks,
    unpack_blocks,
)
from store.window.remembering import LightRow, Remembering, remember
from store.window.rows import Summary, newest_time, pack_summary, read_summary, unpack_summary
from store.window.summary import Totals, signed_log

I64 = st.integers(-(2**63), 2**63 - 1)
I128 = st.integers(-(2**127), 2**127 - 1)
U32 = st.integers(0, 2**32 - 1)


def blocks(width: int) -> st.SearchStrategy[dict[int, Block]]:
    def of(values: st.SearchStrategy[int]) -> st.SearchStrategy[tuple[int, ...]]:
        return st.tuples(*[values] * width)

    return st.dictionaries(U32, st.builds(Block, U32, of(I64), of(I128), of(U32)), max_size=5)


@given(st.integers(0, 4).flatmap(lambda width: st.tuples(st.just(width), blocks(width))))
def test_blocks_round_trip_in_their_order(case: tuple[int, dict[int, Block]]) -> None:
    width, made = case
    packed = pack_blocks(made)
    assert unpack_blocks(packed, width) == made
    assert list(unpack_blocks(packed, width)) == sorted(made)
    assert pack_blocks(dict(reversed(made.items()))) == packed


@given(blocks(2), st.integers(1, 2**40), st.integers(0, 2**40), st.integers(0, 2**40))
def test_a_summary_with_memory_round_trips(made: dict[int, Block], rows: int, oldest: int, erased: int) -> None:
    vector = np.array([0.5, -1.0], np.float32)
    summary = Summary(3, 5, 9, vector, (1, 2), (3, 0), {"a:0": 1}, 7, erased, Memory(rows, oldest, made))
    packed = pack_summary(summary)
    again = unpack_summary(packed)
    assert again.memory == summary.memory
    assert pack_summary(again) == packed == read_summary(packed).packed()
    assert newest_time(packed) == 9


def test_a_summary_without_memory_is_what_it_was_before_there_was_any() -> None:
    vector = np.zeros(1, np.float32)
    for erased, more in ((0, []), (8, [8])):
        packed = msgpack.packb([1, 2, 3, 4, vector.tobytes(), [5], [6], {"a:0": 1}, 7, *more])
        read = unpack_summary(packed)
        assert read.memory == NO_MEMORY
        assert read.erased == erased
        assert pack_summary(read) == packed
        assert newest_time(packed) == 4


def naive(rows: list[tuple[int, list[float]]], width: int) -> dict[int, Block]:
    """Blocks of these rows, one number at a time."""
    out: dict[int, Block] = {}
    for number in {ts // BLOCK_MS for ts, _ in rows}:
        mine = [numbers for ts, numbers in rows if ts // BLOCK_MS == number]
        columns = [[n[i] for n in mine if i < len(n) and math.isfinite(n[i])] for i in range(width)]
        out[number] = Block(
            len(mine),
            tuple(sum(signed_log(x) or 0 for x in column) for column in columns),
            tuple(
                sum(round(max(-TOTAL_LIMIT, min(TOTAL_LIMIT, x)) * TOTAL_SCALE) for x in column) for column in columns
            ),
            tuple(map(len, columns)),
        )
    return out


floats = st.floats(width=32)
light = st.tuples(st.integers(0, 5 * BLOCK_MS), st.lists(floats, max_size=3))


@given(st.integers(0, 3), st.lists(st.tuples(light, st.booleans()), max_size=60), st.integers(1, 30))
@example(1, [((0, [float(1 << 41)]), False)] * 50, 50)
def test_rows_that_come_and_go_leave_the_sums_of_those_that_are_left(
    width: int, steps: list[tuple[tuple[int, list[float]], bool]], batch: int
) -> None:
    """Whatever the order and the batches; rows with more or fewer numbers than are configured, and without any."""
    totals, left = Totals.empty(1, width), []
    for start in range(0, len(steps), batch):
        came, went = [], []
        for row, leaves in steps[start : start + batch]:
            left.append(row)
            came.append(row)
            if leaves:
                went.append(left.pop(len(left) // 2))
        rows = [[LightRow(ts, np.array(n, "<f4").tobytes()) for ts, n in some] for some in (came, went)]
        remember([Remembering(Totals.empty(1, 1), [], []), Remembering(totals, *rows)])
        assert totals.blocks == pack_blocks(naive(left, width))


def test_more_rows_at_the_limit_than_64_bits_hold() -> None:
    change = [1 << 20, 0, TOTAL_SCALE * TOTAL_LIMIT << 20, 1 << 20]
    packed = shift_blocks(b"", 1, {7: change})
    assert unpack_blocks(packed, 1)[7].totals == (1 << 70,)
    assert shift_blocks(packed, 1, {7: [-part for part in change]}) == b""
