"""Rounds of silent users in a partition: whatever crashes and moves, everybody ends where the horizon says, and each
tick is published once."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, note, settings
from hypothesis import strategies as st

from encoder.worker.silence_rounds import SilenceRounds
from store.base.settings import ERASURE, ModalitySettings
from store.window.silence import DAY_MS, HOUR_MS, SilenceTicks, floor_hour
from stream.commit_metadata import Horizon
from tests.models.events import Log, event, open_buffer, resources

SHARED = resources()
MODALITIES = {"b": ModalitySettings(topic="b", max_events=5, window_days=30)}
TICKS = SilenceTicks((1, 2, 4, 8))
BEGIN = 20_000 * DAY_MS
USERS = [f"u{i}" for i in range(8)]
TAIL = 10


class Partition:
    """A partition of `tokens` with its primary; workers come and go, each with a disk of its own.

    published: (time it stands at, whether by a tick) of every record of a user, in order.
    """

    def __init__(self, folder: Path, ticks: SilenceTicks = TICKS) -> None:
        self._folder = folder
        self._primary = open_buffer(folder / "primary", SHARED, modalities=MODALITIES, expiry_granularity_ms=HOUR_MS)
        self._log = Log()
        self.newest: dict[str, int] = {}
        self.offset = 0
        self.horizon: Horizon | None = None
        self.published: dict[str, list[tuple[int, bool]]] = defaultdict(list)
        self.own("a", ticks)

    def own(self, disk: str, ticks: SilenceTicks = TICKS) -> None:
        """A worker takes the partition: what counts is its disk, and what was committed."""
        self.disk = disk
        self.buffer = open_buffer(
            self._folder / disk, SHARED, modalities=MODALITIES, expiry_granularity_ms=HOUR_MS, replica=True
        )
        self.silence = SilenceRounds(self.buffer, ticks, self.horizon)
        self.buffer.dirty.clear([user.user_id for user in self.buffer.dirty], upto=self.offset)
        self._log.replay(self.buffer, upto=self.offset)
        self.follow()

    def leave(self) -> str:
        self.buffer.close()
        return self.disk

    def follow(self) -> None:
        self._log.replay(self.buffer, mark_dirty=True)

    def event(self, user: str, ts: int) -> None:
        self._log.write(self._primary, [event(user, "b", ts, f"e{len(self._log)}")], len(self._log))
        self.newest[user] = max(ts, self.newest.get(user, 0))

    def commit(self) -> None:
        """W3, W5, T3: the offset, and with it the horizon."""
        oldest = self.buffer.dirty.oldest_offset()
        self.offset = max(self.offset, self.buffer.log_offset if oldest is None else oldest)
        self.horizon = self.silence.position

    def refresh(self, users: list[str], *, crash: bool = False) -> None:
        """W2 to W4 of those that are dirty; crash: before W4."""
        users = [user for user in users if user in self.buffer.dirty]
        upto = self.buffer.log_offset
        windows = [self.silence.window(user) for user in users]
        for window in windows:
            assert window.is_known
            self.published[window.user_id].append((window.as_of, False))
        oldest = self.buffer.dirty.oldest_offset(without=users, upto=upto)
        self.offset = max(self.offset, upto if oldest is None else oldest)
        self.horizon = self.silence.position
        if crash:
            self.own(self.leave())
            return
        self.buffer.dirty.clear(users, upto=upto, due=self.silence.next_due(windows, ()))

    def tick(self, tokens: int, crash: str = "") -> bool:
        """T1 to T4; crash: the step before which it happens. False: nobody was left."""
        batch = self.silence.take(tokens, TAIL)
        if batch is None or not batch.windows:
            return batch is not None
        if crash == "T3":
            self.own(self.leave())
            return True
        self.silence.reach(batch)
        for window in batch.windows:
            self.published[window.user_id].append((window.as_of, True))
        self.commit()
        if crash == "T4":
            self.own(self.leave())
            return True
        self.silence.done(batch)
        return True

    def settle(self) -> None:
        """Nobody is dirty, no round is under way, and time has passed as far as it can."""
        self.follow()
        while True:
            self.silence.move()
            ended = self.silence.horizon >= floor_hour(self.buffer.stream_time)
            self.refresh([*USERS, "clock"])
            while self.tick(50):
                pass
            self.commit()
            if ended:
                return

    def check(self) -> None:
        for user, records in self.published.items():
            for (before, was_tick), (after, is_tick) in pairwise(records):
                assert after >= before, (user, records)
                # a refresh that stood there too, on a disk that is gone, may be followed by the tick
                assert after > before or not (was_tick and is_tick), (user, records)

    def check_settled(self, ticks: SilenceTicks = TICKS) -> None:
        self.check()
        horizon = floor_hour(max(self.newest.values(), default=0))
        assert self.silence.horizon == horizon
        assert not self.silence.waiting
        assert {user: records[-1][0] for user, records in self.published.items()} == {
            user: ticks.stands_at(user, newest, horizon) for user, newest in self.newest.items()
        }

    def close(self) -> None:
        self.buffer.close()
        self._primary.close()


OPERATIONS = st.one_of(
    st.tuples(st.just("event"), st.integers(0, 7), st.integers(-60, 60)),
    st.tuples(st.just("event"), st.integers(0, 7), st.integers(0, 6)),
    st.tuples(st.just("refresh"), st.sets(st.integers(0, 7)), st.sampled_from([False, False, True])),
    st.tuples(st.just("refresh"), st.just(set(range(8))), st.just(False)),
    st.tuples(st.just("move"), st.none(), st.none()),
    st.tuples(st.just("tick"), st.sampled_from([1, 25, 60]), st.sampled_from(["", "", "", "T3", "T4"])),
    st.tuples(st.just("own"), st.sampled_from("abc"), st.none()),
)


@settings(max_examples=60, deadline=None)
@given(operations=st.lists(OPERATIONS, max_size=60))
def test_everybody_ends_where_the_horizon_says(
    tmp_path_factory: pytest.TempPathFactory, operations: list[tuple[str, Any, Any]]
) -> None:
    note(repr(operations))
    one = Partition(tmp_path_factory.mktemp("p"))
    now, fresh_disks = BEGIN, iter(f"new{i}" for i in range(99))
    try:
        for what, first, second in operations:
            if what == "event":
                now = max(now, now + second * HOUR_MS)
                one.event(USERS[first], now + min(second, 0) * HOUR_MS)
                one.follow()
            elif what == "refresh":
                one.refresh([USERS[i] for i in first], crash=second)
            elif what == "move":
                one.silence.move()
            elif what == "tick":
                one.tick(first, second)
            else:
                one.commit()
                one.leave()
                one.own(next(fresh_disks) if first == "c" else first)
            one.check()
        one.settle()
        one.check_settled()
    finally:
        one.close()


@pytest.fixture
def one(tmp_path: Path) -> Iterator[Partition]:
    made = Partition(tmp_path)
    yield made
    made.close()


def test_a_user_who_goes_silent_ticks_at_each_time_once(one: Partition) -> None:
    one.event("u0", BEGIN)
    for hour in range(24 * 40):
        one.event("clock", BEGIN + hour * HOUR_MS)
        one.follow()
        one.silence.move()
        one.refresh(["u0", "clock"])
        while one.tick(50):
            pass
    got = [at for at, by_tick in one.published["u0"] if by_tick]
    want, at = [], BEGIN
    while (tick := TICKS.next_after("u0", BEGIN, at)) is not None:
        want.append(at := tick)
    assert got == want
    assert not any(by_tick for _, by_tick in one.published["clock"])


def test_what_was_stopped_ticks_everybody_once(one: Partition) -> None:
    for user in USERS:
        one.event(user, BEGIN)
    one.settle()
    one.event("u0", BEGIN + 40 * DAY_MS)
    one.settle()
    one.check_settled()
    assert {len(one.published[user]) for user in USERS[1:]} == {2}


def test_users_who_wait_are_not_computed_twice(one: Partition) -> None:
    """A replay: the horizon moves when its end is known, and then nobody is due who is refreshed anyway."""
    for day in range(40):
        one.event(USERS[day % 7], BEGIN + day * DAY_MS)
    one.settle()
    one.check_settled()
    assert {len(records) for records in one.published.values()} == {1}


def test_other_days_of_silence_count_from_the_next_start_on(one: Partition) -> None:
    for user in USERS:
        one.event(user, BEGIN)
    one.event("u0", BEGIN + 40 * DAY_MS)
    one.settle()
    other = SilenceTicks((1, 3, 30))
    one.own(one.leave(), other)
    one.settle()
    one.check_settled(other)
    one.own(one.leave(), SilenceTicks(()))
    assert one.silence.position is None
    assert not one.silence.waiting
    one.silence.move()
    assert one.silence.window("u1").as_of == BEGIN
    assert one.buffer._db.meta.get(b"ticks") is None


def test_an_erased_user_is_due_no_more(one: Partition) -> None:
    one.event("u1", BEGIN)
    one.event("u0", BEGIN + HOUR_MS)
    one.settle()
    erasure = event("u1", ERASURE, BEGIN + 1, "x")
    one._log.write(one._primary, [erasure], len(one._log))
    one.follow()
    assert not one.silence.window("u1").is_known
    one.buffer.dirty.clear(["u1"], upto=one.buffer.log_offset, due=one.silence.next_due([], ["u1"]))
    assert one.buffer._db.ids.get(b"u1") is None
    one.event("u0", BEGIN + 20 * DAY_MS)
    one.settle()
    assert len(one.published["u1"]) == 1
