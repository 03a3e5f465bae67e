"""Counts that a broker does not take are shortened: offsets are committed whatever it allows."""

from __future__ import annotations

import json
import threading
import time

import pytest
import structlog

from deploy.brokers.local import LocalKafka
from deploy.kafka.topics import ensure
from store.base import logs
from store.base.settings import ModalitySettings
from stream.ingest.ingest import Ingest
from stream.kafka.client import Connection
from stream.raw_counts import OTHERS, RawCounts, read_counts
from stream.settings import IngestSettings, KafkaSettings
from stream.topics import Topics
from tests.support.offsets import committed
from tests.support.processes import wait_until

pytestmark = pytest.mark.kafka
MODALITIES = 150


def counted(connection: Connection, topics: Topics, raw: str) -> tuple[int, RawCounts | None]:
    (tp,) = committed(connection, topics.group_ingest, raw, 1)
    return tp.offset, read_counts(tp.metadata)


@pytest.mark.parametrize("chars", [3500, 6000])
def test_counts_of_very_many_modalities(
    kafka_broker: LocalKafka, topic_prefix: str, monkeypatch: pytest.MonkeyPatch, chars: int
) -> None:
    """6000: as if this broker took less than brokers do; it refuses the commit, and gets a shorter one."""
    monkeypatch.setattr("stream.ingest.offset_commits.MAX_CHARS", chars)
    connection, raw = kafka_broker.connection, f"{topic_prefix}-raw"
    topics = Topics(KafkaSettings(topic_prefix=topic_prefix, partitions=1))
    names = [f"modality_with_a_rather_long_name_{n:03d}" for n in range(MODALITIES)]
    modalities = {name: ModalitySettings(topic=raw, text="{page}") for name in names}
    ensure(connection, topics.specs(modalities, ()))
    producer, now = connection.producer(), int(time.time() * 1000)
    total = 0
    for n, name in enumerate(names):
        for _ in range(1 + n % 3):
            event = {"user_id": "u", "ts": now, "modality": name, "page": "p"}
            producer.produce(raw, json.dumps(event).encode(), partition=0)
            total += 1
    assert producer.flush(20) == 0
    stop = threading.Event()
    ingest = Ingest(connection, topics, modalities, IngestSettings())
    thread = threading.Thread(target=ingest.run, args=(stop,))
    with structlog.testing.capture_logs() as told:
        thread.start()
        try:
            wait_until(lambda: counted(connection, topics, raw)[0] == total, "all committed")
        finally:
            stop.set()
            thread.join(60)
    _, counts = counted(connection, topics, raw)
    assert counts is not None
    assert counts.messages == total
    assert counts.accepted[OTHERS] > 0
    assert max(counts.accepted[name] for name in names if name in counts.accepted) == 3
    said = [line["counts_chars"] for line in told if line["event"] == logs.COMMIT_TOO_LARGE]
    assert said == ([] if chars == 3500 else [3000])
