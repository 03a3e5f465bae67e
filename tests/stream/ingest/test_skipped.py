"""What a mapping passes over on real Kafka: counted, no dead letter, its offsets committed, never read again."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from confluent_kafka import TopicPartition
from prometheus_client import REGISTRY

from deploy.brokers.local import LocalKafka
from deploy.kafka.topics import ensure
from store.base.settings import ModalitySettings
from stream.events.event import Event, unpack
from stream.ingest.ingest import Ingest
from stream.kafka.client import Connection
from stream.settings import Condition, IngestSettings, KafkaSettings, MappingSettings
from stream.topics import Topics, TopicSpec
from tests.support.offsets import committed

pytestmark = pytest.mark.kafka
SECONDS = 60.0
PARTITIONS = 2
SKIPPED = ["without_user", "other_modality", "where"]


class Bench:
    """A raw topic of another shape, and who reads it."""

    def __init__(self, connection: Connection, prefix: str) -> None:
        self.connection = connection
        self.raw = f"{prefix}-track"
        self.topics = Topics(KafkaSettings(topic_prefix=prefix, partitions=1))
        self.modalities = {"order": ModalitySettings(topic=self.raw, text="{sku}", numbers=("total",))}
        self.mapping = {
            self.raw: MappingSettings(
                user_id="user.id",
                user_id_integers=True,
                ts="sent",
                event_id=("order", "line"),
                modality="event",
                modalities={"Order Completed": "order"},
                where=(Condition(field="type", equals="track"),),
                skip_without_user=True,
                skip_other_modalities=True,
                numbers_from_text=True,
                empty_is_absent=True,
            )
        }
        ensure(connection, [*self.topics.specs(self.modalities, ()), TopicSpec(self.raw, PARTITIONS, ours=False)])
        self.sent = 0

    def send(self, *kinds: str) -> None:
        """An event of each kind, to every partition."""
        producer = self.connection.producer()
        for kind in kinds:
            for partition in range(PARTITIONS):
                event = {
                    "type": "page" if kind == "where" else "track",
                    "event": "Experiment Viewed" if kind == "other_modality" else "Order Completed",
                    "user": {"id": "" if kind == "without_user" else 17},
                    "sent": int(time.time() * 1000),
                    "order": f"o{self.sent}",
                    "line": partition,
                    "sku": "s",
                    "total": "12.50",
                }
                producer.produce(self.raw, json.dumps(event).encode(), partition=partition)
            self.sent += 1
        assert producer.flush(30) == 0

    @contextmanager
    def ingesting(self) -> Iterator[None]:
        """An ingest that runs; it has committed everything when this is left."""
        stop, failures = threading.Event(), list[BaseException]()

        def run() -> None:
            try:
                settings = IngestSettings()
                Ingest(self.connection, self.topics, self.modalities, settings, mapping=self.mapping).run(stop)
            except BaseException as exc:
                failures.append(exc)

        thread = threading.Thread(target=run)
        thread.start()
        try:
            yield
            deadline = time.monotonic() + SECONDS
            while self.committed() != [self.sent] * PARTITIONS and not failures:
                assert time.monotonic() < deadline, self.committed()
                time.sleep(0.05)
        finally:
            stop.set()
            thread.join(SECONDS)
        assert failures == []

    def committed(self) -> list[int]:
        return [tp.offset for tp in committed(self.connection, self.topics.group_ingest, self.raw, PARTITIONS)]

    def events(self) -> list[Event]:
        """What was accepted."""
        consumer = self.connection.consumer(f"{self.topics.prefix}.test", **{"enable.partition.eof": True})
        try:
            consumer.assign([TopicPartition(self.topics.events, 0, 0)])
            found: list[Event] = []
            while (message := consumer.poll(20)) is not None and message.error() is None:
                found += unpack(message.value()).events
            return found
        finally:
            consumer.close()

    def letters(self) -> int:
        """Dead letters there are."""
        consumer = self.connection.consumer(f"{self.topics.prefix}.test")
        try:
            there = self.connection.metadata().topics[self.topics.dead_letters].partitions
            return sum(
                consumer.get_watermark_offsets(TopicPartition(self.topics.dead_letters, p), timeout=20)[1]
                for p in there
            )
        finally:
            consumer.close()

    def counted(self, reason: str) -> float:
        """In this process."""
        labels = {"topic": self.raw, "reason": reason}
        return REGISTRY.get_sample_value("anchorstream_events_skipped_total", labels) or 0.0


def test_what_is_skipped_is_counted_and_committed_and_read_once(kafka_broker: LocalKafka, topic_prefix: str) -> None:
    bench = Bench(kafka_broker.connection, topic_prefix)
    with bench.ingesting():
        bench.send("accepted", *SKIPPED * 5)
    assert [bench.counted(reason) for reason in SKIPPED] == [5.0 * PARTITIONS] * 3, (
        "nothing follows, and it is committed"
    )
    assert bench.letters() == 0
    expected = [(f"o0|{p}", "17", (12.5,)) for p in range(PARTITIONS)]
    assert sorted((e.event_id, e.user_id, e.numbers) for e in bench.events()) == expected
    # a reader that starts anew begins behind it: of what it reads only the new is counted
    with bench.ingesting():
        bench.send("where", "accepted")
    assert [bench.counted(reason) for reason in SKIPPED] == [5.0 * PARTITIONS, 5.0 * PARTITIONS, 6.0 * PARTITIONS]
    assert len(bench.events()) == 2 * PARTITIONS
    assert bench.letters() == 0
    how = {"topic": bench.raw, "how": "number_from_text"}
    assert REGISTRY.get_sample_value("anchorstream_values_converted_total", how) == 2.0 * PARTITIONS
    how = {"topic": bench.raw, "how": "empty_is_absent"}
    assert REGISTRY.get_sample_value("anchorstream_values_converted_total", how) == 5.0 * PARTITIONS
