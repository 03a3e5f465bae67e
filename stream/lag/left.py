"""What is left until everything produced is queryable, in people's terms, from one reading of lag. Pure."""

from __future__ import annotations

from typing import NamedTuple

from stream.lag.report import LagReport


class Left(NamedTuple):
    """events: raw messages that ingest has not read. packs: of events, that no processor has applied. users: whose
    embeddings are behind what the workers have read; None = they do not say. records: embeddings that serve has not
    read. seconds: until all is done, at the present pace; None = not known. done: nothing is left, and all was read.
    """

    events: int
    packs: int
    users: int | None
    records: int
    seconds: float | None
    done: bool

    def __str__(self) -> str:
        parts = [f"{self.events:,} events to ingest"] if self.events else []
        parts += [f"{self.packs:,} packs of events to process"] if self.packs else []
        parts += [f"{self.users:,} users to compute"] if self.users else []
        parts += [f"{self.records:,} embeddings to index"] if self.records else []
        return ", ".join(parts)


def left(report: LagReport) -> Left:
    """Of a reading. While events are still on their way the workers compute nobody of a backlog, so the times add up;
    users that nobody knows of yet are not in it."""
    groups = {group.role: group for group in report.groups()}
    messages = {role: group.lag_messages for role, group in groups.items()}
    worker = groups.get("worker")
    on_their_way = [groups[role].eta_seconds for role in ("ingest", "processor") if messages.get(role)]
    known = [eta for eta in on_their_way if eta is not None]
    seconds = max(known, default=0.0) if len(known) == len(on_their_way) else None
    if worker is not None and worker.lag_messages:
        computing = worker.drain_seconds if worker.users_left else worker.eta_seconds
        seconds = None if seconds is None or computing is None else seconds + computing
    return Left(
        messages.get("ingest", 0),
        messages.get("processor", 0),
        None if worker is None else worker.users_left,
        messages.get("serve", 0),
        seconds,
        report.whole and not report.lag_messages,
    )
