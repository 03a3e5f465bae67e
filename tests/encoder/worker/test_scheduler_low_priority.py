"""Sweeps and back-fills beside live work: it comes first, and they end all the same. On a simulated clock."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from encoder.worker.scheduler import (
    LOW_PRIORITY_SHARE,
    LOW_TIME_SHARE,
    LOW_WAIT_MS,
    BackFillTurn,
    RefreshBatch,
    RefreshScheduler,
    TickTurn,
)

TAIL, BUDGET = 10, 100


def scheduler() -> RefreshScheduler:
    return RefreshScheduler(tail_tokens=TAIL, batch_tokens=BUDGET, min_interval_ms=0, max_staleness_ms=1000)


class Worker:
    """Does one batch after the other, each in the time given, and notes what it did: (began, took, kind)."""

    def __init__(self, *, live_users: int, took: dict[str, int]) -> None:
        self.scheduler = scheduler()
        self.now = 0
        self.did: list[tuple[int, int, str]] = []
        self._live_users = live_users
        self._took = took

    def run(self, until: int, *, back_fill: bool) -> None:
        while self.now < until:
            for i in range(self._live_users):  # everyone changes all the time
                self.scheduler.mark(f"live{i}", self.now)
            batch = self.scheduler.next_batch(self.now, back_fill=back_fill)
            if batch is None:
                self.now += 1
                continue
            kind = "back-fill" if isinstance(batch, BackFillTurn) else "live" if batch.live else "sweep"
            self.did.append((self.now, self._took[kind], kind))
            self.now += self._took[kind]
            self.scheduler.done(batch, self._took[kind] / 1000, self.now)

    def time_of(self, *kinds: str) -> int:
        return sum(took for _, took, kind in self.did if kind in kinds)

    def longest_wait(self, *kinds: str) -> int:
        """From the end of one such batch to the beginning of the next."""
        ends, longest = 0, 0
        for began, took, kind in self.did:
            if kind in kinds:
                longest = max(longest, began - ends)
                ends = began + took
        return max(longest, self.now - ends)


@settings(max_examples=40, deadline=None)
@given(st.integers(20, 2000), st.integers(1, 400), st.integers(1, 400), st.booleans(), st.booleans())
def test_under_full_live_load_the_rest_gets_a_tenth_of_the_time(
    live: int, sweep: int, back_fill: int, swept: bool, filling: bool
) -> None:
    """Neither starves, and neither takes more: whatever a batch of each kind takes."""
    worker = Worker(live_users=10, took={"live": live, "sweep": sweep, "back-fill": back_fill})
    for i in range(2000 if swept else 0):
        worker.scheduler.mark_low(f"low{i}", 0)
    worker.run(20_000, back_fill=filling)
    low = [kind for _, _, kind in worker.did if kind != "live"]
    if not (swept or filling):
        assert not low
        return
    most = max(back_fill if filling else 0, sweep if swept else 0)
    # the wait is over while a live batch runs
    assert worker.longest_wait("sweep", "back-fill") <= max(LOW_WAIT_MS, (LOW_TIME_SHARE - 1) * most) + live
    assert worker.time_of("sweep", "back-fill") <= worker.now / LOW_TIME_SHARE + 2 * most
    if swept and filling and len(low) > 1:
        assert set(low) == {"sweep", "back-fill"}
        assert all(a != b for a, b in pairwise(low)), "in turns"


def test_without_live_work_low_priority_work_has_all_the_time() -> None:
    worker = Worker(live_users=0, took={"sweep": 20, "back-fill": 30})
    worker.run(3000, back_fill=True)
    assert worker.time_of("back-fill") == worker.now


def test_live_users_come_first() -> None:
    """Whoever arrives while a back-fill goes on waits for the batch that runs, no longer."""
    s = scheduler()
    now = 0
    for i in range(200):
        assert s.next_batch(now, back_fill=True) == BackFillTurn(BUDGET // LOW_PRIORITY_SHARE)
        now += 40
        s.done(BackFillTurn(BUDGET // LOW_PRIORITY_SHARE), 0.04, now)
        s.mark(f"u{i}", now)
        assert s.next_batch(now, back_fill=True) == RefreshBatch((f"u{i}",), TAIL + 1, live=True)


def test_work_that_has_just_come_up_waits_like_any_other() -> None:
    s = scheduler()
    s.mark("a", 10_000)
    assert isinstance(s.next_batch(10_000), RefreshBatch)
    s.mark("a", 10_001)
    first = s.next_batch(10_001, back_fill=True)
    assert isinstance(first, RefreshBatch)
    s.mark("a", 10_001 + LOW_WAIT_MS)
    assert isinstance(s.next_batch(10_001 + LOW_WAIT_MS, back_fill=True), BackFillTurn)


@pytest.mark.parametrize("seconds", [0.001, 3.0])
def test_the_rate_is_not_taught_by_back_fills(seconds: float) -> None:
    """Their windows are cold: at their rate, input would pause for nothing."""
    s = scheduler()
    s.done(RefreshBatch(("a",), 100, live=True), 0.1, 0)
    s.mark("a", 0, new_tokens=90)
    before = s.pending().seconds
    s.done(BackFillTurn(1), seconds, 0)
    assert s.pending().seconds == before == pytest.approx(0.1)


@given(st.integers(0, 30), st.integers(0, 400), st.sampled_from([0, 20, 200]))
def test_a_backlog_delays_nobody_by_more_than_the_bound_and_ends(live: int, backlog: int, tokens_per_ms: int) -> None:
    """B13: a partition has become usable, beside others. With no rate measured yet, more than a batch is much."""
    one = scheduler()
    if tokens_per_ms:
        one.done(RefreshBatch(("x",), 1000 * tokens_per_ms, live=True), 1.0, 0)
    for i in range(live):
        one.mark(f"live{i}", 0)
    users = [f"old{i}" for i in range(backlog)]
    one.mark_backlog(users, 0)
    pending = one.pending()
    assert pending.live_users + pending.low_users == live + backlog
    assert pending.live_users in {live, live + backlog}
    bound = 1000 * tokens_per_ms or BUDGET
    assert (pending.low_users == 0) == (not backlog or (live + backlog) * (TAIL + 1) <= bound)
    assert one.should_pause(0) == (tokens_per_ms > 0 and live * (TAIL + 1) > bound)
    one.mark("new", 0)
    served: list[str] = []
    now = 0
    while batch := one.next_batch(now):
        assert isinstance(batch, RefreshBatch)
        served += batch.users
        now += 1
    assert sorted(served) == sorted(["new", *users, *(f"live{i}" for i in range(live))])
    assert served.index("new") < live + (backlog if pending.low_users == 0 else 0) + 1


def test_a_user_of_a_backlog_with_a_new_event_is_live() -> None:
    one = scheduler()
    one.done(RefreshBatch(("x",), 100, live=True), 1.0, 0)
    one.mark_backlog([f"old{i}" for i in range(50)], 0)
    one.mark("old49", 0)
    batch = one.next_batch(0)
    assert isinstance(batch, RefreshBatch)
    assert (batch.users, batch.live) == (("old49",), True)


@given(st.integers(20, 2000), st.integers(1, 400), st.booleans(), st.booleans())
def test_silent_users_wait_like_the_rest_and_take_turns_with_it(
    live: int, took: int, swept: bool, filling: bool
) -> None:
    """A tick delays no live user by more than a sweep does, and none of the three starves."""
    s, now, live_time = scheduler(), 0, 0
    kinds: list[str] = []
    for i in range(500 if swept else 0):
        s.mark_low(f"low{i}", 0)
    while now < 20_000:
        s.mark("live", now)
        batch = s.next_batch(now, back_fill=filling, ticks=True)
        assert batch is not None
        is_live = isinstance(batch, RefreshBatch) and batch.live
        seconds = live if is_live else took
        live_time += live if is_live else 0
        if not is_live:
            kinds.append(type(batch).__name__)
        now += seconds
        s.done(batch, seconds / 1000, now)
    assert now - live_time <= now / LOW_TIME_SHARE + 2 * took
    there = {"TickTurn"} | ({"RefreshBatch"} if swept else set()) | ({"BackFillTurn"} if filling else set())
    for some in zip(*(kinds[i:] for i in range(len(there))), strict=False):
        assert set(some) == there, "in turns"


def test_only_silent_users_are_computed_where_nothing_else_is_to_do() -> None:
    s = scheduler()
    assert s.next_batch(0) is None
    turn = TickTurn(BUDGET // LOW_PRIORITY_SHARE)
    assert s.next_batch(0, ticks=True) == s.next_batch(0, ticks=True) == turn
    s.done(turn, 3.0, 3000)
    s.mark("u", 3000)
    assert s.next_batch(3000, ticks=True) == RefreshBatch(("u",), TAIL + 1, live=True)
    assert not s.should_pause(3000), "the rate is not taught by ticks"
