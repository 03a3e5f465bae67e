"""Consumer lag of our groups, in messages and in seconds, and what it means; on any broker, the embedded one too.

One reading, in this order (docs/lag.md):
  1. committed offsets of every group, topics and partitions named explicitly (the embedded broker answers only so);
  2. then the log's start and end: read after 1, so that lag cannot be negative;
  3. one record at each committed offset: its timestamp makes lag in seconds exact, without interpolation;
  4. the verdict over a sliding window of readings (`stream/lag/status.py`).
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import replace
from typing import Any, NamedTuple

from confluent_kafka import ConsumerGroupTopicPartitions, KafkaException, TopicPartition
from confluent_kafka.admin import OffsetSpec

from store.base.errors import BrokerError
from stream.kafka.client import Connection
from stream.kafka.futures import all_of
from stream.kafka.patience import patiently
from stream.lag.first_record import FirstRecords
from stream.lag.report import Freshness, GroupLag, LagReport, PartitionLag
from stream.lag.status import LagPolicy, Sample, commit_age_seconds, completeness, judge, rates, within_window
from stream.topics import Topics

__all__ = ["Freshness", "GroupLag", "GroupTopic", "LagReader", "LagReport", "PartitionLag", "plan"]

_METADATA_SECONDS = 10.0
"""How long partition counts are remembered."""


class GroupTopic(NamedTuple):
    """A topic that a consumer group of ours reads."""

    role: str
    group: str
    topic: str


def plan(topics: Topics, raw_topics: Iterable[str], scenarios: Iterable[str]) -> tuple[GroupTopic, ...]:
    """What our roles read. `freshness` counts accepted events that are not yet queryable."""
    return (
        *(GroupTopic("ingest", topics.group_ingest, topic) for topic in sorted(set(raw_topics))),
        GroupTopic("processor", topics.group_processor, topics.events),
        GroupTopic("worker", topics.group_worker, topics.tokens),
        *(GroupTopic("serve", topics.group_serve, topics.embeddings(s)) for s in sorted(set(scenarios))),
        GroupTopic("freshness", topics.group_freshness, topics.events),
    )


class _Watermarks(NamedTuple):
    start: int
    end: int


_Key = tuple[str, str, int]


class LagReader:
    """Reads lag and remembers a window of readings. Safe to call from several threads; one reading at a time.

    Args:
        plan: which groups read which topics, see `plan`.
        freshness: asked at each reading; serve knows it.
        clock: epoch seconds; lag in seconds is measured against it.
        timeout_seconds: longest wait for each answer of the broker.
        record_seconds: longest wait for step 3; what did not come is `unknown` and asked for again next time.
    """

    def __init__(
        self,
        connection: Connection,
        plan: Sequence[GroupTopic],
        *,
        policy: LagPolicy | None = None,
        freshness: Callable[[], Freshness | None] = lambda: None,
        clock: Callable[[], float] = time.time,
        timeout_seconds: float = 5.0,
        record_seconds: float = 2.0,
    ) -> None:
        self._connection = connection
        self._plan = self._next_plan = tuple(plan)
        self._policy = policy or LagPolicy()
        self._freshness = freshness
        self._clock = clock
        self._timeout = timeout_seconds
        self._admin = connection.admin()
        self._records = FirstRecords(connection, timeout_seconds=record_seconds)
        self._lock = threading.Lock()
        self._samples: dict[_Key, list[Sample]] = {}
        self._partitions: dict[str, int] = {}
        self._partitions_until = 0.0
        self._last: LagReport | None = None

    def read(self, *, max_age_seconds: float = 0.5) -> LagReport:
        """A reading, or the last one if it is younger than `max_age_seconds`.

        Raises:
            BrokerError: the broker did not answer in time.
        """
        with self._lock:
            now = self._clock()
            if (plan := self._next_plan) != self._plan:
                self._plan = plan
                self._partitions_until = 0.0
                self._last = None
            if self._last is not None and 0 <= now * 1000 - self._last.at < max_age_seconds * 1000:
                return self._last
            try:
                self._last = self._read()
            except (KafkaException, TimeoutError) as exc:
                why = exc.args[0].str() if isinstance(exc, KafkaException) else f"no answer in {self._timeout:g} s"
                raise BrokerError(
                    f"the broker at {self._connection.bootstrap} did not tell its offsets: {why}",
                    action="check that it runs (`anchorstream doctor`) and lets this user describe groups and topics",
                ) from exc
            return self._last

    def observe(self, *, seconds: float, interval_seconds: float = 1.0) -> LagReport:
        """Read for a while, so that the verdict rests on some evidence; ends early once nothing waits."""
        end = self._clock() + seconds
        report = self.read(max_age_seconds=0)
        while self._clock() < end and report.lag_messages:
            time.sleep(interval_seconds)
            report = self.read(max_age_seconds=0)
        return report

    def watch(self, plan: Sequence[GroupTopic]) -> None:
        """Replace the plan, from the next reading on (a scenario came or went). Does not wait for one under way."""
        self._next_plan = tuple(plan)

    def close(self) -> None:
        """Release the clients."""
        with self._lock:
            self._records.close()

    # ---- one reading ------------------------------------------------------------------------------------------------

    def _read(self) -> LagReport:
        counts = self._partition_counts()
        missing = tuple(sorted({t.topic for t in self._plan} - counts.keys()))
        wanted = [(t, n) for t in self._plan for n in range(counts.get(t.topic, 0))]
        # 1.
        committed = self._committed(wanted)
        members = self._members()
        # 2.
        marks = self._watermarks({(t.topic, n) for t, n in wanted})
        now = self._clock()
        rows: list[PartitionLag] = []
        samples: dict[_Key, list[Sample]] = {}
        for target, n in wanted:
            if (mark := marks.get((target.topic, n))) is None:
                continue
            key = (target.group, target.topic, n)
            sample = Sample(now, committed.get(key), mark.start, mark.end, members.get(target.group))
            samples[key] = within_window([*self._samples.get(key, []), sample], now, self._policy)
            rows.append(self._row(target, n, samples[key], now))
        self._samples = samples  # partitions that are gone are forgotten
        # 3.
        waiting = {(r.topic, r.partition, max(r.committed or 0, r.log_start)) for r in rows if r.lag_messages}
        times = self._records.timestamps_ms(waiting)
        rows = [self._with_seconds(row, times, now) for row in rows]
        unreadable = tuple(sorted(f"{topic}:{n}" for topic, n in {(t.topic, n) for t, n in wanted} - marks.keys()))
        return LagReport(int(now * 1000), tuple(rows), members, missing, unreadable, self._freshness())

    def _row(self, target: GroupTopic, partition: int, samples: Sequence[Sample], now: float) -> PartitionLag:
        # 4.
        last = samples[-1]
        pace = rates(samples)
        return PartitionLag(
            *target,
            partition,
            committed=last.committed,
            log_start=last.start,
            log_end=last.end,
            lag_messages=last.lag,
            lag_seconds=None if last.lag else 0.0,
            lag_seconds_source="unknown" if last.lag else "caught_up",
            retention_headroom=None if last.committed is None else last.committed - last.start,
            status=judge(samples, self._policy),
            complete=completeness(samples, self._policy),
            commit_age_seconds=commit_age_seconds(samples, now),
            produced_per_second=pace.produced,
            committed_per_second=pace.committed,
            eta_seconds=pace.eta_seconds,
        )

    @staticmethod
    def _with_seconds(row: PartitionLag, times: Mapping[tuple[str, int, int], int], now: float) -> PartitionLag:
        when = times.get((row.topic, row.partition, max(row.committed or 0, row.log_start)))
        if not row.lag_messages or when is None:
            return row
        return replace(row, lag_seconds=max(0.0, now - when / 1000), lag_seconds_source="record")

    def _partition_counts(self) -> dict[str, int]:
        """Partitions per topic that exists. Topics are never asked for by name: that may create them."""
        now = time.monotonic()
        if now >= self._partitions_until:
            found = self._admin.list_topics(timeout=self._timeout).topics
            names = {t.topic for t in self._plan}
            self._partitions = {n: len(t.partitions) for n, t in found.items() if n in names and t.error is None}
            complete = len(self._partitions) == len(names)
            self._partitions_until = now + (_METADATA_SECONDS if complete else 0.0)
        return self._partitions

    def _committed(self, wanted: Sequence[tuple[GroupTopic, int]]) -> dict[_Key, int]:
        by_group: dict[str, list[TopicPartition]] = {}
        for target, n in wanted:
            by_group.setdefault(target.group, []).append(TopicPartition(target.topic, n))

        def ask() -> dict[str, Any]:
            asked: dict[str, Future[Any]] = {}
            for group, partitions in by_group.items():
                request = [ConsumerGroupTopicPartitions(group, partitions)]
                asked |= self._admin.list_consumer_group_offsets(request, request_timeout=self._timeout)
            return all_of(asked, self._timeout + 1)

        # a broker that has just started is still loading its groups
        found = patiently(ask, threading.Event(), seconds=self._timeout)
        return {
            (group, tp.topic, tp.partition): tp.offset
            for group, answer in found.items()
            for tp in answer.topic_partitions
            if tp.offset >= 0
        }

    def _watermarks(self, partitions: set[tuple[str, int]]) -> dict[tuple[str, int], _Watermarks]:
        """Start and end; a partition without a leader is left out. Raises KafkaException if none answers."""
        if not partitions:
            return {}
        starts, ends = (self._offsets(partitions, spec) for spec in (OffsetSpec.earliest(), OffsetSpec.latest()))
        return {p: _Watermarks(starts[p], ends[p]) for p in starts.keys() & ends.keys()}

    def _offsets(self, partitions: set[tuple[str, int]], spec: OffsetSpec) -> dict[tuple[str, int], int]:
        request = {TopicPartition(*p): spec for p in partitions}
        found: dict[tuple[str, int], int] = {}
        failure: Exception | None = None
        for tp, future in self._admin.list_offsets(request, request_timeout=self._timeout).items():
            try:
                found[tp.topic, tp.partition] = future.result(self._timeout + 1).offset
            except (KafkaException, TimeoutError) as exc:
                failure = exc
        if failure is not None and not found:
            raise failure
        return found

    def _members(self) -> dict[str, int | None]:
        groups = sorted({t.group for t in self._plan})
        if self._connection.embedded:
            return dict.fromkeys(groups)
        answers = self._admin.describe_consumer_groups(groups, request_timeout=self._timeout)
        return {group: len(found.members) for group, found in all_of(answers, self._timeout + 1).items()}
