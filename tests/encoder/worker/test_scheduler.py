"""Fairness and staleness bounds of the refresh scheduler, on a simulated clock."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from encoder.worker.scheduler import BackFillTurn, RefreshBatch, RefreshScheduler

INTERVAL, STALENESS, TAIL, BUDGET = 200, 1000, 10, 100


def scheduler(**changes: int) -> RefreshScheduler:
    options = {"tail_tokens": TAIL, "batch_tokens": BUDGET, "min_interval_ms": INTERVAL, "max_staleness_ms": STALENESS}
    return RefreshScheduler(**(options | changes))


def batch_of(s: RefreshScheduler, now_ms: int) -> RefreshBatch | None:
    """The next batch where no back-fill waits."""
    batch = s.next_batch(now_ms)
    assert not isinstance(batch, BackFillTurn)
    return batch


@dataclass
class Simulation:
    """One worker at a fixed speed. arrivals: (ms, user), sorted. Records when each user was refreshed and waited."""

    scheduler: RefreshScheduler
    tokens_per_ms: float
    now: int = 0
    refreshed: dict[str, list[int]] = field(default_factory=dict)
    waits: dict[str, list[int]] = field(default_factory=dict)
    _marked: dict[str, int] = field(default_factory=dict)

    def run(self, arrivals: list[tuple[int, str]], until: int) -> None:
        queue = list(reversed(arrivals))
        while self.now <= until:
            while queue and queue[-1][0] <= self.now:
                at, user = queue.pop()
                self._marked.setdefault(user, at)
                self.scheduler.mark(user, self.now)
            batch = batch_of(self.scheduler, self.now)
            if batch is None:
                self.now += 1
                continue
            for user in batch.users:
                self.refreshed.setdefault(user, []).append(self.now)
                if batch.live:
                    self.waits.setdefault(user, []).append(self.now - self._marked.pop(user))
            took = max(1, round(batch.tokens / self.tokens_per_ms))
            self.now += took
            self.scheduler.done(batch, took / 1000, self.now)


def test_first_refresh_is_immediate_and_marks_coalesce() -> None:
    s = scheduler()
    for now in (0, 1, 2):
        s.mark("a", now)
    assert batch_of(s, 2) == RefreshBatch(("a",), TAIL + 3, live=True)
    assert batch_of(s, 3) is None


def test_interval_is_kept() -> None:
    s = scheduler()
    s.mark("a", 0)
    batch_of(s, 0)
    s.mark("a", 10)
    assert batch_of(s, INTERVAL - 1) is None
    batch = batch_of(s, INTERVAL)
    assert batch is not None
    assert batch.users == ("a",)


def test_a_busy_user_delays_nobody() -> None:
    """1,000 times the events of the others: at most one refresh per interval, and the others wait as if it were one."""
    arrivals = sorted([(ms, "busy") for ms in range(10_000)] + [(10 * i, f"u{i}") for i in range(1000)])
    sim = Simulation(scheduler(), tokens_per_ms=5.0)
    sim.run(arrivals, 12_000)
    busy = sim.refreshed["busy"]
    assert min(b - a for a, b in pairwise(busy)) >= INTERVAL
    assert len(busy) >= 10_000 / INTERVAL * 0.9
    others = [wait for user, waits in sim.waits.items() if user != "busy" for wait in waits]
    assert len(others) == 1000
    cost_of_busy = (TAIL + INTERVAL) / 5.0
    assert max(others) <= cost_of_busy + 3 * BUDGET / 5.0


def test_staleness_is_bounded_below_capacity() -> None:
    """100 users/s of 11 tokens at 2,000 tokens/s: everyone starts within the interval and one batch."""
    arrivals = [(10 * i, f"u{i % 50}") for i in range(1000)]
    sim = Simulation(scheduler(), tokens_per_ms=2.0)
    sim.run(arrivals, 12_000)
    assert max(max(waits) for waits in sim.waits.values()) <= INTERVAL + 2 * BUDGET / 2.0
    assert sum(map(len, sim.waits.values())) > 500
    assert len(sim.scheduler) == 0


def test_budget_bounds_a_batch_but_a_single_user_always_fits() -> None:
    s = scheduler()
    s.mark("huge", 0, new_tokens=10_000)
    for i in range(20):
        s.mark(f"u{i}", 0)
    first, second = batch_of(s, 0), batch_of(s, 0)
    assert first is not None
    assert first.users == ("huge",)
    assert first.tokens == TAIL + 1000  # a window holds no more
    assert second is not None
    assert len(second.users) == BUDGET // (TAIL + 1)


def test_low_priority_gets_idle_time_only_and_small_batches() -> None:
    s = scheduler(tail_tokens=5)
    for i in range(30):
        s.mark_low(f"low{i}", 0)
    s.mark("live", 0)
    batches = [batch_of(s, 0) for _ in range(3)]
    assert [b.live for b in batches if b] == [True, False, False]
    assert batches[1] is not None
    assert len(batches[1].users) == BUDGET // 4 // 5
    s.mark("live2", 1)
    batch = batch_of(s, 1)
    assert batch is not None
    assert batch.users == ("live2",)


def test_live_refresh_absorbs_low_priority_work() -> None:
    s = scheduler()
    s.mark_low("a", 0)
    s.mark("a", 0)
    s.mark_low("a", 0, new_tokens=4)
    batch = batch_of(s, 0)
    assert batch is not None
    assert (batch.users, batch.live, batch.tokens) == (("a",), True, TAIL + 5)
    assert batch_of(s, 0) is None


def test_pause_has_two_bounds() -> None:
    s = scheduler()
    s.mark("warm", 0)
    batch = batch_of(s, 0)
    assert batch is not None
    s.done(batch._replace(tokens=1000), 1.0, 0)  # 1,000 tokens/s
    for i in range(120):
        s.mark(f"u{i}", 1)
    assert s.should_pause(1)  # 120 * 11 tokens = 1.3 s
    served = 0
    while s.should_pause(1):
        batch = batch_of(s, 1)
        assert batch is not None
        served += len(batch.users)
    assert 0.5 * 1000 >= (120 - served) * 11 > 0.5 * 1000 - BUDGET
    assert not s.should_pause(400)
    assert s.should_pause(1 + STALENESS + 1)  # someone has waited too long, whatever the rate says


def test_removed_users_are_gone() -> None:
    s = scheduler()
    s.mark("a", 0)
    s.mark_low("b", 0)
    batch_of(s, 0)
    s.mark("a", 1, new_tokens=7)
    s.remove("a")
    s.remove("b")
    assert len(s) == 0
    assert s.pending() == (0, 0, 0, 0, 0.0)
    s.mark("a", 3)
    assert batch_of(s, INTERVAL) is not None


@settings(max_examples=200, deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(0, 150), st.sampled_from(["mark", "low", "take", "remove"]), st.integers(0, 5)),
        max_size=60,
    )
)
def test_nobody_is_lost_and_counts_add_up(steps: list[tuple[int, str, int]]) -> None:
    s = scheduler(batch_tokens=30)
    waiting: set[str] = set()
    begun: dict[str, int] = {}
    now = 0
    for gap, what, number in steps:
        now += gap
        user = f"u{number}"
        if what == "mark":
            s.mark(user, now, new_tokens=number)
            waiting.add(user)
        elif what == "low":
            s.mark_low(user, now, new_tokens=number)
            waiting.add(user)
        elif what == "remove":
            s.remove(user)
            waiting.discard(user)
        elif (batch := batch_of(s, now)) is not None:
            if batch.live:
                assert all(now - begun.get(u, -INTERVAL) >= INTERVAL for u in batch.users)
            begun.update(dict.fromkeys(batch.users, now))
            waiting -= set(batch.users)
        assert len(s) == len(waiting)
    while len(s):
        now += INTERVAL
        batch = batch_of(s, now)
        assert batch is not None
        waiting -= set(batch.users)
    assert not waiting
    assert s.pending() == (0, 0, 0, 0, 0.0)


def test_rate_follows_what_was_measured() -> None:
    s = scheduler()
    batch = RefreshBatch(("a",), 100, live=True)
    s.done(batch, 0.1, 0)
    s.mark("a", 0, new_tokens=90)
    assert s.pending().seconds == pytest.approx(0.1)
    s.done(batch._replace(tokens=200), 0.1, 0)
    assert s.pending().seconds == pytest.approx(100 / 1200)
