"""What is kept of a window's past, as bytes and as sums."""

from __future__ import annotations

import msgpack
import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from store.window.memory import NO_MEMORY, Block, Memory, pack_blocks, unpack_blocks
from store.window.rows import Summary, erased_newest, pack_summary, read_summary, unpack_summary

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
    assert erased_newest(packed) == (9 if erased else 0)


def test_a_summary_without_memory_is_what_it_was_before_there_was_any() -> None:
    vector = np.zeros(1, np.float32)
    for erased, more in ((0, []), (8, [8])):
        packed = msgpack.packb([1, 2, 3, 4, vector.tobytes(), [5], [6], {"a:0": 1}, 7, *more])
        read = unpack_summary(packed)
        assert read.memory == NO_MEMORY
        assert read.erased == erased
        assert pack_summary(read) == packed
        assert erased_newest(packed) == (4 if erased else 0)
