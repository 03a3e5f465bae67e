"""The monitor role on a scripted reader: what it exports and what it says."""

from __future__ import annotations

import threading

import pytest
import structlog.testing
from prometheus_client import REGISTRY

from store.base import logs, metrics
from store.base.errors import BrokerError
from stream.lag.monitor import LagExporter, Monitor
from stream.lag.reader import LagReader, LagReport, PartitionLag
from stream.lag.status import SEVERITY, Status


def row(
    partition: int, lag: int, status: Status = Status.OK, *, group: str = "mg", seconds: float | None = 1.0
) -> PartitionLag:
    return PartitionLag("processor", group, "mt", partition, 5, 0, 5 + lag, lag, seconds, "record", 5, status, 1.0)


def sample(name: str, **labels: str) -> float | None:
    return REGISTRY.get_sample_value(name, labels)


class Scripted(LagReader):
    """Answers with what it is given; an error is raised."""

    def __init__(self, *answers: LagReport | BrokerError) -> None:
        self.answers = list(answers)

    def read(self, *, max_age_seconds: float = 0.5) -> LagReport:
        answer = self.answers.pop(0)
        if isinstance(answer, BrokerError):
            raise answer
        return answer

    def close(self) -> None:
        self.closed = True


def test_gauges_follow_the_report_and_vanished_series_go() -> None:
    exporter = LagExporter()
    at = {"group": "mg", "topic": "mt"}
    exporter.export(LagReport(0, (row(0, 3, Status.STALLED), row(1, 7)), {"mg": 2}))
    assert sample("anchorstream_lag_messages", partition="0", **at) == 3
    assert sample("anchorstream_lag_status", partition="0", **at) == SEVERITY[Status.STALLED]
    assert sample("anchorstream_retention_headroom_messages", partition="1", **at) == 5
    assert sample("anchorstream_group_members", group="mg") == 2
    exporter.export(LagReport(0, (row(0, 4, seconds=None),)))
    assert sample("anchorstream_lag_messages", partition="0", **at) == 4
    assert sample("anchorstream_lag_seconds", partition="0", **at) is None  # unknown is absent, never 0
    assert sample("anchorstream_lag_messages", partition="1", **at) is None
    assert sample("anchorstream_group_members", group="mg") is None
    exporter.export(LagReport(0, ()))
    assert sample("anchorstream_lag_messages", partition="0", **at) is None


def test_every_change_of_verdict_is_said_once_and_a_lost_broker_too() -> None:
    reader = Scripted(
        LagReport(0, (row(0, 0),)),
        LagReport(0, (row(0, 9, Status.STALLED),)),
        LagReport(0, (row(0, 9, Status.STALLED),)),
        BrokerError("away"),
        BrokerError("away"),
        LagReport(0, (row(0, 9, Status.UNKNOWN),)),
        LagReport(0, (row(0, 0),)),
    )
    monitor = Monitor(reader)
    up = []
    with structlog.testing.capture_logs() as said:
        for _ in range(7):
            monitor.step()
            up.append(metrics.LAG_READ_UP._value.get())
    assert up == [1, 1, 1, 0, 0, 1, 1]
    found = [(line["event"], line.get("was"), line.get("now")) for line in said]
    assert found == [
        (logs.LAG_STATUS_CHANGED, "ok", "stalled"),
        (logs.LAG_UNREADABLE, None, None),
        (logs.LAG_READABLE, None, None),
        (logs.LAG_STATUS_CHANGED, "stalled", "ok"),
    ]


def test_what_cannot_be_read_is_named_and_the_rest_exported() -> None:
    """E12: one group that may not be described."""
    reader = Scripted(
        LagReport(0, (row(0, 3),), unreadable=("group mg.worker: not authorized",)),
        LagReport(0, (row(0, 4),), unreadable=("group mg.worker: not authorized",)),
        LagReport(0, (row(0, 0),)),
    )
    monitor = Monitor(reader)
    unseen, lag = [], []
    with structlog.testing.capture_logs() as said:
        for _ in range(3):
            assert monitor.step()
            unseen.append(metrics.LAG_UNREADABLE._value.get())
            lag.append(sample("anchorstream_lag_messages", partition="0", group="mg", topic="mt"))
    assert (unseen, lag) == ([1, 1, 0], [3, 4, 0])
    assert [(line["event"], line["unreadable"]) for line in said] == [
        (logs.LAG_UNREADABLE, ["group mg.worker: not authorized"]),
        (logs.LAG_READABLE, []),
    ]


def test_wrong_settings_of_topics_are_said_once_and_counted() -> None:
    line = "as.tokens has cleanup.policy=delete: …"
    reader = Scripted(
        LagReport(0, (row(0, 0),)),
        LagReport(0, (row(0, 0),), topic_faults=(line,)),
        LagReport(0, (row(0, 0),), topic_faults=(line, "as.events has retention.ms=60000: …")),
        LagReport(0, (row(0, 0),)),
    )
    monitor = Monitor(reader)
    counted = []
    with structlog.testing.capture_logs() as said:
        for _ in range(4):
            assert monitor.step()
            counted.append(metrics.TOPIC_FAULTS._value.get())
    assert counted == [0, 1, 2, 0]
    assert [line["event"] for line in said] == [logs.TOPIC_DIFFERS, logs.TOPIC_DIFFERS, logs.TOPICS_AS_CONFIGURED]
    assert said[0]["detail"] == line


def test_run_is_ready_after_the_first_reading_and_closes() -> None:
    reader = Scripted(BrokerError("not yet"), LagReport(0, ()), LagReport(0, ()), LagReport(0, ()))
    stop, ready = threading.Event(), []

    def on_ready() -> None:
        ready.append(len(reader.answers))

    monitor = Monitor(reader, interval_seconds=0.01, on_ready=on_ready)
    with pytest.raises(IndexError):  # the script ends; a real reader does not
        monitor.run(stop)
    assert ready == [2]
    assert reader.closed
