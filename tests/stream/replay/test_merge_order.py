"""One line with a wrong time does not hold up its file when files are merged."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream.clock import AGREE
from stream.replay.merge_order import merge_times

DAY_MS = 86_400_000
OLD = 1_500_000_000_000
FAR = OLD + 3000 * DAY_MS
history = [OLD + i * 3_600_000 for i in range(60)]


def merged(times: list[int | None]) -> list[int]:
    found = list(merge_times(((ts, i) for i, ts in enumerate(times)), 30 * DAY_MS))
    assert [i for _, i in found] == list(range(len(times))), "all of them, in their order"
    return [at for at, _ in found]


@pytest.mark.parametrize("at", [0, 1, 31, 32, 59, 60])
@pytest.mark.parametrize("wrong", [FAR, None, OLD - 4000 * DAY_MS])
def test_the_others_keep_their_times(at: int, wrong: int | None) -> None:
    """A2's other way in: all behind a line dated now were sent after every other file's end, and were too old."""
    found = merged([*history[:at], wrong, *history[at:]])
    assert found[:at] + found[at + 1 :] == history
    assert found[at] in (history[max(at - 1, 0)], 0)


def test_a_real_gap_is_kept() -> None:
    later = [ts + 300 * DAY_MS for ts in history]
    assert merged([*history, *later]) == [*history, *later]
    assert merged([*history, *later[: AGREE - 1]]) == [*history, *[history[-1]] * (AGREE - 1)]


times = st.none() | st.integers(0, 60).map(lambda d: OLD + d * DAY_MS) | st.sampled_from([0, FAR, FAR + DAY_MS])


@given(st.lists(times, max_size=200))
def test_times_of_a_file_never_go_back_and_none_is_lost(found: list[int | None]) -> None:
    keys = merged(found)
    assert all(key == 0 or key in found for key in keys)


@given(st.lists(st.integers(0, 4000), max_size=200).map(sorted))
def test_a_file_in_order_without_gaps_keeps_its_times(days: list[int]) -> None:
    dense = [OLD + int(d * DAY_MS / 2) for d in days]
    if all(b - a <= 30 * DAY_MS for a, b in pairwise(dense)):
        assert merged(list(dense)) == dense
