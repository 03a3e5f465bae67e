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
    STOPPED = "stopped"
    """Work waits, nobody commits, and the group has no member."""
    STALLED = "stalled"
    """Work waits and the position does not move although the group may be alive."""
    NO_COMMIT = "no_commit"
    """Work waits and the group has never committed here."""
    SLOW = "slow"
    """The position moves and the lag does not shrink, or would take too long to."""
    UNKNOWN = "unknown"
    """Work waits, and the readings so far do not tell more."""
    OK = "ok"


SEVERITY = {status: len(Status) - 1 - i for i, status in enumerate(Status)}
"""0 = ok, 6 = rewound."""


@dataclass(frozen=True, slots=True)
class Sample:
    """at: seconds. committed: next offset to read, None = never committed. start, end: of the log, end exclusive.

    members: of the group; None = cannot be known (the embedded broker has no DescribeGroups).
    empty: no record lies between the position and the end, only what transactions and compaction left.
    withheld: messages from `end` on that an open transaction keeps from readers.
    """

    at: float
    committed: int | None
    start: int
    end: int
    members: int | None = None
    empty: bool = False
    withheld: int = 0

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
    slow_eta_seconds: a backlog that would take longer than this at its present pace is slow though it shrinks.
    """

    window_seconds: float = 60.0
    floor_messages: int = 0
    evidence_seconds: float = 10.0
    evidence_samples: int = 3
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


def evident(samples: Sequence[Sample], policy: LagPolicy) -> bool:
    """Whether the backlog has been seen long enough to be judged. A burst just arrived is not a stalled consumer."""
    waiting = backlog(samples, policy)
    return len(waiting) >= policy.evidence_samples and waiting[-1].at - waiting[0].at >= policy.evidence_seconds


def advanced(samples: Sequence[Sample]) -> bool:
    """Whether the position moved forward between the first and the last."""
    return samples[-1].position > samples[0].position


def is_rewound(samples: Sequence[Sample]) -> bool:
    """Rule 1: the commit went down within the window, or lies below the oldest message: something was deleted unread,
    or the group was reset. Kept for a window so that a person sees it."""
    commits = [s.committed for s in samples if s.committed is not None]
    went_down = any(later < earlier for earlier, later in itertools.pairwise(commits))
    last = samples[-1]
    return went_down or (last.committed is not None and last.committed < last.start)


def is_stopped(samples: Sequence[Sample], policy: LagPolicy) -> bool:
    """Rule 2: a backlog, no advance, and no member; where members are unknown, new messages are the second witness."""
    if not evident(samples, policy):
        return False
    waiting = backlog(samples, policy)
    if advanced(waiting):
        return False
    members = waiting[-1].members
    return members == 0 if members is not None else waiting[-1].end > waiting[0].end


def is_without_commit(samples: Sequence[Sample], policy: LagPolicy) -> bool:
    """Rule 3: work waits and nothing was ever committed. An empty partition is fine: there was nothing to commit."""
    last = samples[-1]
    return last.committed is None and last.lag > policy.floor_messages


def is_stalled(samples: Sequence[Sample], policy: LagPolicy) -> bool:
    """Rule 4: a backlog and no advance, whoever is there."""
    return evident(samples, policy) and not advanced(backlog(samples, policy))


def is_slow(samples: Sequence[Sample], policy: LagPolicy) -> bool:
    """Rule 5: it advances, but the lag grew and was never smaller than at first, or its end is too far away."""
    if not evident(samples, policy):
        return False
    waiting = backlog(samples, policy)
    if not advanced(waiting):
        return False
    first = waiting[0].lag
    grew = waiting[-1].lag > first and min(s.lag for s in waiting) >= first
    eta = rates(waiting).eta_seconds
    return grew or (eta is not None and eta > policy.slow_eta_seconds)


def is_unknown(samples: Sequence[Sample], policy: LagPolicy) -> bool:
    """Rule 6: work has waited in every sample there is, and these are too few. With one sample that was caught up we
    know that the backlog is young, which is fine."""
    return len(backlog(samples, policy)) == len(samples) and not evident(samples, policy)


def judge(samples: Sequence[Sample], policy: LagPolicy) -> Status:
    """The first rule that holds. `samples`: at least one, oldest first."""
    if is_rewound(samples):
        return Status.REWOUND
    if is_stopped(samples, policy):
        return Status.STOPPED
    # a group that never committed has not stalled: it has not begun, which is another fault to look for
    if is_without_commit(samples, policy):
        return Status.NO_COMMIT
    if is_stalled(samples, policy):
        return Status.STALLED
    if is_slow(samples, policy):
        return Status.SLOW
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
