"""serve's side of Kafka: keeps the indexes up with `embeddings.*`, and knows which accepted events they do not cover.

Protocol (the same numbers in the body and in docs/commit-protocol.md):
  S1. Snapshots are loaded; `embeddings.*` is read from their offsets (without one: from 0), to the end seen at start.
  S2. Only then `events` is read, from the low-water mark committed for the freshness group, to the end seen at start:
      ready. An event is pending until every index has a record of its user that covers it.
  S3. Records are applied in batches and are queryable at once; the events they cover are pending no more.
  S4. A snapshot (offsets first, then rows) is written beside S3 and made durable.
  S5. Offsets are committed: of `embeddings.*` what was applied; on an embedded broker, which forgets what its readers
      have committed, only what the last durable snapshot holds. Of `events` the low-water mark.
A crash anywhere leaves the last snapshot and the offsets after it: everything since is read again and changes nothing
that was newer (last write wins by offset). Reading never goes on at a committed offset of `embeddings.*`: the
snapshot's offsets are the truth, the commit tells lag.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection, Iterable
from contextlib import ExitStack
from typing import Any

from confluent_kafka import KafkaError, KafkaException, TopicCollection, TopicPartition

from store import logs, metrics
from store.door import Entry, Refusal
from store.errors import BrokerError
from store.freshness import AcceptedEvent, PendingEvents
from store.index import Applied, ScenarioIndex
from store.snapshot import Header, SnapshotStore, Wanted
from store.snapshotter import Snapshotter
from stream.client import Connection
from stream.consumer_errors import ConsumerErrors
from stream.event import check_types, unpack
from stream.offset_committer import OffsetCommitter
from stream.patience import patiently
from stream.positions import check_position, resume_positions
from stream.topics import Topics

BATCH_MESSAGES = 1000
IDLE_SECONDS = 0.05
COMMIT_SECONDS = 0.25
"""On an embedded broker writers wait for these commits."""
MAX_PENDING_EVENTS = 250_000
"""Of 200 to 300 bytes each. Beyond it the rest of `events` waits on the broker, until half of them are covered."""
EMBEDDED_SNAPSHOT_SECONDS = 2.0
EMBEDDED_SNAPSHOT_BYTES = 1 << 20
"""An embedded broker's writers stop 3 MiB a partition past the last snapshot."""
_Watermarks = dict[tuple[str, int], tuple[int, int]]
"""(topic, partition) → (oldest offset, end)."""
_READING: dict[str, Any] = {"auto.offset.reset": "error", "enable.partition.eof": True, "fetch.wait.max.ms": 100}
_log = logs.get(__name__)


class ServeTail:
    """The tail of one serve process. `run` blocks; everything but the writing of snapshots happens on its thread.

    Args:
        modalities: the configured ones; events of others never reach an embedding.
        indexes: one per scenario; those found in a snapshot are replaced before the tail is ready.
        tracker: over the same scenarios; its coverage must come from `indexes`.
        snapshots: of this broker's identity.
        wall_ms: milliseconds since the epoch.
    """

    def __init__(
        self,
        connection: Connection,
        topics: Topics,
        modalities: Collection[str],
        indexes: dict[str, ScenarioIndex],
        tracker: PendingEvents,
        snapshots: SnapshotStore,
        *,
        snapshot_interval_seconds: float = 30.0,
        wall_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
    ) -> None:
        self.ready = threading.Event()
        """Set when everything that was there at the start is applied."""
        self._connection = connection
        self._topics = topics
        self._modalities = frozenset(modalities)
        self._indexes = indexes
        self._tracker = tracker
        self._snapshots = snapshots
        self._scenario_of = {topics.embeddings(scenario): scenario for scenario in indexes}
        self._embedded = connection.embedded
        self._snapshotter = Snapshotter(
            snapshots,
            indexes,
            interval_seconds=min(snapshot_interval_seconds, EMBEDDED_SNAPSHOT_SECONDS)
            if connection.embedded
            else snapshot_interval_seconds,
            max_bytes=EMBEDDED_SNAPSHOT_BYTES if connection.embedded else None,
        )
        self._wall_ms = wall_ms
        self._errors = ConsumerErrors(topics.group_serve)
        self._topic_ids: dict[str, str] = {}
        # S1, S2: what is still to be read before ready
        self._behind: dict[tuple[str, int], int] = {}
        self._events_end: dict[int, int] = {}
        self._catching_up = True
        self._held = False
        self._commit_at = 0.0

    def run(self, stop: threading.Event) -> None:
        """Tail until `stop`; then write a snapshot, commit and close.

        Raises:
            DataLossError: messages that were still needed are gone from the broker.
            BrokerError: the broker refuses us, or did not answer at the start.
            StateError: a snapshot cannot be written.
        """
        with ExitStack() as closing:
            reading = self._connection.consumer(self._topics.group_serve, **_READING)
            closing.callback(reading.close)
            serve = OffsetCommitter(self._connection, self._topics.group_serve)
            closing.callback(serve.close)
            freshness = OffsetCommitter(self._connection, self._topics.group_freshness)
            closing.callback(freshness.close)
            closing.callback(self._offer, serve, freshness)
            closing.callback(self._snapshotter.close)
            self._start(reading, freshness, stop)
            while not stop.is_set():
                self._step(reading)
                self._snapshotter.step(now=time.monotonic(), now_ms=self._wall_ms())
                self._commit(serve, freshness)
            _log.info(logs.ROLE_STOPPING)
            self._snapshotter.finish(now_ms=self._wall_ms())

    def _start(self, consumer: Any, freshness: OffsetCommitter, stop: threading.Event) -> None:
        """S1 and S2: where to read, and how far until ready."""
        try:
            self._topic_ids = patiently(self._read_topic_ids, stop)
            positions = self._restore(consumer, patiently(lambda: self._watermarks(consumer), stop))
            events = patiently(lambda: self._resume_events(consumer, freshness), stop)
        except KafkaException as exc:
            raise BrokerError(
                f"the broker at {self._connection.bootstrap} did not tell its offsets: {exc.args[0].str()}",
                action="check that it runs (`anchorstream doctor`); serve starts again by itself under `up`",
            ) from exc
        consumer.assign([*positions, *events])
        consumer.pause(events)
        self._caught_up(consumer)

    def _watermarks(self, consumer: Any) -> _Watermarks:
        return {
            (topic, partition): consumer.get_watermark_offsets(TopicPartition(topic, partition), timeout=10.0)
            for topic in self._scenario_of
            for partition in range(self._topics.partitions)
        }

    def _restore(self, consumer: Any, marks: _Watermarks) -> list[TopicPartition]:
        def fits(header: Header) -> str:
            for topic, scenario in self._scenario_of.items():
                if (position := header.scenarios.get(scenario)) is None:
                    continue
                if position.topic_id != self._topic_ids.get(scenario, ""):
                    return f"{topic} was deleted and made anew"
                for partition, offset in position.applied.items():
                    low, high = marks.get((topic, partition), (0, -1))
                    if not low <= offset <= high:
                        return f"its offset {offset} of {topic}:{partition} is not within [{low}, {high}]"
            return ""

        dims = {scenario: Wanted(index.dim) for scenario, index in self._indexes.items()}
        restored = self._snapshots.load(dims, now_ms=self._wall_ms(), accept=fits)
        self._indexes.update(restored)
        positions = []
        for (topic, partition), (low, high) in marks.items():
            scenario = self._scenario_of[topic]
            offset = self._indexes[scenario].applied().get(partition, 0)
            tp = TopicPartition(topic, partition, offset)
            if not low <= offset <= high:
                check_position(consumer, tp, offset)
            positions.append(tp)
            if offset < high:
                self._behind[topic, partition] = high
        self._snapshotter.durable = {scenario: index.applied() for scenario, index in restored.items()}
        self._snapshotter.topic_ids = self._topic_ids
        return positions

    def _resume_events(self, consumer: Any, freshness: OffsetCommitter) -> list[TopicPartition]:
        topic = self._topics.events
        partitions = [TopicPartition(topic, partition) for partition in range(self._topics.partitions)]
        events: list[TopicPartition] = resume_positions(freshness.consumer, partitions, from_zero=self._embedded)
        self._tracker.start({tp.partition: tp.offset for tp in events})
        for tp in events:
            self._events_end[tp.partition] = consumer.get_watermark_offsets(tp, timeout=10.0)[1]
        return events

    def _caught_up(self, consumer: Any) -> None:
        """Whether a part of the start is over: first `embeddings.*`, then `events`."""
        if self._behind:
            return
        if self._catching_up:
            self._catching_up = False
            _log.info(logs.INDEX_RESTORED, users={name: len(index) for name, index in self._indexes.items()})
            # events that are covered already must not look pending, so they are read after the embeddings
            topic = self._topics.events
            consumer.resume([TopicPartition(topic, partition) for partition in self._events_end])
            positions = self._tracker.positions()
            self._behind = {
                (topic, partition): end for partition, end in self._events_end.items() if positions[partition] < end
            }
        if not self._behind and not self.ready.is_set():
            self.ready.set()
            _log.info(logs.CAUGHT_UP, pending_events=len(self._tracker))

    def _step(self, consumer: Any) -> None:
        """S3."""
        first = consumer.poll(IDLE_SECONDS)
        if first is None:
            return
        entries: dict[str, list[Entry]] = {}
        events: list[Any] = []
        reached: dict[tuple[str, int], int] = {}
        for message in (first, *consumer.consume(BATCH_MESSAGES, 0)):
            if (error := message.error()) is not None:
                if error.code() != KafkaError._PARTITION_EOF:  # noqa: SLF001
                    self._errors.judge(message)
                    continue
                reached[message.topic(), message.partition()] = message.offset()
                continue
            reached[message.topic(), message.partition()] = message.offset() + 1
            if message.topic() == self._topics.events:
                events.append(message)
            elif (entry := self._entry(message)) is not None:
                entries.setdefault(self._scenario_of[message.topic()], []).append(entry)
        now_ms = self._wall_ms()
        touched = self._apply(entries, now_ms)
        fresh = self._observe(events)
        fresh += self._tracker.advance(touched, now_ms=now_ms)
        self._mark(reached)
        self._report(fresh, now_ms)
        self._hold_or_read_on(consumer)
        if self._behind:
            # held: the rest of `events` is pending anyway
            self._behind = {tp: e for tp, e in self._behind.items() if reached.get(tp, -1) < e and not self._held}
            self._caught_up(consumer)

    def _hold_or_read_on(self, consumer: Any) -> None:
        """Too many pending events: the rest wait on the broker, where lag counts them, and nothing grows here."""
        held = len(self._tracker) >= (MAX_PENDING_EVENTS // 2 if self._held else MAX_PENDING_EVENTS)
        if held is self._held:
            return
        self._held = held
        topic = self._topics.events
        (consumer.pause if held else consumer.resume)([TopicPartition(topic, p) for p in self._events_end])
        _log.info(logs.INPUT_PAUSED if held else logs.INPUT_RESUMED, topic=topic, pending_events=len(self._tracker))

    def _entry(self, message: Any) -> Entry | None:
        key, value = message.key(), message.value()
        self._snapshotter.read(len(key or b"") + len(value or b""))
        try:
            return Entry(message.partition(), message.offset(), key.decode(), value, message.timestamp()[1])
        except (AttributeError, UnicodeDecodeError):
            scenario = self._scenario_of[message.topic()]
            self._refused(scenario, "", message.partition(), message.offset(), Refusal.FORMAT, "key is not a user id")
            return None

    def _apply(self, entries: dict[str, list[Entry]], now_ms: int) -> set[str]:
        touched: set[str] = set()
        for scenario, batch in entries.items():
            index = self._indexes[scenario]
            applied: Applied = index.apply(batch, now_ms=now_ms)
            for entry, reason, detail in applied.refused:
                self._refused(scenario, entry.user_id, entry.partition, entry.offset, reason, detail)
            touched |= applied.upserted | applied.erased
            metrics.INDEX_UPSERTS.labels(scenario).inc(len(applied.upserted))
            metrics.INDEX_VECTORS.labels(scenario).set(len(index))
            if applied.erased:
                self._snapshotter.erased()
        return touched

    def _observe(self, messages: Iterable[Any]) -> list[float]:
        fresh: list[float] = []
        for message in messages:
            partition, offset = message.partition(), message.offset()
            try:
                events = unpack(message.value()).events
                check_types(events)
                accepted = [
                    AcceptedEvent(e.user_id, e.source, e.source_offset, e.produced_at, e.ingested_at)
                    for e in events
                    if e.modality in self._modalities
                ]
            except (ValueError, TypeError) as exc:
                # the processor sends it to dead-letters, so nothing will ever cover it
                _log.warning(
                    logs.RECORD_REFUSED, topic=self._topics.events, partition=partition, offset=offset, detail=str(exc)
                )
                accepted = []
            live = offset >= self._events_end[partition]
            fresh += self._tracker.observe(partition, offset, accepted, sample=live)
        return fresh

    def _mark(self, reached: dict[tuple[str, int], int]) -> None:
        """What was read without a message to tell: ends, gaps of compaction, refused messages."""
        per_scenario: dict[str, dict[int, int]] = {}
        for (topic, partition), offset in reached.items():
            if topic == self._topics.events:
                self._tracker.skip_to(partition, offset)
            else:
                per_scenario.setdefault(self._scenario_of[topic], {})[partition] = offset
        for scenario, positions in per_scenario.items():
            self._indexes[scenario].mark_applied(positions)

    def _report(self, fresh: list[float], now_ms: int) -> None:
        for seconds in fresh:
            metrics.FRESHNESS_SECONDS.observe(seconds)
        self._tracker.samples.add(fresh, now_ms=now_ms)
        metrics.PENDING_EVENTS.set(len(self._tracker))

    @staticmethod
    def _refused(scenario: str, user_id: str, partition: int, offset: int, reason: Refusal, detail: str) -> None:
        metrics.INDEX_REFUSED.labels(scenario, reason).inc()
        _log.warning(
            logs.RECORD_REFUSED,
            scenario=scenario,
            user=logs.user(user_id),
            partition=partition,
            offset=offset,
            reason=str(reason),
            detail=detail,
        )

    def _commit(self, serve: OffsetCommitter, freshness: OffsetCommitter) -> None:
        """S5."""
        if (now := time.monotonic()) < self._commit_at:
            return
        self._commit_at = now + COMMIT_SECONDS
        self._offer(serve, freshness)
        serve.step()
        freshness.step()

    def _offer(self, serve: OffsetCommitter, freshness: OffsetCommitter) -> None:
        for topic, scenario in self._scenario_of.items():
            safe = self._snapshotter.durable.get(scenario, {}) if self._embedded else self._indexes[scenario].applied()
            serve.offer({(topic, partition): offset for partition, offset in safe.items()})
        marks = self._tracker.low_water()
        freshness.offer({(self._topics.events, partition): offset for partition, offset in marks.items()})

    def _read_topic_ids(self) -> dict[str, str]:
        """{scenario: id of its topic}; a topic made anew has another. The embedded broker has none."""
        if self._embedded:
            return {}
        admin = self._connection.admin()  # must outlive its answers
        answers = admin.describe_topics(TopicCollection(list(self._scenario_of)), request_timeout=10.0)
        return {self._scenario_of[topic]: str(answer.result(11.0).topic_id) for topic, answer in answers.items()}
