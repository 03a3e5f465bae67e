"""D3: while behind, no partition's time runs ahead of a slower one's; nothing is lost, and nobody waits for ever."""

from __future__ import annotations

import random
from collections.abc import Iterable
from typing import Any

import numpy as np
from hypothesis import example, given, settings
from hypothesis import strategies as st

from stream.clock import AGREE, Source
from stream.ingest.merge import HELD_MESSAGES, LIVE_MS, PATIENCE_SECONDS, EventTimeMerge
from tests.support.raw_message import RawMessage

DAY = 86_400_000
AHEAD = 30 * DAY


def time_of(message: Any) -> int | None:
    return int(message.content) if message.content else None


def messages(source: Source, times: Iterable[int | None]) -> list[RawMessage]:
    return [
        RawMessage(*source, at, None if ts is None else str(ts).encode(), produced_at=0) for at, ts in enumerate(times)
    ]


class Reading:
    """Feeds a merge as a consumer does: pieces of each partition, its end behind the last."""

    def __init__(self, histories: dict[Source, list[RawMessage]], rng: random.Random) -> None:
        self.now = 0.0
        self.merge = EventTimeMerge(time_of, AHEAD, monotonic=lambda: self.now)
        self.left = {source: list(of) for source, of in histories.items()}
        self.told: dict[Source, int] = {}
        self.out: list[RawMessage] = []
        self.most_held = 0
        self._rng = rng
        self.merge.give(histories)

    def step(self, *, piece: int, give: bool = True) -> None:
        sources = [source for source in self.left if source not in self.merge.full()]
        if give and sources:
            source = self._rng.choice(sources)
            there = self.left[source]
            count = self._rng.randint(1, piece)
            self.left[source] = there[count:]
            ended = {} if self.left[source] else {source: 10_000_000}
            self.merge.add(there[:count], ended if there or source not in self.told else {})
        taken = self.merge.take(self._rng.choice((1, 50, 2000)))
        self.out += taken.messages
        self.told |= taken.ended
        self.most_held = max(self.most_held, len(self.merge))
        self.now += 0.001

    def run(self, *, piece: int) -> None:
        for _ in range(200_000):
            if not any(self.left.values()) and not self.merge and len(self.told) == len(self.left):
                return
            self.step(piece=piece)
        raise AssertionError("it does not end")


sorted_times = st.lists(st.integers(0, 400 * DAY), max_size=80).map(sorted)
any_times = st.lists(st.none() | st.integers(0, 4000 * DAY), max_size=80)
seeds = st.integers(0, 10**6)


@given(st.lists(any_times, min_size=1, max_size=4), seeds)
def test_each_comes_once_and_in_its_partitions_order(histories: list[list[int | None]], seed: int) -> None:
    given_ = {("t", n): messages(("t", n), times) for n, times in enumerate(histories)}
    reading = Reading(given_, random.Random(seed))
    reading.run(piece=20)
    for source, wanted in given_.items():
        assert [m for m in reading.out if (m.topic(), m.partition()) == source] == wanted
    assert reading.told.keys() == given_.keys()


@example([[0, 0], [], [], [34_556_400_000]], 1487)
@given(st.lists(sorted_times, min_size=1, max_size=4), seeds)
def test_of_partitions_in_order_all_come_in_order(histories: list[list[int]], seed: int) -> None:
    """Whatever pieces they are read in."""
    # so dense that no step is in doubt
    dense = [sorted([*of, *range(0, 401 * DAY, 10 * DAY)]) for of in histories]
    given_ = {(f"t{n}", 0): messages((f"t{n}", 0), times) for n, times in enumerate(dense)}
    reading = Reading(given_, random.Random(seed))
    reading.run(piece=30)
    times = [time_of(m) or 0 for m in reading.out]
    # what is left at the ends passes as it came, where it is of about one time
    assert all(before - LIVE_MS <= after for before, after in zip(np.maximum.accumulate(times), times, strict=True))


@settings(max_examples=30)
@given(seeds, st.integers(0, 199))
def test_one_line_dated_far_ahead_makes_nobody_wait(seed: int, place: int) -> None:
    """Neither those behind it in its partition, which would come when all the others' time is over."""
    times: list[int | None] = [n * DAY for n in range(200)]
    bad = [*times[:place], 4000 * DAY, *times[place:]]
    given_ = {("good", 0): messages(("good", 0), times), ("bad", 0): messages(("bad", 0), bad)}
    reading = Reading(given_, random.Random(seed))
    reading.run(piece=10)
    passed = 0
    for message in reading.out:
        ts = time_of(message) or 0
        if ts < 4000 * DAY:
            assert ts >= passed - (AGREE + 1) * DAY
            passed = max(passed, ts)


def test_a_partition_that_gives_nothing_is_waited_for_a_while() -> None:
    reading = Reading({("a", 0): messages(("a", 0), range(100)), ("silent", 0): []}, random.Random(1))
    reading.merge.add(reading.left[("a", 0)], {("a", 0): 100})
    assert reading.merge.take(1000).messages == []
    reading.now = PATIENCE_SECONDS + 0.1
    assert len(reading.merge.take(1000).messages) == 100
    assert not reading.merge


def test_live_messages_pass_as_they_come_and_unread() -> None:
    """At the end of everything nobody waits, and no time is read but of a partition's first and last."""
    read = []

    def reads(message: Any) -> int | None:
        read.append(message)
        return time_of(message)

    live = EventTimeMerge(reads, AHEAD)
    live.give([("a", 0), ("b", 0)])
    live.add([], {("a", 0): 0, ("b", 0): 0})
    assert live.take(10).ended == {("a", 0): 0, ("b", 0): 0}
    live.add([], {("a", 0): 3})
    assert live.take(10) == ([], {("a", 0): 3}), "what an aborted transaction leaves"
    new = messages(("b", 0), range(100 * DAY, 100 * DAY + 50))
    also = messages(("a", 0), range(100 * DAY - 9, 100 * DAY))
    live.add([*new, *also], {("a", 0): 9, ("b", 0): 50})
    assert live.take(10) == ([*also, *new], {("a", 0): 9, ("b", 0): 50})
    assert len(set(read)) == 4


def test_what_waits_is_bounded() -> None:
    """A large topic far ahead of a small one, which is read first: it is not read on meanwhile."""
    large = messages(("large", 0), range(200 * DAY, 200 * DAY + 4 * HELD_MESSAGES))
    small = messages(("small", 0), range(0, 100 * DAY, DAY // 8))
    reading = Reading({("large", 0): large, ("small", 0): small}, random.Random(2))
    reading.run(piece=500)
    assert reading.out == [*small, *large]
    assert reading.most_held < HELD_MESSAGES + len(small) + 500


def test_a_topic_that_fails_is_taken_whole() -> None:
    both = EventTimeMerge(time_of, AHEAD)
    both.give([("a", 0), ("b", 0)])
    old, new = messages(("a", 0), range(40)), messages(("b", 0), range(100 * DAY, 100 * DAY + 40))
    both.add([*old, *new], {})
    assert both.take_topic("b") == new
    both.forget([("a", 0)])
    assert not both
