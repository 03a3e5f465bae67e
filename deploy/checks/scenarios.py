"""Check of the scenarios: workers compute the queries that are configured here. Reads, commits nothing."""

from __future__ import annotations

import threading
from typing import Any

from deploy.checks.broker import BROKER_SECONDS, opened
from deploy.checks.finding import Finding, Level
from deploy.settings.config import Settings

NAME = "scenarios"


def check_scenarios(settings: Settings) -> Finding:
    """As the workers have reported it last, of the scenarios of the configuration."""
    from store.records.back_fill import BackFillRecord
    from store.records.scenario import CONFIGURED, asked, other_query
    from store.records.scenario_name import split
    from stream.reading.control_topic import ControlTopic
    from stream.topics import Topics

    connection = opened(settings)
    topics = Topics(settings.kafka)
    if connection is None or topics.back_fills not in connection.metadata(timeout_s=BROKER_SECONDS).topics:
        return Finding(NAME, Level.OK, "no worker has reported yet")
    reports: dict[tuple[str, int], BackFillRecord] = {}

    def take(message: Any) -> None:
        try:
            record = BackFillRecord.unpack(message.value() or b"")
        except ValueError:
            return  # void, or not a report
        reports[record.scenario, record.partition] = record

    reader = ControlTopic(connection, topics.back_fills, topics.group_serve, take)
    try:
        reader.load(threading.Event())
    finally:
        reader.close()
    wanted = {name: asked(settings.scenarios[split(name)[0]]) for name in settings.scenario_names}
    others: dict[str, list[int]] = {}
    for (name, partition), record in sorted(reports.items()):
        if record.registration == CONFIGURED and record.asked not in ("", wanted.get(name, "")) and name in wanted:
            others.setdefault(name, []).append(partition)
    if others:
        said = [other_query(name, partitions) for name, partitions in others.items()]
        return Finding(NAME, Level.FAIL, "\n".join(said), "give serve and workers the same configuration")
    known = {name for name, _ in reports} & wanted.keys()
    return Finding(NAME, Level.OK, f"workers have reported on {len(known)} of {len(wanted)}, as they are configured")
