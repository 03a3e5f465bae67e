"""What a consumer's lag over time means: numbered rules, worst first, each a pure function.

A sample is one reading of a group's position in one partition, `committed` read before `end`. Rules look at a sliding
window of samples, oldest first, times in seconds of the caller's clock. docs/lag.md has the same numbers.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum


class Status(StrEnum):
    """Worst first. `SEVERITY` gives the number that is exported."""

    REWOUND = "rewound"
    """The position went back, or what it pointed to was deleted unread."""
    AHEAD = "ahead"
    """The position lies beyond the log's end: the log lost its end, or is another one. Its reader cannot go on."""
    STOPPED = "stopped"
    """Work waits, nobody commits, and the group has no member."""
    STALLED = "stalled"
    """Work waits and the position does not move although the group may be alive."""
    NO_COMMIT = "no_commit"
    """Work waits and the group has never committed here."""
    SLOW = "slow"
    """The position moves and the lag does not shrink, or would take too long to."""
    OPEN_TRANSACTION = "open_transaction"
    """Everything that may be read is; what follows belongs to a producer's transaction that stays open."""
    UNKNOWN = "unknown"
    """Work waits, and the readings so far do not tell more."""
    OK = "ok"


SEVERITY = {status: len(Status) - 1 - i for i, status in enumerate(Status)}
"""0 = ok, 8 = rewound."""


@dataclass(frozen=True, slots=True)
class Sample:
    """at: seconds. committed: next offset to read, None = never committed. start, end: of the log, end exclusive.

    members: of the group; None = cannot be known (the embedded broker has no DescribeGroups).
    empty: no record lies between the position and the end, only what transactions and compaction left.
    withheld: messages from `end` on that an open transaction keeps from readers.
    made: end of what the group writes from this partition; None = not known. That it grows is a sign of life.
    read: how far it has read, where it says so: a worker reads a backlog to its end before it commits. So is that.
    """

    at: float
    committed: int | None
    start: int
    end: int
    members: int | None = None
    empty: bool = False
    withheld: int = 0
    made: int | None = None
    read: int | None = None

    @property
    def position(self) -> int:
        """Where the group reads next: our groups begin at the oldest message."""
        return self.start if self.committed is None else max(self.committed, self.start)

    @property
    def lag(self) -> int:
        """Messages not yet committed; never negative."""
        return 0 if self.empty else max(0, self.end - self.position)


@dataclass(frozen=True, slots=True)
class LagPolicy:
    """window_seconds: how far back rules look. floor_messages: up to this much lag is no work waiting.

    evidence_seconds, evidence_samples: a backlog is judged once it has been seen this long and this often.
    stalled_seconds: no sign of life for this long, members being there, is no long batch any more.
    floor_seconds: who is less behind than this is not slow.
    slow_eta_seconds: a backlog that would take longer than this at its present pace is slow though it shrinks.
    """

    window_seconds: float = 60.0
    floor_messages: int = 0
    evidence_seconds: float = 10.0
    evidence_samples: int = 3
    stalled_seconds: float = 45.0
    floor_seconds: float = 10.0
    slow_eta_seconds: float = 1800.0


@dataclass(frozen=True, slots=True)
class Rates:
    """Messages per second over the window; None when there is one sample only.

    eta_seconds: until the lag is gone at these rates; None if it does not shrink.
    """

    produced: float | None
    committed: float | None
    eta_seconds: float | None


def backlog(samples: Sequence[Sample], policy: LagPolicy) -> Sequence[Sample]:
    """The newest samples, without a break, in which work waited."""
    first = len(samples)
    while first and samples[first - 1].lag > policy.floor_messages:
        first -= 1
    return samples[first:]


def recent(samples: Sequence[Sample], policy: LagPolicy, seconds: float) -> Sequence[Sample]:
    """The newest samples of the backlog, as many as it takes to span `seconds`; none if it is younger, or was seen too
    seldom. A burst just arrived is not a stalled consumer."""
    waiting = backlog(samples, policy)
    for first in range(len(waiting) - policy.evidence_samples, -1, -1):
        if waiting[-1].at - waiting[first].at >= seconds:
            return waiting[first:]
    return ()


def evident(samples: Sequence[Sample], policy: LagPolicy) -> bool:
    """Whether the backlog has been seen long enough to be judged."""
    return bool(recent(samples, policy, policy.evidence_seconds))


def advanced(samples: Sequence[Sample]) -> bool:
    """Whether the position moved forward between the first and the last."""
    return samples[-1].position > samples[0].position


def lives(samples: Sequence[Sample]) -> bool:
    """Whether the position moved, more was read, or something was made of what has been read."""
    first, last = samples[0], samples[-1]
    signs = (first.made, last.made), (first.read, last.read)
    return advanced(samples) or any(b is not None and a is not None and b > a for a, b in signs)


def behind_seconds(samples: Sequence[Sample]) -> float | None:
    """How old what is read next is at most, by our own clock: the position has been the end no longer ago than this.

    None: not within the samples. Producers' clocks have no part in it.
    """
    last = samples[-1]
    if not last.lag:
        return 0.0
    return next((last.at - s.at for s in reversed(samples) if s.end <= last.position), None)


def is_rewound(samples: Sequence[Sample]) -> bool:
    """Rule 1: the commit went down within the window, or lies below the oldest message: something was deleted unread,
    or the group was reset. Kept for a window so that a person sees it. A commit after none is the first of a group that
    was deleted or forgotten and begins anew: nothing went back."""
    pairs = itertools.pairwise(s.committed for s in samples)
    went_down = any(a is not None and b is not None and b < a for a, b in pairs)
    last = samples[-1]
    return went_down or (last.committed is not None and last.committed < last.start)


def is_ahead(samples: Sequence[Sample]) -> bool:
    """Rule 2: committed is what the log does not have. The end was read after the commit, so no race looks like it."""
    last = samples[-1]
    return last.committed is not None and last.committed > last.end + last.withheld


def is_stopped(samples: Sequence[Sample], policy: LagPolicy) -> bool:
    """Rule 3: a backlog and no member: nobody will read it, whatever was read before. Where members are unknown, no
    sign of life for long although new messages came."""
    last = samples[-1]
    if last.members is not None:
        return last.members == 0 and last.lag > policy.floor_messages and not advanced(samples[-2:])
    return is_stalled(samples, policy) and last.end > backlog(samples, policy)[0].end


def is_without_commit(samples: Sequence[Sample], policy: LagPolicy) -> bool:
    """Rule 4: work waits and nothing was ever committed. An empty partition is fine, there was nothing to commit; so is
    one whose first message has just come."""
    last = samples[-1]
    waiting = backlog(samples, policy)
    return bool(waiting) and last.committed is None and (len(waiting) == len(samples) or evident(samples, policy))


def is_stalled(samples: Sequence[Sample], policy: LagPolicy) -> bool:
    """Rule 5: a backlog and no sign of life for long, whoever is there."""
    waiting = recent(samples, policy, policy.stalled_seconds)
    return bool(waiting) and not lives(waiting)


def is_slow(samples: Sequence[Sample], policy: LagPolicy) -> bool:
    """Rule 6: it advances, but the lag grew and was never smaller than at first, or its end is too far away."""
    newest = recent(samples, policy, policy.evidence_seconds)
    if not newest or not advanced(newest):
        return False
    behind = behind_seconds(samples)
    if behind is not None and behind < policy.floor_seconds:
        return False
    waiting = backlog(samples, policy)
    first = waiting[0].lag
    grew = waiting[-1].lag > first and min(s.lag for s in waiting) >= first
    eta = rates(waiting).eta_seconds
    return grew or (eta is not None and eta > policy.slow_eta_seconds)


def is_open_transaction(samples: Sequence[Sample], policy: LagPolicy) -> bool:
    """Rule 7: all that may be read has been, and the transaction that withholds the rest has been open for long."""
    last = samples[-1]
    same = list(itertools.takewhile(lambda s: s.withheld and s.end == last.end, reversed(samples)))
    long = len(same) >= policy.evidence_samples and last.at - same[-1].at >= policy.evidence_seconds
    return long and last.lag <= policy.floor_messages


def is_unknown(samples: Sequence[Sample], policy: LagPolicy) -> bool:
    """Rule 8: work has waited in every sample there is, and these are too few. With one sample that was caught up we
    know that the backlog is young, which is fine."""
    return len(backlog(samples, policy)) == len(samples) and not evident(samples, policy)


def judge(samples: Sequence[Sample], policy: LagPolicy, *, joins: bool = True) -> Status:
    """The first rule that holds.

    Args:
        samples: at least one, oldest first.
        joins: whether the role is a member of its group. Of one that is not, nobody can say that it is not there.
    """
    if is_rewound(samples):
        return Status.REWOUND
    if is_ahead(samples):
        return Status.AHEAD
    if joins and is_stopped(samples, policy):
        return Status.STOPPED
    # a group that never committed has not stalled: it has not begun, which is another fault to look for
    if is_without_commit(samples, policy):
        return Status.NO_COMMIT
    if is_stalled(samples, policy):
        return Status.STALLED
    if is_slow(samples, policy):
        return Status.SLOW
    if is_open_transaction(samples, policy):
        return Status.OPEN_TRANSACTION
    if is_unknown(samples, policy):
        return Status.UNKNOWN
    return Status.OK


def rates(samples: Sequence[Sample]) -> Rates:
    """Pace over the samples."""
    seconds = samples[-1].at - samples[0].at
    if seconds <= 0:
        return Rates(None, None, None)
    produced = max(0, samples[-1].end - samples[0].end) / seconds
    committed = max(0, samples[-1].position - samples[0].position) / seconds
    lag = samples[-1].lag
    shrinks = committed > produced
    eta = lag / (committed - produced) if lag and shrinks else (0.0 if not lag else None)
    return Rates(produced, committed, eta)


def commit_age_seconds(samples: Sequence[Sample], now: float) -> float | None:
    """Since the position last moved, as far as the samples show; None if it did not move within them."""
    for earlier, later in zip(reversed(samples[:-1]), reversed(samples), strict=False):
        if later.committed != earlier.committed:
            return max(0.0, now - later.at)
    return None


def completeness(samples: Sequence[Sample], policy: LagPolicy) -> float:
    """0..1: how much of the window the verdict rests on."""
    return min(1.0, (samples[-1].at - samples[0].at) / policy.window_seconds)


def within_window(samples: Sequence[Sample], now: float, policy: LagPolicy) -> list[Sample]:
    """The samples to keep: those of the window, and always the newest."""
    return [s for s in samples[:-1] if now - s.at <= policy.window_seconds] + list(samples[-1:])
