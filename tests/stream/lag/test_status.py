"""The proof table of the lag rules: every case gives the expected value of every rule, then the status.

Adding a case: units are seconds and messages; give the numbers and a reason; do not edit an old case unless its reason
was wrong. Neighbours differ by one number where they can. Columns of `s`: (at, committed, start, end, members), and
where it matters (…, empty, withheld, made, read). Cases up to 29 are judged without patience: PROMPT.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream.lag import status as ls
from stream.lag.status import SEVERITY, LagPolicy, Sample, Status

POLICY = LagPolicy()
PROMPT = LagPolicy(stalled_seconds=10.0, floor_seconds=0.0)


class Rules(NamedTuple):
    rewound: bool = False
    stopped: bool = False
    stalled: bool = False
    no_commit: bool = False
    slow: bool = False
    unknown: bool = False
    ahead: bool = False
    open_transaction: bool = False


class Case(NamedTuple):
    number: int
    what: str
    s: list[tuple[Any, ...]]
    rules: Rules
    status: Status
    why: str
    policy: LagPolicy = PROMPT


CASES = [
    Case(1, "caught up", [(0, 10, 0, 10, 1), (5, 20, 0, 20, 1), (10, 30, 0, 30, 1)], Rules(), Status.OK, "lag 0"),
    Case(2, "nothing was ever produced", [(0, None, 0, 0, None)], Rules(), Status.OK,
         "no commit and no message: there was nothing to commit"),
    Case(3, "everything deleted by retention, never read", [(0, None, 70, 70, None)], Rules(), Status.OK,
         "start = end: nothing waits for us"),
    Case(4, "never committed and work waits", [(0, None, 0, 5, 1)], Rules(no_commit=True, unknown=True),
         Status.NO_COMMIT, "one sample shows it; unknown is milder"),
    Case(5, "never committed, seen for long, members there",
         [(0, None, 0, 5, 1), (5, None, 0, 5, 1), (10, None, 0, 5, 1)],
         Rules(no_commit=True, stalled=True), Status.NO_COMMIT, "it has not begun; that is not stalling"),
    Case(6, "never committed, seen for long, no member", [(0, None, 0, 5, 0), (5, None, 0, 5, 0), (10, None, 0, 5, 0)],
         Rules(no_commit=True, stalled=True, stopped=True), Status.STOPPED, "nobody is there: start it"),
    Case(7, "first look at a backlog", [(0, 10, 0, 30, 1)], Rules(unknown=True), Status.UNKNOWN,
         "one sample cannot tell a busy consumer from a dead one"),
    Case(8, "backlog seen 9 s", [(0, 10, 0, 30, 1), (5, 10, 0, 30, 1), (9, 10, 0, 30, 1)], Rules(unknown=True),
         Status.UNKNOWN, "a second short of the evidence"),
    Case(9, "backlog seen 10 s", [(0, 10, 0, 30, 1), (5, 10, 0, 30, 1), (10, 10, 0, 30, 1)], Rules(stalled=True),
         Status.STALLED, "member there, 20 waiting, no advance for 10 s"),
    Case(10, "backlog seen 10 s in two samples", [(0, 10, 0, 30, 1), (10, 10, 0, 30, 1)], Rules(unknown=True),
         Status.UNKNOWN, "a slow reader of lag must not accuse with two looks"),
    Case(11, "as 9, no member", [(0, 10, 0, 30, 0), (5, 10, 0, 30, 0), (10, 10, 0, 30, 0)],
         Rules(stalled=True, stopped=True), Status.STOPPED, "nobody can advance it"),
    Case(12, "as 9, members unknown, end still", [(0, 10, 0, 30, None), (5, 10, 0, 30, None), (10, 10, 0, 30, None)],
         Rules(stalled=True), Status.STALLED, "a second witness for stopped is missing"),
    Case(13, "as 12, end grows", [(0, 10, 0, 30, None), (5, 10, 0, 40, None), (10, 10, 0, 50, None)],
         Rules(stalled=True, stopped=True), Status.STOPPED, "producers go on, the consumer does not"),
    Case(14, "as 13, members there", [(0, 10, 0, 30, 1), (5, 10, 0, 40, 1), (10, 10, 0, 50, 1)], Rules(stalled=True),
         Status.STALLED, "somebody is there and stuck"),
    Case(15, "member rejoined just now", [(0, 10, 0, 30, 0), (5, 10, 0, 30, 0), (10, 10, 0, 30, 1)],
         Rules(stalled=True), Status.STALLED, "the newest membership counts"),
    Case(16, "catching up", [(0, 10, 0, 100, 1), (5, 40, 0, 100, 1), (10, 70, 0, 100, 1)], Rules(), Status.OK,
         "advances, the lag shrinks, gone in 5 s"),
    Case(17, "falling behind", [(0, 10, 0, 60, 1), (5, 20, 0, 80, 1), (10, 30, 0, 100, 1)], Rules(slow=True),
         Status.SLOW, "advances 2/s, produced 4/s, the lag never shrank"),
    Case(18, "keeping pace with a backlog", [(0, 10, 0, 60, 1), (5, 20, 0, 70, 1), (10, 30, 0, 80, 1)], Rules(),
         Status.OK, "the lag stays at 50: steady, not growing"),
    Case(19, "grew, but was smaller in between", [(0, 10, 0, 60, 1), (5, 50, 0, 80, 1), (10, 60, 0, 115, 1)], Rules(),
         Status.OK, "30 in between: it can catch up"),
    Case(20, "a crawl", [(0, 10, 0, 9000, 1), (5, 11, 0, 9000, 1), (10, 12, 0, 9000, 1)], Rules(slow=True), Status.SLOW,
         "shrinks, but at 0.2/s takes 12 hours"),
    Case(21, "idle, then a burst", [(0, 30, 0, 30, 1), (30, 30, 0, 30, 1), (60, 30, 0, 900, 1)], Rules(), Status.OK,
         "no advance in a minute because there was nothing to do; the backlog is one sample old"),
    Case(22, "as 21, and 10 s later it has not moved",
         [(40, 30, 0, 30, 1), (60, 30, 0, 900, 1), (65, 30, 0, 900, 1), (70, 30, 0, 900, 1)], Rules(stalled=True),
         Status.STALLED, "the backlog is 10 s old"),
    Case(23, "committed went down", [(0, 50, 0, 60, 1), (5, 20, 0, 60, 1)], Rules(rewound=True, unknown=True),
         Status.REWOUND, "somebody reset the group"),
    Case(24, "went down, then caught up", [(0, 50, 0, 60, 1), (5, 20, 0, 60, 1), (10, 60, 0, 60, 1)],
         Rules(rewound=True), Status.REWOUND, "kept for the window so that a person sees it"),
    Case(25, "deleted unread", [(0, 20, 50, 60, 1)], Rules(rewound=True, unknown=True), Status.REWOUND,
         "committed 20, oldest 50: 30 messages lost"),
    Case(26, "at the edge of retention", [(0, 50, 50, 60, 1)], Rules(unknown=True), Status.UNKNOWN,
         "the next message to read is the oldest: nothing lost"),
    Case(27, "commit vanished", [(0, 50, 0, 60, 1), (5, None, 0, 60, 1)], Rules(no_commit=True, unknown=True),
         Status.NO_COMMIT, "the group was deleted or expired: it will begin at the oldest"),
    Case(28, "first commit", [(0, None, 0, 60, 1), (5, 30, 0, 60, 1), (10, 60, 0, 60, 1)], Rules(), Status.OK,
         "from nothing to a commit is no rewind"),
    Case(29, "everything was deleted under it", [(0, 20, 50, 50, 1)], Rules(rewound=True), Status.REWOUND,
         "no lag is left to read, and 30 messages were lost all the same"),
    Case(30, "committed beyond the end", [(0, 70, 0, 60, 1)], Rules(ahead=True), Status.AHEAD,
         "its reader dies of it; a lag of 0 is no comfort", POLICY),
    Case(31, "beyond the stable end, within an open transaction", [(0, 62, 0, 60, 1, False, 5)], Rules(), Status.OK,
         "a reader of uncommitted messages is there: the log has them", POLICY),
    Case(32, "as 9, by the rules of today", [(0, 10, 0, 30, 1), (5, 10, 0, 30, 1), (10, 10, 0, 30, 1)], Rules(),
         Status.OK, "a member may be in the middle of a long batch: 10 s say nothing", POLICY),
    Case(33, "no advance for 45 s", [(t, 10, 0, 30, 1) for t in range(0, 46, 5)], Rules(stalled=True), Status.STALLED,
         "no batch is that long", POLICY),
    Case(34, "as 33, but it writes", [(t, 10, 0, 30, 1, False, 0, 100 + t) for t in range(0, 46, 5)], Rules(),
         Status.OK, "progress within a batch: what it makes grows", POLICY),
    Case(35, "no member, seen once", [(0, 10, 0, 30, 0)], Rules(stopped=True, unknown=True), Status.STOPPED,
         "nobody reads it: that needs no second look", POLICY),
    Case(36, "as 35, committed between two looks", [(0, 10, 0, 30, 1), (5, 20, 0, 30, 0)], Rules(unknown=True),
         Status.UNKNOWN, "it has just left, or commits without being a member", POLICY),
    Case(37, "a frozen worker was taken out of its group",
         [(t, min(10 * t, 300), 0, 10 * t + 50, 1 if t < 45 else 0) for t in range(0, 51, 5)],
         Rules(stopped=True), Status.STOPPED, "that it advanced within the window does not help", POLICY),
    Case(38, "25 a second, less than a second behind",
         [(t, 25 * t + 500 - lag, 0, 25 * t + 500, 1) for t, lag in zip(range(0, 61, 5), range(4, 17), strict=True)],
         Rules(), Status.OK, "grew from 4 to 16 messages: two thirds of a second", POLICY),
    Case(39, "as 38, 12 s behind",
         [(t, 25 * t + 500 - lag, 0, 25 * t + 500, 1) for t, lag in zip(range(0, 61, 5), range(300, 313), strict=True)],
         Rules(slow=True), Status.SLOW, "grew, and is longer than the floor", POLICY),
    Case(40, "only control records are left", [(t, 29, 0, 30, 1, True) for t in range(0, 61, 5)], Rules(), Status.OK,
         "one offset of a transaction's end: no message waits", POLICY),
    Case(41, "a transaction stays open", [(t, 30, 0, 30, 1, False, 7) for t in range(0, 11, 5)],
         Rules(open_transaction=True), Status.OPEN_TRANSACTION, "nothing to read, 7 withheld for 10 s", POLICY),
    Case(42, "transactions come and go", [(t, 30 + t, 0, 30 + t, 1, False, 7) for t in range(0, 61, 5)], Rules(),
         Status.OK, "the stable end moves: another one each time", POLICY),
    Case(43, "as 41, and before it a backlog", [(t, 10, 0, 30, 1, False, 7) for t in range(0, 61, 5)],
         Rules(stalled=True), Status.STALLED, "what may be read is not read", POLICY),
    Case(44, "the first message of a partition", [(0, None, 0, 0, 1), (5, None, 0, 1, 1)], Rules(), Status.OK,
         "nothing waited before: it has just come", POLICY),
    Case(45, "as 44, 10 s later", [(0, None, 0, 0, 1), *((t, None, 0, 1, 1) for t in (5, 10, 15))],
         Rules(no_commit=True), Status.NO_COMMIT, "it could have been committed", POLICY),
    Case(46, "a group was deleted and begins anew", [(0, 50, 0, 60, 1), (5, None, 0, 60, 1), (10, 0, 0, 60, 1)],
         Rules(), Status.OK, "nothing went back: it had forgotten where it was", POLICY),
    Case(47, "as 46, and is reset then",
         [(0, 50, 0, 60, 1), (5, None, 0, 60, 1), (10, 40, 0, 60, 1), (15, 0, 0, 60, 1)],
         Rules(rewound=True), Status.REWOUND, "its new commit went down", POLICY),
    Case(48, "a worker reads a backlog to its end",
         [(t, 10, 0, 900, 1, False, 0, 7, 10 + t) for t in range(0, 61, 5)], Rules(), Status.OK,
         "it commits when it has computed; that more is read is a sign of life", POLICY),
    Case(49, "as 48, and it reads no more", [(t, 10, 0, 900, 1, False, 0, 7, 300) for t in range(0, 61, 5)],
         Rules(stalled=True), Status.STALLED, "neither read nor computed for a minute", POLICY),
]  # fmt: skip


@pytest.mark.parametrize("case", CASES, ids=lambda c: f"{c.number}-{c.what}")
def test_proof_table(case: Case) -> None:
    samples = [Sample(*row) for row in case.s]
    got = Rules(
        rewound=ls.is_rewound(samples),
        ahead=ls.is_ahead(samples),
        stopped=ls.is_stopped(samples, case.policy),
        stalled=ls.is_stalled(samples, case.policy),
        no_commit=ls.is_without_commit(samples, case.policy),
        slow=ls.is_slow(samples, case.policy),
        open_transaction=ls.is_open_transaction(samples, case.policy),
        unknown=ls.is_unknown(samples, case.policy),
    )
    assert got == case.rules, case.why
    assert ls.judge(samples, case.policy) is case.status, case.why


def test_of_a_role_that_joins_no_group_nobody_says_that_it_is_not_there() -> None:
    """D4: the low-water mark of freshness, while embeddings do not come."""
    samples = [Sample(t, 10, 0, 30 + t, None) for t in range(0, 61, 5)]
    assert ls.judge(samples, POLICY) is Status.STOPPED
    assert ls.judge(samples, POLICY, joins=False) is Status.STALLED
    assert ls.judge(samples[:5], POLICY, joins=False) is Status.OK


def test_cases_are_numbered() -> None:
    assert [c.number for c in CASES] == list(range(1, len(CASES) + 1))
    assert {c.status for c in CASES} == set(Status)


def test_severity_orders_the_statuses() -> None:
    assert SEVERITY[Status.OK] == 0
    assert max(Status, key=SEVERITY.__getitem__) is Status.REWOUND
    assert SEVERITY[Status.AHEAD] > SEVERITY[Status.STOPPED]  # both are lost data
    assert SEVERITY[Status.SLOW] > SEVERITY[Status.OPEN_TRANSACTION] > SEVERITY[Status.UNKNOWN]
    assert SEVERITY[Status.STOPPED] > SEVERITY[Status.STALLED] > SEVERITY[Status.NO_COMMIT] > SEVERITY[Status.SLOW]


offsets = st.integers(0, 10_000)


@st.composite
def histories(draw: st.DrawFn) -> list[Sample]:
    at, samples = 0.0, []
    for _ in range(draw(st.integers(1, 20))):
        start, end = sorted((draw(offsets), draw(offsets)))
        committed = draw(st.none() | st.integers(0, end))
        at += draw(st.floats(0.1, 20))
        samples.append(Sample(at, committed, start, end, draw(st.none() | st.integers(0, 3))))
    return samples


@given(histories())
def test_lag_is_never_negative_and_caught_up_is_never_accused(samples: list[Sample]) -> None:
    assert all(0 <= s.lag <= s.end - s.start for s in samples)
    status = ls.judge(samples, POLICY)
    if samples[-1].lag == 0:
        assert status in (Status.OK, Status.REWOUND, Status.AHEAD)
    pace = ls.rates(samples)
    assert pace.eta_seconds is None or pace.eta_seconds >= 0
    assert 0 <= ls.completeness(samples, POLICY) <= 1
    age = ls.commit_age_seconds(samples, samples[-1].at)
    assert age is None or age >= 0


@given(histories())
def test_the_window_keeps_the_newest_and_forgets_the_old(samples: list[Sample]) -> None:
    now = samples[-1].at
    kept = ls.within_window(samples, now, POLICY)
    assert kept[-1] is samples[-1]
    assert all(now - s.at <= POLICY.window_seconds for s in kept)
    assert [s for s in samples if now - s.at <= POLICY.window_seconds] == kept


@given(st.integers(1, 100), st.integers(3, 30), st.floats(1, 60))
def test_a_consumer_that_keeps_up_is_ok_at_any_rate_of_reading(per_step: int, count: int, step: float) -> None:
    samples = [Sample(i * step, i * per_step, 0, (i + 1) * per_step, 1) for i in range(count)]
    assert ls.judge(samples[-1:] if count == 1 else samples, POLICY) in (Status.OK, Status.UNKNOWN)
    if (count - 1) * step >= POLICY.evidence_seconds:
        assert ls.judge(samples, POLICY) is Status.OK


@given(st.integers(1, 50), st.lists(st.floats(0.05, 4.0), min_size=20, max_size=20))
def test_nobody_less_behind_than_the_floor_is_slow(rate: int, behind: list[float]) -> None:
    """E8: at 25 events a second a lag of a few messages grows and shrinks by chance."""
    samples: list[Sample] = []
    position = 0
    for step, seconds in enumerate(behind):
        now = 5.0 * (step + 1)
        position = max(position, int(rate * (now - seconds)))
        samples = ls.within_window([*samples, Sample(now, position, 0, int(rate * now) + 1, 1)], now, POLICY)
        assert ls.judge(samples, POLICY) in (Status.OK, Status.UNKNOWN)
