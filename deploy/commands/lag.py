"""`anchorstream lag`."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter
from cyclopts.validators import Number

from deploy.commands.common import Common

if TYPE_CHECKING:
    from deploy.settings.config import Settings
    from stream.lag.reader import GroupLag, LagReport


def lag(
    *,
    watch: Annotated[
        float | None, Parameter(validator=Number(gt=0), help="Read again every so many seconds, until Ctrl-C.")
    ] = None,
    partitions: Annotated[bool, Parameter(negative="", help="One row per partition.")] = False,
    observe: Annotated[
        float, Parameter(validator=Number(gte=0), help="Judge over this many seconds; ends early if nothing waits.")
    ] = 0.0,
    common: Common | None = None,
) -> int:
    """How far each role is behind, in messages and in seconds. Reads the broker; needs no role to run.

    Exit code 1 where a role is stalled, stopped, ahead or rewound, not everything could be read or found, or topics
    have settings with which data will be lost.
    """
    from deploy import output
    from deploy.brokers import connect
    from deploy.kafka.topic_watch import TopicWatch
    from store.records.scenario import other_query
    from stream.lag.reader import Freshness, LagReader
    from stream.lag.scenarios import LagScenarios
    from stream.lag.status import SEVERITY, Status
    from stream.topics import Topics

    common = common or Common()
    settings = common.settings()
    raw = {modality.topic for modality in settings.modalities.values()}
    connection = connect(settings, timeout_s=5.0)
    topics = Topics(settings.kafka)
    scenarios = LagScenarios(connection, topics, raw, settings.scenarios, settings.candidates)
    told: dict[str, Any] = {}

    def freshness() -> Freshness | None:
        told.clear()
        told.update(served_lag(settings))
        recent = told["freshness"]["recent"] if told else None
        return None if recent is None else Freshness(recent.get("p50"), recent.get("p99"))

    reader = LagReader(
        connection, scenarios.plan(), freshness=freshness, topic_faults=TopicWatch(connection, topics).faults
    )
    try:
        while True:
            scenarios.refresh(reader)
            report = reader.observe(seconds=observe) if observe else reader.read()
            other = told.get("other_query", {})
            if common.json:
                output.write_json({**report.to_dict(), "other_query": other})
            else:
                write_report(report, partitions=partitions)
                for name, of in other.items():
                    output.note(other_query(name, of))
            if watch is None:
                bad = SEVERITY[report.status] >= SEVERITY[Status.STALLED]
                return int(bad or not report.whole or bool(report.topic_faults))
            time.sleep(watch)
    finally:
        reader.close()
        scenarios.close()


def served_lag(settings: Settings) -> dict[str, Any]:
    """What the running service says of lag; nothing where none runs."""
    from deploy.operate.service_client import Service, ServiceError

    try:
        told: dict[str, Any] = Service.find(settings).get("/v1/lag")
    except ServiceError:
        return {}
    return told


def _done_in(group: GroupLag) -> float | None:
    """As the worker says itself, which knows its users; else by the pace of messages."""
    return group.eta_seconds if group.drain_seconds is None else group.drain_seconds


def write_report(report: LagReport, *, partitions: bool) -> None:
    """One reading for people."""
    from deploy import output
    from stream.lag.left import left

    right = ("members", "messages", "seconds", "users", "done in", "committed", "end", "partition")
    if partitions:
        output.write_table(
            ("role", "topic", "partition", "committed", "end", "messages", "seconds", "status"),
            [
                (p.role, p.topic, p.partition, p.committed, p.log_end, p.lag_messages, p.lag_seconds, p.status)
                for p in report.partitions
            ],
            right=right,
        )
    else:
        output.write_table(
            ("role", "group", "members", "messages", "seconds", "users", "done in", "status"),
            [
                (
                    g.role,
                    g.group,
                    g.members,
                    g.lag_messages,
                    g.lag_seconds,
                    g.users_left,
                    output.duration(_done_in(g)) if g.lag_messages else None,
                    g.status,
                )
                for g in report.groups()
            ],
            right=right,
        )
    fresh = report.freshness
    output.write_pairs(
        {
            "status": report.status,
            "lag": f"{report.lag_messages:,} messages",
            "freshness p50, p99": "–"
            if fresh is None
            else f"{output.duration(fresh.p50)}, {output.duration(fresh.p99)} (raw event → queryable)",
        }
    )
    if text := str(remaining := left(report)):
        output.write_pairs({"left": text, "all queryable in": output.duration(remaining.seconds)})
    if report.refused:
        output.write_pairs({"refused by ingest": f"{report.refused:,} (see `anchorstream account`)"})
    if report.missing_topics:
        output.note(f"not on the broker: {', '.join(report.missing_topics)}")
    for line in report.topic_faults:
        output.note(f"topic settings: {line}")
    if report.unreadable:
        output.note(f"could not be read: {'; '.join(report.unreadable)}")
    if report.made_anew:
        output.note(
            f"deleted and made anew: {', '.join(report.made_anew)}; what was not read of the earlier topic is gone"
        )
