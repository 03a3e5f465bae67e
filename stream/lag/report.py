"""What one reading of lag says, per partition, per role and as a whole: the body of `GET /v1/lag`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, NamedTuple

from stream.lag.status import SEVERITY, Status


class Freshness(NamedTuple):
    """Raw event produced → its embedding queryable, seconds, over the last minutes. None = no event in that time."""

    p50: float | None
    p99: float | None


@dataclass(frozen=True, slots=True)
class PartitionLag:
    """One group in one partition.

    committed: next offset to read; None = never committed, then lag counts from the oldest message.
    lag_seconds: now - timestamp of the first uncommitted record; 0 if there is none; None = unknown.
    lag_seconds_source: `record` (that record was read), `caught_up`, `observed` (its timestamp cannot be right: since
        when the log's end has been beyond the commit, as the readings show), or `unknown`.
    users_left: as the worker said with its last commit, how many users' embeddings are behind the rows that it has
        read; drain_seconds: until none of its partitions has any, at its measured pace. None = not known, other roles.
    retention_headroom: committed - log_start; below 0 = messages were deleted unread. None = never committed.
    commit_age_seconds: since the commit last moved; None if it did not within the window.
    complete: 0..1, how much of the window `status` rests on. Rates are per second over that window.
    """

    role: str
    group: str
    topic: str
    partition: int
    committed: int | None
    log_start: int
    log_end: int
    lag_messages: int
    lag_seconds: float | None
    lag_seconds_source: Literal["record", "caught_up", "observed", "unknown"]
    retention_headroom: int | None
    status: Status
    complete: float
    commit_age_seconds: float | None = None
    produced_per_second: float | None = None
    committed_per_second: float | None = None
    eta_seconds: float | None = None
    users_left: int | None = None
    drain_seconds: float | None = None


@dataclass(frozen=True, slots=True)
class GroupLag:
    """A role's group over all its partitions: sum of messages, largest seconds, worst status.

    eta_seconds: until all are caught up at the pace of the window; None = not known, or one does not catch up.
    users_left, drain_seconds: see PartitionLag: their sum, their largest; None = a partition's is not known.
    """

    role: str
    group: str
    members: int | None
    lag_messages: int
    lag_seconds: float | None
    status: Status
    eta_seconds: float | None = None
    users_left: int | None = None
    drain_seconds: float | None = None


@dataclass(frozen=True, slots=True)
class LagReport:
    """One reading. at: epoch ms. missing_topics: named in the plan and not on the broker.

    unreadable: "topic:partition" whose leader did not answer, "topic …" and "group …" that this user may not see, with
    why; they are in no sum, so the reading is not `whole`.
    made_anew: topics that are others than those of that name were, as seen within the window, or than positions were
    committed of. What was committed of an earlier one counts as never committed.
    refused: messages that ingest has refused (stream/account/ says which).
    topic_faults: settings of our topics with which data will be lost, a line each; no matter of lag, yet.
    """

    at: int
    partitions: tuple[PartitionLag, ...]
    members: Mapping[str, int | None] = field(default_factory=dict)
    missing_topics: tuple[str, ...] = ()
    unreadable: tuple[str, ...] = ()
    freshness: Freshness | None = None
    made_anew: tuple[str, ...] = ()
    refused: int = 0
    topic_faults: tuple[str, ...] = ()

    @property
    def lag_messages(self) -> int:
        """Sum over all groups: 0 = everything produced has travelled the whole way."""
        return sum(p.lag_messages for p in self.partitions)

    @property
    def whole(self) -> bool:
        """Whether nothing of the plan is missing from the sums."""
        return not self.missing_topics and not self.unreadable

    @property
    def status(self) -> Status:
        """The worst of all partitions; at least `unknown` if one could not be read, or a topic is not there."""
        statuses = [p.status for p in self.partitions]
        if not self.whole or not statuses:
            statuses.append(Status.UNKNOWN)
        return max(statuses, key=SEVERITY.__getitem__)

    def groups(self) -> list[GroupLag]:
        """One row per role, in the order an event passes them."""
        by_role: dict[str, list[PartitionLag]] = {}
        for p in self.partitions:
            by_role.setdefault(p.role, []).append(p)
        return [
            GroupLag(
                role,
                rows[0].group,
                self.members.get(rows[0].group),
                sum(p.lag_messages for p in rows),
                None if any(p.lag_seconds is None for p in rows) else max(p.lag_seconds or 0.0 for p in rows),
                max((p.status for p in rows), key=SEVERITY.__getitem__),
                _slowest([p.eta_seconds for p in rows if p.lag_messages]),
                _users_left(rows),
                _slowest([p.drain_seconds for p in rows if p.users_left]) if _users_left(rows) else None,
            )
            for role, rows in by_role.items()
        ]

    def to_dict(self) -> dict[str, Any]:
        """Body of `GET /v1/lag` and of `anchorstream lag --json`."""
        return {
            "at": self.at,
            "status": self.status,
            "lag_messages": self.lag_messages,
            "freshness_seconds": None if self.freshness is None else self.freshness._asdict(),
            "groups": [asdict(g) for g in self.groups()],
            "partitions": [asdict(p) for p in self.partitions],
            "missing_topics": list(self.missing_topics),
            "unreadable": list(self.unreadable),
            "made_anew": list(self.made_anew),
            "refused": self.refused,
            "topic_faults": list(self.topic_faults),
        }


def _users_left(rows: list[PartitionLag]) -> int | None:
    """A partition in which nothing waits has nobody left."""
    known = [0 if p.users_left is None and not p.lag_messages else p.users_left for p in rows]
    if all(p.users_left is None for p in rows) or None in known:
        return None
    return sum(users for users in known if users is not None)


def _slowest(etas: list[float | None]) -> float | None:
    known = [eta for eta in etas if eta is not None]
    return max(known, default=0.0) if len(known) == len(etas) else None
