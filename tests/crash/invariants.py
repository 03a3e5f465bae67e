"""What must hold of a system at any time, whatever it was made to be: in its topics, windows, metrics and lag."""

from __future__ import annotations

import contextlib
import math
import time
import urllib.request
from collections.abc import Iterator, Mapping
from typing import Any

from confluent_kafka import KafkaError, TopicPartition
from prometheus_client.parser import text_string_to_metric_families

from deploy.operate.service_client import Service
from store.base.settings import ModalitySettings
from store.buffer.rows import KIND_SUMMARY, parse_key, unpack_summary
from store.buffer.window import UserWindow
from store.records.embedding import EmbeddingRecord
from stream.kafka.client import Connection
from stream.token_log.ownership import MARKER_KEY, OWNER_HEADER, Ownership
from stream.topics import Topics

SETTLE_SECONDS = 120.0
"""lag remembers a window of a minute."""
SIGNED = {"anchorstream_retention_headroom_messages"}
"""May be below 0, and says something then."""


def nothing_went_back(connection: Connection, topics: Topics, scenarios: Mapping[str, Any]) -> None:
    """No `covers` in any topic, of records that count."""
    for scenario in scenarios:
        seen: dict[tuple[str, str], int] = {}
        for message in messages(connection, topics.embeddings(scenario), topics.partitions):
            if message.value() is not None:
                record = EmbeddingRecord.unpack(message.value())
                _compare(seen, message, record.user_id, record.covers)
    owners = [Ownership() for _ in range(topics.partitions)]
    covered: dict[tuple[str, str], int] = {}
    for message in messages(connection, topics.tokens, topics.partitions):
        owner = dict(message.headers() or ()).get(OWNER_HEADER, b"")
        if not owners[message.partition()].admits(owner) or message.key() == MARKER_KEY or message.value() is None:
            continue
        key = parse_key(message.key())
        if key.kind == KIND_SUMMARY:
            _compare(covered, message, f"{key.user_id}|{key.modality}", unpack_summary(message.value()).covers)


def messages(connection: Connection, topic: str, partitions: int) -> Iterator[Any]:
    """Everything that a committed reader finds, partition by partition."""
    with contextlib.closing(connection.consumer("judge", **{"enable.partition.eof": True})) as consumer:
        for partition in range(partitions):
            consumer.assign([TopicPartition(topic, partition, 0)])
            while True:
                message = consumer.poll(30)
                assert message is not None, f"{topic}:{partition} does not end"
                if (error := message.error()) is None:
                    yield message
                elif error.code() == KafkaError._PARTITION_EOF:
                    break


def windows_within_bounds(windows: Mapping[str, UserWindow], modalities: Mapping[str, ModalitySettings]) -> None:
    """No more rows than `max_events`, none older than the window is long."""
    for user, window in windows.items():
        for name, rows in window.modalities.items():
            settings = modalities[name]
            assert len(rows.names) <= settings.max_events, (user, name)
            if len(rows.ts):
                assert rows.ts[-1] - rows.ts[0] <= settings.window_days * 86_400_000, (user, name)


def metrics_are_sane(urls: Mapping[str, str]) -> None:
    """Every process answers, with numbers that can be: finite, and not negative where nothing can be.

    Args:
        urls: by the process's name.
    """
    for name, url in urls.items():
        with urllib.request.urlopen(f"{url}/metrics", timeout=30) as answer:
            families = list(text_string_to_metric_families(answer.read().decode()))
        assert any(family.name.startswith("anchorstream_") for family in families), name
        for family in families:
            for sample in family.samples:
                assert math.isfinite(sample.value), (name, sample)
                assert sample.value >= 0 or family.name in SIGNED, (name, sample)


def lag_is_ok(service: Service) -> None:
    """Nothing waits, and what serve remembers of the last minute is no cause for concern by the end of the next."""
    deadline = time.monotonic() + SETTLE_SECONDS
    while True:
        report = service.get("/v1/lag")
        if report["lag_messages"] == 0 and report["status"] == "ok":
            return
        assert time.monotonic() < deadline, [p for p in report["partitions"] if p["status"] != "ok"]
        time.sleep(1.0)


def _compare(seen: dict[tuple[str, str], int], message: Any, whose: str, covers: Mapping[str, int]) -> None:
    for source, offset in covers.items():
        before = seen.get((whose, source), -1)
        where = f"{message.topic()}:{message.partition()}:{message.offset()}"
        assert offset >= before, f"{where}: {whose} covers {offset} of {source}, {before} was covered before"
        seen[whose, source] = offset
