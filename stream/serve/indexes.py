"""serve's indexes over the topics they are read from: restored, added, dropped, fed and saved."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import suppress
from typing import Any

from confluent_kafka import KafkaException

from store.base import logs, metrics
from store.index.catalog import Catalog, ServedScenario
from store.index.door import Entry, Refusal
from store.index.index import Applied, ScenarioIndex
from store.index.snapshot import SnapshotStore, Wanted
from store.index.snapshotter import Snapshotter
from store.records.scenario import Registered
from stream.serve.embedding_topics import EmbeddingTopics, Watermarks
from stream.serve.offset_committer import Offsets

EMBEDDED_SNAPSHOT_SECONDS = 2.0
EMBEDDED_SNAPSHOT_BYTES = 1 << 20
"""An embedded broker's writers stop 3 MiB a partition past the last snapshot."""
log = logs.get(__name__)


class ServedIndexes:
    """For the tail's thread; other threads see the catalog.

    Args:
        topics: of the broker that the consumers passed in below belong to.
        catalog: filled and kept by this object.
        embedded: such a broker forgets what its readers have committed, so snapshots are made often, and only what
            they hold is committed.
    """

    def __init__(
        self,
        topics: EmbeddingTopics,
        catalog: Catalog,
        snapshots: SnapshotStore,
        *,
        interval_seconds: float,
        embedded: bool,
    ) -> None:
        self._topics = topics
        self._catalog = catalog
        self._snapshots = snapshots
        self._embedded = embedded
        self._indexes: dict[str, ScenarioIndex] = {}
        self._unread: set[str] = set()
        self.snapshotter = Snapshotter(
            snapshots,
            self._indexes,
            interval_seconds=min(interval_seconds, EMBEDDED_SNAPSHOT_SECONDS) if embedded else interval_seconds,
            max_bytes=EMBEDDED_SNAPSHOT_BYTES if embedded else None,
        )

    def restore(
        self, consumer: Any, wanted: Mapping[str, Registered], watermarks: Watermarks, *, now_ms: int
    ) -> list[Any]:
        """Fill the catalog: from a snapshot what it has, else empty. Returns the positions to be assigned.

        Raises:
            DataLossError: what an index needs next has gone.
        """
        restored = self._snapshots.load(
            {name: Wanted(registration=entry.registration) for name, entry in wanted.items()},
            now_ms=now_ms,
            accept=lambda header: self._topics.refusal(header, watermarks),
        )
        positions = []
        for name, entry in wanted.items():
            served = self._serve(name, entry, restored.get(name))
            positions += self._topics.add(consumer, name, served, watermarks[name])
        self.snapshotter.durable = {scenario: index.applied() for scenario, index in restored.items()}
        self.snapshotter.topic_ids = self._topics.ids
        return positions

    def adopt(self, consumer: Any, wanted: Mapping[str, Registered]) -> list[tuple[str, int]]:
        """Make the catalog what is wanted. Returns the (topic, partition) that are read no more.

        A new scenario has an empty index from now on; `read_new` begins to fill it. One that was registered anew is
        dropped first: its topic is read from the beginning.
        """
        dropped: list[tuple[str, int]] = []
        for name, served in self._catalog.now().items():
            if name not in wanted or wanted[name].registration != served.entry.registration:
                dropped += self._drop(consumer, name)
        for name, entry in wanted.items():
            known = self._catalog.get(name)
            if known is None:
                self._unread.add(name)
            if known is None or known.entry != entry:
                self._serve(name, entry, None if known is None else known.index)
        return dropped

    def read_anew(self, consumer: Any, name: str) -> list[tuple[str, int]]:
        """Its topic was deleted and made anew: an empty index, which `read_new` begins to fill from the new one.

        Returns the (topic, partition) that are read no more.
        """
        partitions = self._topics.remove(name)
        if partitions:
            consumer.incremental_unassign(partitions)
        self._unread.add(name)
        self._serve(name, self._catalog[name].entry, None)
        self.snapshotter.retired(name)
        return [(tp.topic, tp.partition) for tp in partitions]

    def read_new(self, consumer: Any, *, timeout_s: float) -> None:
        """Begin to read what `adopt` added.

        Raises:
            KafkaException: the broker does not know a topic (yet). The others are read all the same.
        """
        if not self._unread:
            return
        try:
            self._read(consumer, set(self._unread), timeout_s)
        except KafkaException:
            for name in sorted(self._unread):
                with suppress(KafkaException):  # raised below, if it stays so
                    self._read(consumer, {name}, timeout_s)
            if self._unread:
                raise

    def _read(self, consumer: Any, names: set[str], timeout_s: float) -> None:
        watermarks = self._topics.describe(names, timeout_s=timeout_s)
        self.snapshotter.topic_ids = self._topics.ids
        for name in names:
            consumer.incremental_assign(self._topics.add(consumer, name, self._catalog[name], watermarks[name]))
            self._unread.discard(name)

    def apply(self, messages: Iterable[Any], *, now_ms: int) -> set[str]:
        """Messages of `embeddings.*`. Returns the users whose coverage may have changed."""
        batches: dict[str, list[Entry]] = {}
        for message in messages:
            # what was fetched before its topic was dropped
            if (scenario := self._topics.scenario(message.topic())) is None:
                continue
            if (entry := self._entry(message, scenario)) is not None:
                batches.setdefault(scenario, []).append(entry)
        touched: set[str] = set()
        for scenario, batch in batches.items():
            index = self._indexes[scenario]
            applied: Applied = index.apply(batch, now_ms=now_ms)
            for entry, reason, detail in applied.refused:
                _refused(scenario, entry.user_id, entry.partition, entry.offset, reason, detail)
            touched |= applied.upserted | applied.erased
            metrics.INDEX_UPSERTS.labels(scenario).inc(len(applied.upserted))
            metrics.INDEX_VECTORS.labels(scenario).set(len(index))
            if applied.erased:
                self.snapshotter.erased()
        return touched

    def mark_applied(self, reached: Offsets) -> None:
        """What was read without a message to tell: ends, gaps of compaction, refused messages."""
        per_scenario: dict[str, dict[int, int]] = {}
        for (topic, partition), offset in reached.items():
            if (scenario := self._topics.scenario(topic)) is not None:
                per_scenario.setdefault(scenario, {})[partition] = offset
        for scenario, positions in per_scenario.items():
            self._indexes[scenario].mark_applied(positions)

    def users(self) -> dict[str, int]:
        """Live users per scenario."""
        return {name: len(index) for name, index in self._indexes.items()}

    def committable(self) -> dict[tuple[str, int], int]:
        """Offsets that may be committed."""
        return {
            (topic, partition): offset
            for topic, scenario in self._topics.items()
            for partition, offset in (
                self.snapshotter.durable.get(scenario, {}) if self._embedded else self._indexes[scenario].applied()
            ).items()
        }

    def _serve(self, name: str, entry: Registered, index: ScenarioIndex | None) -> ServedScenario:
        if index is None:
            index = ScenarioIndex(name, registration=entry.registration)
        self._indexes[name] = index
        served = ServedScenario(entry, index)
        self._catalog.put(name, served)
        metrics.INDEX_VECTORS.labels(name).set(len(index))
        return served

    def _drop(self, consumer: Any, name: str) -> list[tuple[str, int]]:
        partitions = self._topics.remove(name)
        if partitions:
            consumer.incremental_unassign(partitions)
        self._unread.discard(name)
        self._catalog.remove(name)
        del self._indexes[name]
        self.snapshotter.retired(name)
        metrics.forget_scenario("serve", name)
        return [(tp.topic, tp.partition) for tp in partitions]

    def _entry(self, message: Any, scenario: str) -> Entry | None:
        key, value = message.key(), message.value()
        self.snapshotter.read(len(key or b"") + len(value or b""))
        try:
            return Entry(message.partition(), message.offset(), key.decode(), value, message.timestamp()[1])
        except (AttributeError, UnicodeDecodeError):
            _refused(scenario, "", message.partition(), message.offset(), Refusal.FORMAT, "key is not a user id")
            return None


def _refused(scenario: str, user_id: str, partition: int, offset: int, reason: Refusal, detail: str) -> None:
    metrics.INDEX_REFUSED.labels(scenario, reason).inc()
    # of an earlier registration a topic may hold many, and rightly so
    say = log.debug if reason is Refusal.REGISTRATION else log.warning
    say(
        logs.RECORD_REFUSED,
        scenario=scenario,
        user=logs.user(user_id),
        partition=partition,
        offset=offset,
        reason=str(reason),
        detail=detail,
    )
