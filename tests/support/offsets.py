"""What a group has committed."""

from __future__ import annotations

import contextlib
import threading

from confluent_kafka import TopicPartition

from stream.kafka.client import Connection
from stream.kafka.patience import patiently


def committed(connection: Connection, group: str, topic: str, partitions: int) -> list[TopicPartition]:
    """Offsets and metadata of partitions 0 to `partitions` - 1; asked again while the broker elects a coordinator."""
    asked = [TopicPartition(topic, p) for p in range(partitions)]
    with contextlib.closing(connection.consumer(group)) as consumer:
        found: list[TopicPartition] = patiently(lambda: consumer.committed(asked, timeout=30), threading.Event())
    return found
