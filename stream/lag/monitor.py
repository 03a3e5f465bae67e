"""The monitor role: reads lag, exports it, and says when a verdict changes. It only reads; killing it harms nothing."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from prometheus_client import Gauge

from store.base import logs, metrics, pulse
from store.base.errors import BrokerError
from stream.lag.reader import LagReader, LagReport, PartitionLag
from stream.lag.scenarios import LagScenarios
from stream.lag.status import SEVERITY, Status

log = logs.get(__name__)
_PER_PARTITION: tuple[tuple[Gauge, Callable[[PartitionLag], float | None]], ...] = (
    (metrics.LAG_MESSAGES, lambda p: p.lag_messages),
    (metrics.LAG_SECONDS, lambda p: p.lag_seconds),
    (metrics.RETENTION_HEADROOM, lambda p: p.retention_headroom),
    (metrics.LAG_STATUS, lambda p: SEVERITY[p.status]),
)

_Labels = tuple[str, str, str]


class LagExporter:
    """Keeps the gauges equal to the newest report: a series without a value, or whose partition is gone, is removed."""

    def __init__(self) -> None:
        self._series: dict[Gauge, set[_Labels]] = {gauge: set() for gauge, _ in _PER_PARTITION}
        self._groups: set[str] = set()

    def export(self, report: LagReport) -> None:
        """Set every gauge."""
        for gauge, value_of in _PER_PARTITION:
            there: set[_Labels] = set()
            for p in report.partitions:
                # an absent series is honest; a 0 would say that nothing waits
                if (value := value_of(p)) is not None:
                    labels = (p.group, p.topic, str(p.partition))
                    gauge.labels(*labels).set(value)
                    there.add(labels)
            for gone in self._series[gauge] - there:
                gauge.remove(*gone)
            self._series[gauge] = there
        known = {group: n for group, n in report.members.items() if n is not None}
        for group, n in known.items():
            metrics.GROUP_MEMBERS.labels(group).set(n)
        for group in self._groups - known.keys():
            metrics.GROUP_MEMBERS.remove(group)
        self._groups = set(known)


def changes(before: dict[_Labels, Status], report: LagReport) -> list[tuple[PartitionLag, Status]]:
    """Partitions whose verdict changed, each with the earlier one; `unknown` is no verdict. Updates `before`."""
    found = []
    for p in report.partitions:
        key = (p.group, p.topic, str(p.partition))
        old = before.get(key, Status.OK)
        if p.status not in (old, Status.UNKNOWN):
            before[key] = p.status
            found.append((p, old))
    return found


class Monitor:
    """Reads lag every `interval_seconds` until stopped. A broker that is away is reported once, and awaited.

    Args:
        scenarios: which topics to read lag of; None = those of `reader`, always.
    """

    def __init__(
        self,
        reader: LagReader,
        scenarios: LagScenarios | None = None,
        *,
        interval_seconds: float = 5.0,
        on_ready: Callable[[], None] = lambda: None,
    ) -> None:
        self._reader = reader
        self._scenarios = scenarios
        self._interval = interval_seconds
        self._on_ready = on_ready
        self._exporter = LagExporter()
        self._before: dict[_Labels, Status] = {}
        self._up = True
        self._topic_faults: tuple[str, ...] = ()
        self._said_ready = False

    def run(self, stop: threading.Event) -> None:
        """Block until `stop` is set."""
        try:
            while not stop.is_set():
                pulse.beat()
                if self.step():
                    self._say_ready()
                stop.wait(self._interval)
        finally:
            self._reader.close()
            if self._scenarios is not None:
                self._scenarios.close()

    def step(self) -> bool:
        """One reading; whether it succeeded."""
        begun = time.monotonic()
        try:
            if self._scenarios is not None:
                self._scenarios.refresh(self._reader)
            report = self._reader.read(max_age_seconds=0)
        except BrokerError as exc:
            if self._up:
                log.warning(logs.LAG_UNREADABLE, detail=exc.detail, action=exc.action)
            self._up = False
            metrics.LAG_READ_UP.set(0)
            return False
        metrics.LAG_READ_SECONDS.observe(time.monotonic() - begun)
        self._exporter.export(report)
        whole = report.whole
        if whole is not self._up:
            (log.info if whole else log.warning)(
                logs.LAG_READABLE if whole else logs.LAG_UNREADABLE,
                unreadable=list(report.unreadable),
                missing_topics=list(report.missing_topics),
            )
        metrics.LAG_READ_UP.set(1)
        metrics.LAG_UNREADABLE.set(len(report.unreadable) + len(report.missing_topics))
        self._up = whole
        self._tell_topic_faults(report.topic_faults)
        for p, old in changes(self._before, report):
            bad = SEVERITY[p.status] > SEVERITY[Status.UNKNOWN]
            (log.warning if bad else log.info)(
                logs.LAG_STATUS_CHANGED,
                group=p.group,
                topic=p.topic,
                partition=p.partition,
                was=str(old),
                now=str(p.status),
                lag_messages=p.lag_messages,
                lag_seconds=p.lag_seconds,
            )
        return True

    def _tell_topic_faults(self, now: tuple[str, ...]) -> None:
        for line in now:
            if line not in self._topic_faults:
                log.warning(logs.TOPIC_DIFFERS, detail=line)
        if self._topic_faults and not now:
            log.info(logs.TOPICS_AS_CONFIGURED)
        self._topic_faults = now
        metrics.TOPIC_FAULTS.set(len(now))

    def _say_ready(self) -> None:
        if not self._said_ready:
            self._said_ready = True
            self._on_ready()
