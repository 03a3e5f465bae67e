"""serve's reading of `events`: which accepted events there are, so that it knows those that no embedding covers yet."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Any

from confluent_kafka import TopicPartition

from store.base import logs
from store.index.field_board import FieldBoard
from store.index.freshness import AcceptedEvent, PendingEvents
from stream.events import field_counts
from stream.events.event import Pack, unpack
from stream.kafka.positions import resume_positions
from stream.serve.offset_committer import Offsets
from stream.topics import COMPACT, Topics

MAX_PENDING_EVENTS = 250_000
"""Of 200 to 300 bytes each. Beyond it the rest of `events` waits on the broker, until half of them are covered."""
MAX_INGEST_DELAY_MS = 30 * 86_400_000
CLOCKS_APART_MS = 60_000
DELETIONS_KEPT_MS = int(COMPACT["delete.retention.ms"])
"""Of users in `embeddings.*`, at least; and in an index (`SnapshotStore.max_age_ms`)."""
log = logs.get(__name__)


class EventsFeed:
    """Hands the messages of `events` to the tracker, and stops reading while too many are pending. For one thread.

    Args:
        modalities: the configured ones; events of others never reach an embedding.
        fields: is told what ingest counted.
    """

    def __init__(self, topics: Topics, modalities: Collection[str], tracker: PendingEvents, fields: FieldBoard) -> None:
        self.topic = topics.events
        self._group = topics.group_freshness
        self.ends: dict[int, int] = {}
        """Where each partition ended at the start."""
        self.held = False
        self._modalities = frozenset(modalities)
        self._tracker = tracker
        self._fields = fields
        self._partitions = [TopicPartition(topics.events, partition) for partition in range(topics.partitions)]

    @property
    def partitions(self) -> list[Any]:
        """All of them, for pause and resume."""
        return [TopicPartition(tp.topic, tp.partition) for tp in self._partitions]

    def start(self, consumer: Any, committed: Any, *, from_zero: bool) -> list[Any]:
        """Positions to be assigned: the low-water marks committed for the freshness group.

        Args:
            committed: a consumer of that group. from_zero: as of `resume_positions`.

        Raises:
            DataLossError, confluent_kafka.KafkaException: as `resume_positions`.
        """
        positions = resume_positions(committed, self._partitions, group=self._group, from_zero=from_zero)
        self._tracker.start({tp.partition: tp.offset for tp in positions})
        for tp in positions:
            self.ends[tp.partition] = consumer.get_watermark_offsets(tp, timeout=10.0)[1]
        return positions

    def observe(self, messages: Iterable[Any], *, now_ms: int) -> list[float]:
        """Returns the freshness, in seconds, of what is covered already."""
        forgotten = now_ms - DELETIONS_KEPT_MS
        fresh: list[float] = []
        for message in messages:
            partition, offset = message.partition(), message.offset()
            try:
                accepted = self._accepted(unpack(message.value()))
            except ValueError as exc:
                # the processor sends it to dead-letters, so nothing will ever cover it
                log.warning(logs.RECORD_REFUSED, topic=self.topic, partition=partition, offset=offset, detail=str(exc))
                accepted = []
            for name, value in message.headers() or ():
                if name == field_counts.HEADER:
                    self._count_fields(value, partition, offset)
            live = offset >= self.ends[partition]
            fresh += self._tracker.observe(
                partition, offset, accepted, sample=live, forgotten_before=0 if live else forgotten
            )
        return fresh

    def _count_fields(self, value: bytes | None, partition: int, offset: int) -> None:
        try:
            counts = field_counts.FieldCounts.unpack(value)
        except ValueError as exc:
            log.warning(logs.RECORD_REFUSED, topic=self.topic, partition=partition, offset=offset, detail=str(exc))
            return
        for modality, (events, carried) in counts.modalities.items():
            if modality in self._modalities:
                self._fields.put(modality, counts.at_ms, events, carried)

    def _accepted(self, pack: Pack) -> list[AcceptedEvent]:
        sources = [f"{topic}:{partition}" for topic, partition in pack.sources]
        known = [modality in self._modalities for modality in pack.modalities]
        columns = zip(
            pack.user_ids, pack.modality_of, pack.source_of, pack.offsets, pack.produced_at, pack.ingested_at,
            strict=True,
        )  # fmt: skip
        return [
            AcceptedEvent(user, sources[source], offset, believable(produced_at, ingested_at), ingested_at)
            for user, modality, source, offset, produced_at, ingested_at in columns
            if known[modality]
        ]

    def skip_to(self, reached: Offsets) -> None:
        """What was read without a message to tell: ends and gaps."""
        for (topic, partition), offset in reached.items():
            if topic == self.topic:
                self._tracker.skip_to(partition, offset)

    def hold_or_read_on(self, consumer: Any) -> None:
        """Too many pending events: the rest wait on the broker, where lag counts them, and nothing grows here."""
        held = len(self._tracker) >= (MAX_PENDING_EVENTS // 2 if self.held else MAX_PENDING_EVENTS)
        if held is self.held:
            return
        self.held = held
        (consumer.pause if held else consumer.resume)(self.partitions)
        what = logs.INPUT_PAUSED if held else logs.INPUT_RESUMED
        log.info(what, topic=self.topic, pending_events=len(self._tracker))


def believable(produced_at: int, ingested_at: int) -> int:
    """`produced_at`, or 0 for a timestamp that is not the time of producing: freshness counts from no such moment.

    A producer may write anything there: the event's own time of years ago, seconds instead of milliseconds, nothing.
    """
    return produced_at if -CLOCKS_APART_MS <= ingested_at - produced_at <= MAX_INGEST_DELAY_MS else 0
