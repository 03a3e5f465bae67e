"""Step 4: offsets of what the broker has acknowledged are committed, one call at a time, and again until they are."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from confluent_kafka import KafkaError, KafkaException, TopicPartition

from store.base import logs
from stream.clock import Source
from stream.ingest.in_flight import RawPosition
from stream.kafka.consumer_errors import ConsumerErrors
from stream.raw_counts import MAX_CHARS

INTERVAL_SECONDS = 0.1
ANSWER_SECONDS = 10.0
_TOO_LARGE = KafkaError.OFFSET_METADATA_TOO_LARGE
_FEWEST_CHARS = 200
"""Counts that have to be shorter are left out."""
log = logs.get(__name__)


class OffsetCommits:
    """For the consumer's thread.

    Args:
        mine: whether a position may still be committed: of a partition that we have, and of the topic that is there.
    """

    def __init__(self, mine: Callable[[Source, RawPosition], bool], errors: ConsumerErrors) -> None:
        self._mine = mine
        self._errors = errors
        self._done: dict[Source, RawPosition] = {}
        self._committed_at = 0.0
        self._committing = False
        self._counts_chars = MAX_CHARS

    def add(self, done: Mapping[Source, RawPosition]) -> None:
        """These may be committed."""
        self._done.update(done)

    def commit(self, consumer: Any) -> None:
        """At most every INTERVAL_SECONDS and one at a time; the answer arrives in `on_commit`."""
        now = time.monotonic()
        # an answer that never comes must not end all commits
        if now < self._committed_at + (ANSWER_SECONDS if self._committing else INTERVAL_SECONDS):
            return
        if offsets := self._offsets():
            self._committed_at = now
            self._committing = True
            consumer.commit(offsets=offsets, asynchronous=True)

    def commit_and_wait(self, consumer: Any) -> None:
        """All of it, before partitions are let go."""
        if offsets := self._offsets():
            self._now(consumer, offsets)

    def begin(self, consumer: Any, positions: Mapping[Source, RawPosition]) -> None:
        """Commit these before anything is read there."""
        if positions:
            self._now(consumer, self._partitions(positions))

    def on_commit(self, error: KafkaError | None, partitions: Sequence[TopicPartition]) -> None:
        """Forget what was committed; the rest, refused during a rebalance or unanswered, is tried again."""
        self._committing = False
        for tp in partitions:
            done = self._done.get((tp.topic, tp.partition))
            if error is None and tp.error is None and done is not None and done.next_offset == tp.offset:
                del self._done[tp.topic, tp.partition]
        if any(e is not None and e.code() == _TOO_LARGE for e in (error, *(tp.error for tp in partitions))):
            self._counts_chars = self._counts_chars // 2 if self._counts_chars >= 2 * _FEWEST_CHARS else 0
            log.warning(logs.COMMIT_TOO_LARGE, counts_chars=self._counts_chars)
        elif error is not None:
            self._errors.passing(error, what="commit")

    def new_consumer(self) -> None:
        """The answer to what was committed last goes to a consumer that is gone."""
        self._committing = False

    def _offsets(self) -> list[TopicPartition]:
        self._done = {source: position for source, position in self._done.items() if self._mine(source, position)}
        return self._partitions(self._done)

    def _partitions(self, positions: Mapping[Source, RawPosition]) -> list[TopicPartition]:
        chars = self._counts_chars
        return [TopicPartition(*s, p.next_offset, metadata=p.metadata(chars)) for s, p in positions.items()]

    def _now(self, consumer: Any, offsets: list[TopicPartition]) -> None:
        try:
            consumer.commit(offsets=offsets, asynchronous=False)
        except KafkaException as exc:  # what was read since is read again: duplicates, which downstream drops
            self._errors.passing(exc.args[0], what="commit")
