"""Consumer lag of our groups, in messages and in seconds, and what it means; on any broker, the embedded one too.

One reading, in this order (docs/lag.md):
  1. committed offsets of every group, topics and partitions named explicitly (the embedded broker answers only so);
  2. then the log's start and end: read after 1, so that lag cannot be negative;
  3. one record at each committed offset: its timestamp makes lag in seconds exact, without interpolation;
  4. the verdict over a sliding window of readings (`stream/lag/status.py`).
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

from confluent_kafka import KafkaException

from store.base import logs
from store.base.errors import BrokerError
from stream.kafka.client import Connection
from stream.kafka.lasting_admin import LastingAdmin
from stream.lag.first_record import First, FirstRecords
from stream.lag.group_offsets import Committed, GroupOffsets
from stream.lag.log_ends import LogEnds
from stream.lag.report import Freshness, GroupLag, LagReport, PartitionLag
from stream.lag.status import (
    LagPolicy,
    Sample,
    Status,
    behind_seconds,
    commit_age_seconds,
    completeness,
    judge,
    rates,
    within_window,
)
from stream.topics import Topics

__all__ = ["Freshness", "GroupLag", "GroupTopic", "LagReader", "LagReport", "PartitionLag", "plan"]

FAILURE_SECONDS = 2.0
"""How long a failed reading is the answer for others too: who waited for it shall not wait once more."""

CLOCKS_APART_SECONDS = 60.0
"""Between producers' clocks and ours, at most; a record from further away has a timestamp that is something else."""


class GroupTopic(NamedTuple):
    """A topic that a consumer group of ours reads.

    makes: topics that it writes, partition for partition, from what it reads.
    joins: whether the role is a member of its group; serve reads by itself, every instance everything.
    """

    role: str
    group: str
    topic: str
    makes: tuple[str, ...] = ()
    joins: bool = True


def plan(topics: Topics, raw_topics: Iterable[str], scenarios: Iterable[str]) -> tuple[GroupTopic, ...]:
    """What our roles read. `freshness` counts accepted events that are not yet queryable."""
    embeddings = tuple(topics.embeddings(scenario) for scenario in sorted(set(scenarios)))
    return (
        *(GroupTopic("ingest", topics.group_ingest, topic) for topic in sorted(set(raw_topics))),
        GroupTopic("processor", topics.group_processor, topics.events, (topics.tokens,)),
        GroupTopic("worker", topics.group_worker, topics.tokens, embeddings),
        *(GroupTopic("serve", topics.group_serve, topic, joins=False) for topic in embeddings),
        GroupTopic("freshness", topics.group_freshness, topics.events, joins=False),
    )


_Key = tuple[str, str, int]
log = logs.get(__name__)


class LagReader:
    """Reads lag and remembers a window of readings. Safe to call from several threads; one reading at a time.

    Args:
        plan: which groups read which topics, see `plan`.
        freshness: asked at each reading; serve knows it.
        wall: epoch seconds; the age of records is measured against it, and nothing else.
        clock: seconds, monotonic: what was seen when.
        topic_faults: asked at each reading, with the topics that are read: what is wrong with settings, a line each.
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
        topic_faults: Callable[[Collection[str]], Sequence[str]] = lambda _: (),
        wall: Callable[[], float] = time.time,
        clock: Callable[[], float] = time.monotonic,
        timeout_seconds: float = 5.0,
        record_seconds: float = 2.0,
    ) -> None:
        self._connection = connection
        self._plan = self._next_plan = tuple(plan)
        self._policy = policy or LagPolicy()
        self._freshness = freshness
        self._topic_faults = topic_faults
        self._wall = wall
        self._clock = clock
        self._timeout = timeout_seconds
        self._admin = admin = LastingAdmin(connection)
        self._ends = LogEnds(connection, admin, timeout_seconds=timeout_seconds)
        self._groups = GroupOffsets(connection, admin, timeout_seconds=timeout_seconds)
        self._records = FirstRecords(connection, timeout_seconds=record_seconds)
        self._lock = threading.Lock()
        self._samples: dict[_Key, list[Sample]] = {}
        self._ids: dict[str, str] = {}
        self._made_anew: dict[str, float] = {}
        self._unknown: dict[_Key, float] = {}
        self._last: LagReport | None = None
        self._last_at = 0.0
        self._failure: BrokerError | None = None
        self._ended_at = 0.0

    def read(self, *, max_age_seconds: float = 0.5) -> LagReport:
        """A reading, or the last one if it is younger than `max_age_seconds`.

        Raises:
            BrokerError: the broker did not answer in time.
        """
        asked = time.monotonic()
        with self._lock:
            now = self._clock()
            if (plan := self._next_plan) != self._plan:
                self._plan = plan
                self._last = None
            # a reading that ended while its caller waited is the answer to all who waited with him
            waited = max_age_seconds > 0 and self._ended_at >= asked
            if self._failure is not None:
                if waited or (max_age_seconds and time.monotonic() - self._ended_at < FAILURE_SECONDS):
                    raise self._failure
            elif self._last is not None and (waited or now - self._last_at < max_age_seconds):
                return self._last
            self._failure = None
            try:
                self._last, self._last_at = self._read(), self._clock()
                self._admin.answered()
            except (KafkaException, TimeoutError) as exc:
                self._admin.failed(exc)
                self._failure = BrokerError(
                    f"the broker at {self._connection.bootstrap} did not tell its offsets: {self._why(exc)}",
                    action="check that it runs (`anchorstream doctor`) and lets this user describe groups and topics",
                )
                raise self._failure from exc
            finally:
                self._ended_at = time.monotonic()
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
            self._groups.close()

    # ---- one reading ------------------------------------------------------------------------------------------------

    def _read(self) -> LagReport:
        found = self._ends.topics({t.topic for t in self._plan})
        missing = tuple(sorted({t.topic for t in self._plan} - found.partitions.keys() - found.refused.keys()))
        wanted = [(t, n) for t in self._plan for n in range(found.partitions.get(t.topic, 0))]
        # 1.
        asked: dict[str, list[tuple[str, int]]] = {t.group: [] for t in self._plan}
        for target, n in wanted:
            asked[target.group].append((target.topic, n))
        committed, failed = self._groups.committed({group: of for group, of in asked.items() if of})
        positions, of_others = _of_these_topics(committed, found.ids)
        if failed and not committed:
            raise next(iter(failed.values()))
        members = self._groups.members(sorted({t.group for t in self._plan if t.joins and t.group not in failed}))
        # 2.
        marks = self._ends.watermarks({(t.topic, n) for t, n in wanted})
        now, wall = self._clock(), self._wall()
        made_anew = self._look_at_ids(found.ids, now) | of_others
        read = [(t, n) for t, n in wanted if t.group in committed and (t.topic, n) in marks]
        # 3.
        firsts = self._records.at(
            {
                (t.topic, n, position): mark.end
                for t, n in read
                if (mark := marks[t.topic, n]).end
                > (position := max(positions[t.group].get((t.topic, n), 0), mark.start))
            }
        )
        # 4.
        rows: list[PartitionLag] = []
        samples: dict[_Key, list[Sample]] = {}
        for target, n in read:
            key = (target.group, target.topic, n)
            mark, commit = marks[target.topic, n], positions[target.group].get((target.topic, n))
            first = firsts.get((target.topic, n, max(commit or 0, mark.start)))
            made = [marks.get((topic, n)) for topic in target.makes]
            said = committed[target.group].get((target.topic, n))
            waiting = None if said is None else said.waiting
            sample = Sample(
                now,
                commit,
                mark.start,
                mark.end,
                members.get(target.group),
                empty=first is not None and first.nothing_below >= mark.end,
                withheld=mark.high - mark.end,
                made=sum(m.high for m in made if m is not None) if None not in made else None,
                read=None if waiting is None else waiting.read,
            )
            samples[key] = within_window([*self._samples.get(key, []), sample], now, self._policy)
            row = self._row(target, n, samples[key], now, wall, first)
            rows.append(
                row if waiting is None else replace(row, users_left=waiting.users, drain_seconds=waiting.seconds)
            )
        self._samples = samples  # partitions that are gone are forgotten
        self._tell_unknown(rows, now)
        unreadable = [
            *(f"{topic}:{n}" for topic, n in {(t.topic, n) for t, n in wanted} - marks.keys()),
            *(f"topic {topic}: {why}" for topic, why in found.refused.items()),
            *(f"group {group}: {self._why(exc)}" for group, exc in failed.items()),
        ]
        return LagReport(
            int(wall * 1000),
            tuple(rows),
            members,
            missing,
            tuple(sorted(unreadable)),
            self._freshness(),
            tuple(sorted(made_anew)),
            sum(commit.refused for of in committed.values() for commit in of.values()),
            tuple(self._topic_faults({t.topic for t in self._plan if t.role != "ingest"})),
        )

    def _look_at_ids(self, ids: Mapping[str, str], now: float) -> set[str]:
        """Topics that were made anew within the window; what was seen of the earlier ones is forgotten."""
        for topic, id_ in ids.items():
            if self._ids.get(topic, id_) != id_:
                self._made_anew[topic] = now
                self._samples = {key: samples for key, samples in self._samples.items() if key[1] != topic}
                self._records.close()  # a client would read nothing of it, see Ingest._read_anew
        self._ids |= ids
        self._made_anew = {t: at for t, at in self._made_anew.items() if now - at <= self._policy.window_seconds}
        return set(self._made_anew)

    def _tell_unknown(self, rows: Sequence[PartitionLag], now: float) -> None:
        """Once of each partition whose status has been `unknown` for longer than a verdict takes."""
        before, self._unknown = self._unknown, {}
        for row in rows:
            if row.status is not Status.UNKNOWN:
                continue
            key = (row.group, row.topic, row.partition)
            since = self._unknown[key] = before.get(key, now)
            if since != math.inf and now - since > self._policy.window_seconds:
                self._unknown[key] = math.inf
                samples = self._samples[key]
                log.warning(
                    logs.LAG_UNKNOWN,
                    group=row.group,
                    topic=row.topic,
                    partition=row.partition,
                    lag_messages=row.lag_messages,
                    readings=len(samples),
                    detail=f"unknown for {now - since:.0f} s: {len(samples)} reading(s) over "
                    f"{samples[-1].at - samples[0].at:.0f} s within the last {self._policy.window_seconds:g}; "
                    f"a verdict takes {self._policy.evidence_samples} over {self._policy.evidence_seconds:g} s",
                )

    def _why(self, exc: Exception) -> str:
        return exc.args[0].str() if isinstance(exc, KafkaException) else f"no answer in {self._timeout:g} s"

    def _row(
        self,
        target: GroupTopic,
        partition: int,
        samples: Sequence[Sample],
        now: float,
        wall: float,
        first: First | None,
    ) -> PartitionLag:
        last = samples[-1]
        pace = rates(samples)
        row = PartitionLag(
            target.role,
            target.group,
            target.topic,
            partition,
            committed=last.committed,
            log_start=last.start,
            log_end=last.end,
            lag_messages=last.lag,
            lag_seconds=None if last.lag else 0.0,
            lag_seconds_source="unknown" if last.lag else "caught_up",
            retention_headroom=None if last.committed is None else last.committed - last.start,
            status=judge(samples, self._policy, joins=target.joins),
            complete=completeness(samples, self._policy),
            commit_age_seconds=commit_age_seconds(samples, now),
            produced_per_second=pace.produced,
            committed_per_second=pace.committed,
            eta_seconds=pace.eta_seconds,
        )
        if not last.lag:
            return row
        seconds = None if first is None or first.timestamp_ms is None else wall - first.timestamp_ms / 1000
        if seconds is not None and seconds < -CLOCKS_APART_SECONDS:
            seconds = None
        bound = behind_seconds(samples)
        if bound is not None and (seconds is None or seconds > bound + CLOCKS_APART_SECONDS):
            # it has come since the end was last seen where the commit is now
            return replace(row, lag_seconds=bound, lag_seconds_source="observed")
        if seconds is None:
            return row
        return replace(row, lag_seconds=max(0.0, seconds), lag_seconds_source="record")


def _of_these_topics(
    committed: Mapping[str, Mapping[tuple[str, int], Committed]], ids: Mapping[str, str]
) -> tuple[dict[str, dict[tuple[str, int], int]], set[str]]:
    """Per group its offsets in the topics that are there, and the topics of which it has some of an earlier one."""
    positions: dict[str, dict[tuple[str, int], int]] = {}
    others: set[str] = set()
    for group, found in committed.items():
        positions[group] = {}
        for (topic, partition), commit in found.items():
            if commit.topic_id is not None and ids.get(topic) and commit.topic_id != ids[topic]:
                others.add(topic)
            else:
                positions[group][topic, partition] = commit.offset
    return positions, others
