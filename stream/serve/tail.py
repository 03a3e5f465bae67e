"""serve's side of Kafka: keeps the indexes up with `embeddings.*`, and knows which accepted events they do not cover.

Protocol (the same numbers in the body and in docs/commit-protocol.md):
  S0. `scenarios` is read to its end: what is to be served; and followed from then on, as are the reports on back-fills.
  S1. Snapshots are loaded; `embeddings.*` is read from their offsets (without one: from 0), to the end seen at start.
  S2. Only then `events` is read, from the low-water mark committed for the freshness group, to the end seen at start:
      ready. An event is pending until every index that counts has a record of its user that covers it.
  S3. Records are applied in batches and are queryable at once; the events they cover are pending no more.
  S4. A snapshot (offsets first, then rows) is written beside S3 and made durable.
  S5. Offsets are committed: of `embeddings.*` what was applied; on an embedded broker, which forgets what its readers
      have committed, only what the last durable snapshot holds. Of `events` the low-water mark, once S2 is over:
      before, it says how far this process has read and not what is queryable.
A crash anywhere leaves the last snapshot and the offsets after it: everything since is read again and changes nothing
that was newer (last write wins by offset). Reading never goes on at a committed offset of `embeddings.*`: the
snapshot's offsets are the truth, the commit tells lag.

A scenario that is registered gets an empty index, and its topic is read from the beginning; one that is retired loses
both; one that is registered anew under its old name is both, in this order, and refuses the records of before. One
whose topic was deleted and made anew gets an empty index too: what it held may contradict what comes.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection
from contextlib import ExitStack
from typing import Any

from confluent_kafka import KafkaError, KafkaException

from store.base import logs, metrics, pulse
from store.base.errors import BrokerError
from store.index.serve_state import ServeState
from store.index.snapshot import SnapshotStore
from stream.kafka.client import Connection
from stream.kafka.consumer_errors import ConsumerErrors
from stream.kafka.patience import patiently
from stream.raw_topics.registry import RawTopics
from stream.reading.assigned_reader import AssignedReader
from stream.scenarios.feed import ScenarioFeed
from stream.serve.back_fill_watch import BackFillWatch
from stream.serve.embedding_topics import EmbeddingTopics
from stream.serve.events_feed import EventsFeed
from stream.serve.indexes import ServedIndexes
from stream.serve.offset_committer import OffsetCommitter
from stream.serve.standing import Standing
from stream.topics import Topics

BATCH_MESSAGES = 1000
IDLE_SECONDS = 0.05
COMMIT_SECONDS = 0.25
"""On an embedded broker writers wait for these commits."""
RETRY_SECONDS = 1.0
"""Between two questions to a broker that did not answer the last one; and how long each answer is awaited."""
_READING: dict[str, Any] = {"auto.offset.reset": "error", "enable.partition.eof": True, "fetch.wait.max.ms": 100}
log = logs.get(__name__)


class ServeTail:
    """The tail of one serve process. `run` blocks; everything but the writing of snapshots happens on its thread.

    Args:
        modalities: the configured ones; events of others never reach an embedding.
        feed: the scenarios to be served; closed at the end of `run`.
        state: kept by the tail from now on; `feed` reports to its board.
        snapshots: of this broker's identity.
        raw_topics: which there are; closed at the end of `run`. None: an embedded broker's are never made anew.
        on_scenarios: called whenever scenarios came, went or changed, after the catalog did.
        on_registry: called with the position in the registry, everything below which is reflected in the catalog.
        wall_ms: milliseconds since the epoch.
    """

    def __init__(
        self,
        connection: Connection,
        topics: Topics,
        modalities: Collection[str],
        feed: ScenarioFeed,
        state: ServeState,
        snapshots: SnapshotStore,
        *,
        raw_topics: RawTopics | None = None,
        snapshot_interval_seconds: float = 30.0,
        on_scenarios: Callable[[], object] = lambda: None,
        on_registry: Callable[[int], object] = lambda _: None,
        wall_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
    ) -> None:
        self.ready = threading.Event()
        """Set when everything that was there at the start is applied."""
        self._connection = connection
        self._topics = topics
        self._feed = feed
        self._raw_topics = raw_topics
        self._tracker = state.pending
        self._on_scenarios = on_scenarios
        self._on_registry = on_registry
        self._told = -1
        self._embeddings = EmbeddingTopics(connection, topics)
        self._indexes = ServedIndexes(
            self._embeddings,
            state.catalog,
            snapshots,
            interval_seconds=snapshot_interval_seconds,
            embedded=connection.embedded,
        )
        self._events = EventsFeed(topics, modalities, state.pending, state.fields)
        self._back_fills = BackFillWatch(state.back_fills, state.catalog, self._embeddings.ends)
        self._wall_ms = wall_ms
        self._errors = ConsumerErrors(topics.group_serve)
        self._standing = Standing()
        # S1, S2: what is still to be read before ready
        self._behind: dict[tuple[str, int], int] = {}
        self._catching_up = True
        self._commit_at = 0.0
        self._ask_at = 0.0

    def run(self, stop: threading.Event) -> None:
        """Tail until `stop`; then write a snapshot, commit and close.

        Raises:
            DataLossError: messages that were still needed are gone from the broker.
            BrokerError: the broker refuses us, or did not answer at the start.
        """
        snapshotter = self._indexes.snapshotter
        with ExitStack() as closing:
            closing.callback(self._feed.close)
            closing.callback(self._embeddings.close)
            if self._raw_topics is not None:
                closing.callback(self._raw_topics.close)
            reading = AssignedReader(self._connection, self._topics.group_serve, **_READING)
            closing.callback(reading.close)
            serve = OffsetCommitter(self._connection, self._topics.group_serve)
            closing.callback(serve.close)
            freshness = OffsetCommitter(self._connection, self._topics.group_freshness)
            closing.callback(freshness.close)
            closing.callback(self._offer, serve, freshness)
            closing.callback(snapshotter.close)
            metrics.SERVE_BEHIND_SECONDS.set_function(self._standing.behind_seconds)
            self._start(reading, freshness, stop)
            while not stop.is_set():
                pulse.beat()
                self._follow_scenarios(reading)
                self._look_at_topics(reading)
                self._step(reading)
                snapshotter.step(now=time.monotonic(), now_ms=self._wall_ms())
                self._commit(serve, freshness)
            log.info(logs.ROLE_STOPPING)
            snapshotter.finish(now_ms=self._wall_ms())

    def _start(self, consumer: Any, freshness: OffsetCommitter, stop: threading.Event) -> None:
        """S0 to S2: what to serve, where to read, and how far until ready."""
        self._feed.load(stop)
        if self._raw_topics is not None:
            self._raw_topics.load(stop)
        if stop.is_set():
            return
        wanted = self._feed.wanted()
        try:
            watermarks = patiently(lambda: self._embeddings.describe(wanted), stop)
            positions = self._indexes.restore(consumer, wanted, watermarks, now_ms=self._wall_ms())
            events = patiently(
                lambda: self._events.start(consumer, freshness.consumer, from_zero=self._connection.embedded), stop
            )
        except KafkaException as exc:
            raise BrokerError(
                f"the broker at {self._connection.bootstrap} did not tell its offsets: {exc.args[0].str()}",
                action="check that it runs (`anchorstream doctor`); serve starts again by itself under `up`",
            ) from exc
        ends = {
            (self._topics.embeddings(name), partition): end
            for name, of in watermarks.items()
            for partition, (_, end) in of.items()
        }
        self._behind = {
            (tp.topic, tp.partition): end for tp in positions if tp.offset < (end := ends[tp.topic, tp.partition])
        }
        self._standing.assigned([(tp.topic, tp.partition) for tp in positions])
        consumer.assign([*positions, *events])
        consumer.pause(self._events.partitions)
        self._scenarios_changed()
        self._caught_up(consumer)

    def _caught_up(self, consumer: Any) -> None:
        """Whether a part of the start is over: first `embeddings.*`, then `events`."""
        if self._behind:
            return
        if self._catching_up:
            self._catching_up = False
            log.info(logs.INDEX_RESTORED, users=self._indexes.users())
            self._judge_back_fills()
            # events that are covered already must not look pending, so they are read after the embeddings
            consumer.resume(self._events.partitions)
            positions = self._tracker.positions()
            self._behind = {
                (self._events.topic, partition): end
                for partition, end in self._events.ends.items()
                if positions[partition] < end
            }
        if not self._behind and not self.ready.is_set():
            self.ready.set()
            log.info(logs.CAUGHT_UP, pending_events=len(self._tracker))

    def _follow_scenarios(self, consumer: Any) -> None:
        """S0, from the start on."""
        if self._raw_topics is not None:
            self._raw_topics.poll()
        heard = self._feed.poll()
        if heard.scenarios:
            for dropped in self._indexes.adopt(consumer, self._feed.wanted()):
                self._behind.pop(dropped, None)
                self._standing.dropped([dropped])
            self._scenarios_changed()
            self._caught_up(consumer)
        if (position := self._feed.registry.position) != self._told:
            self._told = position
            self._on_registry(position)
        if heard.back_fills:
            self._back_fills.changed()
        if time.monotonic() >= self._ask_at:
            try:
                self._indexes.read_new(consumer, timeout_s=RETRY_SECONDS)
            except KafkaException as exc:
                self._ask_later(exc)
            self._judge_back_fills()

    def _look_at_topics(self, consumer: Any) -> None:
        """Whether each is still the one that is read."""
        try:
            anew = self._embeddings.made_anew()
        except KafkaException as exc:
            self._errors.passing(exc.args[0], what="topic ids")
            return
        for name in anew:
            self._read_anew(consumer, name)

    def _failed(self, consumer: Any, message: Any) -> None:
        """Reading failed: perhaps since it is another topic by now."""
        name = self._embeddings.scenario(message.topic()) if message.topic() else None
        if name is not None:
            try:
                if self._embeddings.is_made_anew(message.topic()):
                    self._read_anew(consumer, name)
                    return
            except KafkaException as exc:
                self._errors.passing(exc.args[0], what="topic ids")
        elif message.topic() and message.topic() != self._events.topic:
            return  # of a topic that is read no more
        self._errors.judge(message)

    def _read_anew(self, consumer: Any, name: str) -> None:
        topic = self._topics.embeddings(name)
        log.warning(
            logs.TOPIC_MADE_ANEW,
            topic=topic,
            scenario=name,
            detail="it was deleted and made anew: the index is filled from the new one, as the workers fill that",
        )
        for dropped in self._indexes.read_anew(consumer, name):
            self._behind.pop(dropped, None)
            self._standing.dropped([dropped])
        self._back_fills.reopen(name)
        self._ask_at = 0.0
        self._caught_up(consumer)

    def _scenarios_changed(self) -> None:
        self._back_fills.changed()
        self._tracker.require(self._back_fills.counting())
        self._on_scenarios()

    def _judge_back_fills(self) -> None:
        try:
            if self._back_fills.step():
                self._tracker.require(self._back_fills.counting())
        except KafkaException as exc:
            self._ask_later(exc)

    def _ask_later(self, exc: KafkaException) -> None:
        self._ask_at = time.monotonic() + RETRY_SECONDS
        self._errors.passing(exc.args[0], what="offsets")

    def _step(self, consumer: Any) -> None:
        """S3."""
        first = consumer.poll(IDLE_SECONDS)
        if first is None:
            self._standing.turn()
            return
        embeddings: list[Any] = []
        events: list[Any] = []
        reached: dict[tuple[str, int], int] = {}
        ended: dict[tuple[str, int], bool] = {}
        failed: list[Any] = []
        for message in (first, *consumer.consume(BATCH_MESSAGES, 0)):
            if (error := message.error()) is not None:
                if error.code() != KafkaError._PARTITION_EOF:  # noqa: SLF001
                    failed.append(message)
                    continue
                reached[message.topic(), message.partition()] = message.offset()
                ended[message.topic(), message.partition()] = True
                continue
            ended[message.topic(), message.partition()] = False
            reached[message.topic(), message.partition()] = message.offset() + 1
            (events if message.topic() == self._events.topic else embeddings).append(message)
        now_ms = self._wall_ms()
        touched = self._indexes.apply(embeddings, now_ms=now_ms)
        fresh = self._events.observe(events, now_ms=now_ms)
        fresh += self._tracker.advance(touched, now_ms=now_ms)
        self._events.skip_to(reached)
        self._indexes.mark_applied(reached)
        self._report(fresh)
        # `events` may be held, and is told of as what is pending
        self._standing.turn({at: end for at, end in ended.items() if at[0] != self._events.topic})
        self._events.hold_or_read_on(consumer)
        for message in failed:
            self._failed(consumer, message)
        if self._behind:
            # held: the rest of `events` is pending anyway
            held = self._events.held
            self._behind = {tp: e for tp, e in self._behind.items() if reached.get(tp, -1) < e and not held}
            self._caught_up(consumer)

    def _report(self, fresh: list[float]) -> None:
        for seconds in fresh:
            metrics.FRESHNESS_SECONDS.observe(seconds)
        self._tracker.samples.add(fresh)
        metrics.PENDING_EVENTS.set(len(self._tracker))

    def _commit(self, serve: OffsetCommitter, freshness: OffsetCommitter) -> None:
        """S5."""
        if (now := time.monotonic()) < self._commit_at:
            return
        self._commit_at = now + COMMIT_SECONDS
        self._offer(serve, freshness)
        serve.step()
        freshness.step()

    def _offer(self, serve: OffsetCommitter, freshness: OffsetCommitter) -> None:
        serve.offer(self._indexes.committable())
        if not self.ready.is_set():
            return
        marks = self._tracker.low_water()
        freshness.offer({(self._events.topic, partition): offset for partition, offset in marks.items()})
