"""What became of the raw messages: counts that are committed with their offsets, metrics, and a line in the log."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from operator import attrgetter
from typing import NamedTuple

from store.base import logs, metrics
from stream.clock import Source
from stream.events.event import Event
from stream.events.mapping import TopicMapping
from stream.raw_counts import CountedPartition, RawCounts, since_header
from stream.rejection import Rejection, Skipped

LOG_INTERVAL_SECONDS = 1.0
_PLACE = attrgetter("source_topic", "source_partition", "modality")
log = logs.get(__name__)


class NotAccepted(NamedTuple):
    """A message that is no event. waits: a message before it waits for its verdict."""

    source: Source
    offset: int
    result: Rejection | Skipped
    waits: bool


class IngestCounts:
    """Of the partitions that are read. For one thread.

    Args:
        mappings: by raw topic; what they converted is counted, too.
    """

    def __init__(self, mappings: Mapping[str, TopicMapping]) -> None:
        self._mappings = mappings
        self._counted: dict[Source, CountedPartition] = {}
        self._since: dict[Source, int] = {}  # by the topic's name in events, also of partitions that moved away
        self._refused: Counter[str] = Counter()
        self._logged_at = -LOG_INTERVAL_SECONDS

    def begin(self, source: Source, name: str, counts: RawCounts) -> None:
        """A partition is read from where these stood. name: of its topic in events."""
        self._counted[source] = CountedPartition(counts)
        self._since[name, source[1]] = counts.since

    def upto(self, source: Source, next_offset: int) -> RawCounts:
        """As `CountedPartition.upto`."""
        return self._counted[source].upto(next_offset)

    def since_header(self, sources: Iterable[Source]) -> bytes:
        """Of a message of `events`; sources by their names there."""
        return since_header([self._since[source] for source in sources])

    def count(self, accepted: Iterable[Event], others: Sequence[NotAccepted], moved: Collection[Source]) -> None:
        """Count a batch: its events, and its other messages. moved: partitions that moved away meanwhile; only metrics
        count these."""
        for (name, partition, modality), n in Counter(map(_PLACE, accepted)).items():
            metrics.EVENTS_ACCEPTED.labels(modality).inc(n)
            source = (name.partition("#")[0], partition)
            if source not in moved:
                self._counted[source].accepted(modality, n)
        for source, offset, result, waits in others:
            counted = None if source in moved else self._counted[source]
            if isinstance(result, Skipped):
                metrics.EVENTS_SKIPPED.labels(source[0], result.reason).inc()
                if counted is not None:
                    counted.skipped(offset, result.reason, waits=waits)
            else:
                metrics.EVENTS_DEAD_LETTERED.labels(result.code).inc()
                self._refused[result.code] += 1
                if counted is not None:
                    counted.refused(offset, result.code, waits=waits)
        for topic, mapping in self._mappings.items():
            for how, n in mapping.converted.items():
                metrics.VALUES_CONVERTED.labels(topic, how).inc(n)
            mapping.converted.clear()
        self._log_refusals(time.monotonic())

    def _log_refusals(self, now: float) -> None:
        if self._refused and now >= self._logged_at + LOG_INTERVAL_SECONDS:
            log.warning(logs.EVENT_DEAD_LETTERED, **self._refused)
            self._logged_at = now
            self._refused.clear()
