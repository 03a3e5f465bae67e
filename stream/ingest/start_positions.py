"""Where partitions that were assigned are read on, and with which clock and counts."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

from confluent_kafka import KafkaException, TopicPartition

from stream.clock import ClockState, Source, read_clock
from stream.ingest.counts import IngestCounts
from stream.ingest.in_flight import RawPosition
from stream.ingest.judge import Judge
from stream.ingest.offset_commits import OffsetCommits
from stream.ingest.raw_topic_ids import RawTopicIds
from stream.kafka.consumer_errors import ConsumerErrors
from stream.kafka.positions import resume_positions
from stream.raw_counts import RawCounts, read_counts

PATIENCE_SECONDS = 30.0


class StartPositions:
    """For the consumer's thread.

    Args:
        ids, judge, counts: are told of each partition: its topic's id, the clock and the counts that were committed.
        commits: by it counts that begin are committed.
        group: the consumer's. from_zero: as of `resume_positions`. wall: seconds since the epoch.
    """

    def __init__(
        self,
        ids: RawTopicIds,
        judge: Judge,
        counts: IngestCounts,
        commits: OffsetCommits,
        errors: ConsumerErrors,
        *,
        group: str,
        from_zero: bool,
        wall: Callable[[], float],
    ) -> None:
        self._ids = ids
        self._judge = judge
        self._counts = counts
        self._commits = commits
        self._errors = errors
        self._group = group
        self._from_zero = from_zero
        self._wall = wall

    def find(self, consumer: Any, partitions: list[TopicPartition], stop: threading.Event) -> list[TopicPartition]:
        """For `incremental_assign`. Outlives a broker that is just coming back.

        Raises:
            DataLossError: a committed position cannot be served.
            KafkaException: the broker does not answer for PATIENCE_SECONDS, or until `stop` is set.
            BrokerError: it did not take the registry's record.
        """
        deadline = time.monotonic() + PATIENCE_SECONDS
        while True:
            try:
                self._ids.assigned([tp.topic for tp in partitions], stop)
                positions = resume_positions(
                    consumer, partitions, group=self._group, from_zero=self._from_zero, counts=self._ids.is_current
                )
                committed = consumer.committed(partitions, timeout=10.0)
                for tp in committed:
                    state = read_clock(tp.metadata) if self._ids.is_current(tp) else ClockState()
                    self._judge.restore((tp.topic, tp.partition), state)
                self._begin_counts(consumer, committed, positions)
                return positions
            except KafkaException as exc:
                if time.monotonic() > deadline or stop.is_set():
                    raise
                self._errors.passing(exc.args[0], what="positions")
                time.sleep(0.2)

    def _begin_counts(
        self, consumer: Any, committed: Sequence[TopicPartition], positions: Sequence[TopicPartition]
    ) -> None:
        """Counts go on where they were committed; the others begin, which is committed before an event is sent."""
        begun: dict[Source, RawPosition] = {}
        wall_ms = int(self._wall() * 1000)
        starts = {(tp.topic, tp.partition): tp.offset for tp in positions}
        for tp in committed:
            source = (tp.topic, tp.partition)
            counts = read_counts(tp.metadata) if self._ids.is_current(tp) and tp.offset >= 0 else None
            if counts is None:
                counts = RawCounts(since=wall_ms, begin=starts[source])
                topic_id = self._ids.get(tp.topic)
                begun[source] = RawPosition(starts[source], self._judge.state(source), topic_id, counts)
            self._counts.begin(source, self._ids.source_of(tp.topic), counts)
        self._commits.begin(consumer, begun)
