"""Rule 9: users of partitions that are behind are held and computed once; nobody is forgotten. Simulated clock."""

from __future__ import annotations

from collections import Counter
from itertools import count

from hypothesis import given, settings
from hypothesis import strategies as st

from encoder.worker.held_users import (
    BEHIND_SECONDS,
    CAUGHT_UP_SECONDS,
    HOLD_SHARE,
    LEARN_MS,
    LONG_MS,
    QUIET_MS,
    SETTLE_MS,
)
from encoder.worker.scheduler import RefreshBatch, RefreshScheduler

TAIL, BUDGET = 10, 100
OLD = BEHIND_SECONDS + 60


def scheduler(*, tokens_per_second: int = 0, **changes: int) -> RefreshScheduler:
    """tokens_per_second: measured already; 0 = nothing is."""
    options = {"tail_tokens": TAIL, "batch_tokens": BUDGET, "min_interval_ms": 0, "max_staleness_ms": 1000}
    one = RefreshScheduler(**(options | changes))
    if tokens_per_second:
        one.done(RefreshBatch(("x",), tokens_per_second, live=True), 1.0, 0)
    return one


def batch_of(one: RefreshScheduler, now_ms: int) -> RefreshBatch | None:
    batch = one.next_batch(now_ms)
    assert batch is None or isinstance(batch, RefreshBatch)
    return batch


def drain(one: RefreshScheduler, now_ms: int) -> list[str]:
    served: list[str] = []
    while (batch := batch_of(one, now_ms)) is not None:
        served += batch.users
    return served


def test_while_a_backlog_arrives_nobody_of_it_is_computed() -> None:
    """Twenty events of each of 50 users, a second apart: each user once, when newer rows come."""
    one = scheduler(tokens_per_second=100)
    for second in range(20):
        one.arrived(0, OLD - second, 1000 * second)
        for i in range(50):
            one.mark(f"u{i}", 1000 * second)
        assert batch_of(one, 1000 * second) is None
        assert not one.should_pause(1000 * second)
    assert len(one) == 50
    one.arrived(0, 0.1, 20_000)
    assert sorted(drain(one, 20_000)) == sorted(f"u{i}" for i in range(50))


def test_a_live_user_of_another_partition_does_not_wait() -> None:
    one = scheduler(tokens_per_second=100)
    one.arrived(0, OLD, 0)
    for i in range(500):
        one.mark(f"old{i}", 0)
    one.arrived(1, 0.1, 5)
    one.mark("live", 5, partition=1)
    assert batch_of(one, 5) == RefreshBatch(("live",), TAIL + 1, live=True)
    assert batch_of(one, 6) is None


def test_a_live_user_comes_before_those_that_are_let_go() -> None:
    one = scheduler(tokens_per_second=100)
    one.arrived(0, OLD, 0)
    for i in range(50):
        one.mark(f"old{i}", 0)
    one.arrived(0, 0.1, 10)
    one.mark("old7", 10)
    assert batch_of(one, 10) == RefreshBatch(("old7",), TAIL + 2, live=True)
    assert len(drain(one, 11)) == 49


def test_a_short_hiccup_makes_nobody_wait_behind_anyone() -> None:
    """What is little is live once it is let go: rule 8."""
    one = scheduler(tokens_per_second=100_000)
    one.arrived(0, OLD, 0)
    one.mark("late", 0)
    one.arrived(0, 0.0, 100)
    batch = batch_of(one, 100)
    assert batch is not None
    assert (batch.users, batch.live) == (("late",), True)


def test_silence_ends_a_backlog() -> None:
    """Whoever is upstream may have died behind his backlog. While input is paused nothing can come."""
    one = scheduler(tokens_per_second=5)
    one.arrived(0, OLD, 0)
    one.mark("a", 0)
    one.arrived(1, 0.0, 0)
    for i in range(50):
        one.mark(f"live{i}", 0, partition=1)
    assert one.should_pause(1)
    assert sorted(drain(one, QUIET_MS)) == sorted(f"live{i}" for i in range(50))
    assert drain(one, QUIET_MS + 1) == ["a"]


def test_the_last_seconds_of_a_long_backlog_are_waited_for() -> None:
    """They are days of its events' time. Whoever stays a little late is let go all the same."""
    near = (BEHIND_SECONDS + CAUGHT_UP_SECONDS) / 2

    def long_behind() -> RefreshScheduler:
        one = scheduler(tokens_per_second=1)
        for at in range(0, LONG_MS + 1, 1000):
            one.arrived(0, OLD, at)
        one.mark("old", LONG_MS)
        one.arrived(0, near, LONG_MS)
        assert drain(one, LONG_MS) == []
        return one

    one = long_behind()
    one.arrived(0, CAUGHT_UP_SECONDS / 2, LONG_MS + 1)
    assert drain(one, LONG_MS + 1) == ["old"], "at its end"
    one = long_behind()
    for at in range(LONG_MS, LONG_MS + SETTLE_MS, 500):
        one.arrived(0, near, at)
        assert drain(one, at) == []
    one.arrived(0, near, LONG_MS + SETTLE_MS)
    assert drain(one, LONG_MS + SETTLE_MS) == ["old"], "it stays a little late"
    assert drain(long_behind(), LONG_MS + SETTLE_MS) == ["old"], "and where nothing more comes"


def test_before_a_rate_is_known_one_user_is_computed_to_learn_it() -> None:
    one = scheduler()
    one.arrived(0, OLD, 0)
    for i in range(50):
        one.mark(f"u{i}", 0)
    assert batch_of(one, LEARN_MS - 1) is None
    assert drain(one, LEARN_MS) == ["u0"]
    assert batch_of(one, LEARN_MS + 1) is None


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 60), st.integers(20, 2000))
def test_a_backlog_that_never_ends_takes_a_tenth_of_the_time_and_starves_nobody(users: int, rate: int) -> None:
    one = scheduler(tokens_per_second=rate)
    now, worked, served = 0, 0.0, Counter[str]()
    once = users * (TAIL + 1) / rate * 1000
    until = 5 * (HOLD_SHARE + 2) * (once + LEARN_MS) + 10_000
    while now < until:
        one.arrived(0, OLD, now)
        for i in range(users):
            one.mark(f"u{i}", now, new_tokens=0)
        batch = batch_of(one, now)
        took = 0.0
        if batch is not None:
            served.update(batch.users)
            took = 1000 * batch.tokens / rate
            one.done(batch, took / 1000, int(now + took))
        worked += took
        now += max(int(took), round(until / 2000))
    assert min(served[f"u{i}"] for i in range(users)) >= 2
    assert worked <= now / (HOLD_SHARE + 1) + once + 1000


@given(st.lists(st.integers(0, 3), min_size=1, max_size=200))
def test_partitions_take_turns(of: list[int]) -> None:
    """After any number of users served, no partition that still waits is more than one behind another."""
    one = scheduler(tokens_per_second=1)
    left = Counter(of)
    for partition in left:
        one.arrived(partition, OLD, 0)
    for i, partition in enumerate(of):
        one.mark(f"{partition}-{i}", 0, partition=partition)
    for partition in left:
        one.arrived(partition, 0.0, 1)
    turns = Counter[int]()
    for user in drain(one, 1):
        partition = int(user[0])
        turns[partition] += 1
        left[partition] -= 1
        assert all(turns[partition] <= turns[other] + 1 for other in left if left[other])
    assert not left.total()


def test_a_restarted_worker_holds_what_it_found() -> None:
    """It cannot know that a backlog goes on before its next rows say so."""
    one = scheduler(tokens_per_second=100)
    one.mark_backlog([f"u{i}" for i in range(50)], 0)
    assert batch_of(one, 0) is not None
    one.arrived(0, OLD, 10)
    assert batch_of(one, 10) is None
    one.arrived(0, 0.0, 20)
    one.arrived(0, OLD, 30)  # those that were let go are not held again
    assert len(drain(one, 30)) > 40


def test_what_is_revoked_leaves_nothing_behind() -> None:
    one = scheduler(tokens_per_second=100)
    one.arrived(0, OLD, 0)
    one.mark("a", 0)
    one.mark_low("b", 0)
    one.remove("a")
    one.remove("b")
    one.forget(0)
    assert one.pending() == (0, 0, 0, 0, 0.0)
    one.mark("a", 1)
    assert drain(one, 1) == ["a"]


STEPS = st.tuples(
    st.sampled_from([0, 1, 500, 4000, 20_000]),
    st.sampled_from(["old", "new", "mark", "mark", "low", "backlog", "take", "pause", "remove"]),
    st.integers(0, 7),
)


@settings(max_examples=300, deadline=None)
@given(st.lists(STEPS, max_size=80), st.sampled_from([0, 50, 100_000]))
def test_nobody_is_forgotten_and_what_is_computed_is_the_newest(steps: list[tuple[int, str, int]], rate: int) -> None:
    """Each user that was marked is computed after its last mark; memory is one place a user; counts add up."""
    one = scheduler(tokens_per_second=rate)
    marked: dict[str, int] = {}
    computed: dict[str, int] = {}
    now, tick = 0, count(1)
    for gap, what, number in steps:
        now += gap
        user, partition = f"u{number}", number % 2
        if what in ("old", "new"):
            one.arrived(partition, OLD if what == "old" else 0.0, now)
        elif what == "mark":
            one.mark(user, now, partition=partition)
            marked[user] = next(tick)
        elif what == "low":
            one.mark_low(user, now, partition=partition)
            marked[user] = next(tick)
        elif what == "backlog":
            one.mark_backlog([user, f"u{number ^ 2}"], now, partition=partition)
            marked[user] = marked[f"u{number ^ 2}"] = next(tick)
        elif what == "pause":
            one.should_pause(now)
        elif what == "remove":
            one.remove(user)
            marked.pop(user, None)
        elif (batch := batch_of(one, now)) is not None:
            assert len(set(batch.users)) == len(batch.users)
            computed.update(dict.fromkeys(batch.users, next(tick)))
        waiting = {user for user, at in marked.items() if computed.get(user, 0) < at}
        assert len(one) == len(waiting)
        pending = one.pending()
        assert pending.live_users + pending.low_users == len(waiting)
    for _ in range(100):
        if not len(one):
            break
        now += QUIET_MS
        while (batch := batch_of(one, now)) is not None:
            computed.update(dict.fromkeys(batch.users, next(tick)))
    assert all(computed[user] > at for user, at in marked.items())
    assert one.pending() == (0, 0, 0, 0, 0.0)
