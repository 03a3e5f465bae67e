"""The stream's clock: what is ahead, what agrees, and what a commit says of it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream.clock import AGREE, ClockState, EventClock, Place, agreed_span, read_clock
from stream.commit_metadata import decode
from stream.ingest.in_flight import RawPosition
from stream.settings import Clock

DAY_MS = 86_400_000
NOW = 1_760_000_000_000
OLD = NOW - 3000 * DAY_MS
SOURCE = ("raw", 0)
times = st.integers(0, NOW)


def stream_clock() -> EventClock:
    return EventClock(Clock.STREAM, 7300 * DAY_MS, 30 * DAY_MS)


def at(clock: EventClock, ts: int) -> Place:
    place = clock.place(SOURCE, ts, 90 * DAY_MS, NOW)
    if place is Place.FITS:
        clock.advance(SOURCE, ts)
    return place


@given(st.permutations([OLD + i * DAY_MS for i in range(20)]), st.lists(times, max_size=15))
def test_the_minority_does_not_say_when_a_clock_begins(good: list[int], bad: list[int]) -> None:
    """Whatever fewer than half say: the clock begins where the others are."""
    outliers = [ts for ts in bad if not OLD - 30 * DAY_MS <= ts <= OLD + 49 * DAY_MS]
    found = agreed_span([*good, *outliers], 30 * DAY_MS)
    assert found == agreed_span([*outliers, *reversed(good)], 30 * DAY_MS), "order leaves no trace"
    assert found == (min(good), max(good))


@given(st.lists(times, min_size=1, max_size=AGREE))
def test_the_median_is_among_those_that_agree(found: list[int]) -> None:
    first, last = agreed_span(found, DAY_MS)
    assert first <= sorted(found)[(len(found) - 1) // 2] <= last
    assert {first, last} <= set(found)


@given(st.lists(st.integers(0, 4000).map(lambda days: OLD + days * DAY_MS), max_size=200))
def test_fewer_than_agree_never_move_a_clock_beyond_its_bound(stream: list[int]) -> None:
    clock = stream_clock()
    clock.restore(SOURCE, ClockState(OLD))
    for ts in stream:
        before = clock.get(SOURCE)
        assert before is not None
        place = at(clock, ts)
        if not clock.agreed(SOURCE):
            assert before <= (clock.get(SOURCE) or 0) <= before + 30 * DAY_MS
        else:
            assert place is Place.AHEAD
            clock.settle(SOURCE)
            clock.settled(SOURCE)
        assert (place is Place.AHEAD) == (ts > before + 30 * DAY_MS)


def test_what_is_not_ahead_breaks_the_row() -> None:
    clock = stream_clock()
    clock.restore(SOURCE, ClockState(OLD))
    for _ in range(AGREE - 1):
        assert at(clock, NOW) is Place.AHEAD
    assert at(clock, OLD - 91 * DAY_MS) is Place.TOO_OLD
    assert at(clock, NOW) is Place.AHEAD
    assert clock.in_a_row(SOURCE) == 1


def test_the_wall_knows_no_ahead() -> None:
    clock = EventClock(Clock.WALL, 7300 * DAY_MS, DAY_MS)
    assert at(clock, NOW - 80 * DAY_MS) is Place.FITS
    assert at(clock, NOW + DAY_MS) is Place.FITS, "bounded by max_future_seconds"
    assert at(clock, NOW - 91 * DAY_MS) is Place.TOO_OLD
    assert clock.state(SOURCE) == ClockState(NOW + DAY_MS)


def test_a_lenient_clock_says_nothing_of_a_stream_without_time() -> None:
    clock = EventClock(Clock.STREAM, 7300 * DAY_MS, DAY_MS, lenient=True)
    assert at(clock, NOW) is Place.FITS
    assert at(clock, OLD) is Place.FITS, "the first of its letters may be the one that is wrong"
    assert at(clock, NOW - 7301 * DAY_MS) is Place.TOO_OLD


states = st.builds(ClockState, st.integers(0, 2**63 - 1), st.lists(times, max_size=AGREE - 1).map(tuple))


@given(st.just(ClockState()) | states, st.sampled_from([None, "hs/+abm5RKyYSWRc+jwbOA"]))
def test_what_is_committed_comes_back(state: ClockState, topic: str | None) -> None:
    metadata = RawPosition(7, state, topic).metadata()
    assert read_clock(metadata) == state
    assert decode(metadata).get("topic") == topic
    assert len(metadata) < 4096, "what a broker takes by default"
    clock = stream_clock()
    clock.restore(SOURCE, ClockState(5, (6,)))
    clock.restore(SOURCE, state)
    assert clock.state(SOURCE) == state


@pytest.mark.parametrize("metadata", [None, "", "x", "clock=", "clock=-1", "clock=1e3", "clock=²", "ahead=1+2"])
def test_foreign_metadata_is_no_clock(metadata: str | None) -> None:
    assert read_clock(metadata) == ClockState()


@pytest.mark.parametrize(
    ("metadata", "state"),
    [
        ("clock=5", ClockState(5)),
        ("clock=5,ahead=7+8,topic=x", ClockState(5, (7, 8))),
        ("clock=5,ahead=7+x", ClockState(5)),
        ("clock=5,later=7", ClockState(5)),
    ],
)
def test_metadata_of_other_versions_is_read(metadata: str, state: ClockState) -> None:
    assert read_clock(metadata) == state
