"""What became of the demo's events, each number from where it is decided, none derived from the others."""

from __future__ import annotations

from collections import Counter
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

from confluent_kafka import OFFSET_BEGINNING, TopicPartition

from store.buffer_view import BufferView, find
from store.changes import Outcomes
from store.errors import BrokerError
from stream.client import Connection

_READ_SECONDS = 30.0


class EventCounts(NamedTuple):
    """published: acknowledged to the sender. accepted, duplicates: in the processor's databases.

    dead_lettered: raw messages in the dead-letters topic, by code.
    """

    published: int
    accepted: int
    duplicates: int
    dead_lettered: Counter[str]

    @property
    def add_up(self) -> bool:
        """Whether every event is accounted for."""
        return self.published == self.accepted + self.duplicates + self.dead_lettered.total()


def processed(data_dir: Path, identity: str) -> Outcomes:
    """Outcomes of all partitions, as the processors committed them with the rows (each event once)."""
    total = Outcomes()
    with ExitStack() as stack:
        for path in find(data_dir / "processor", identity).values():
            view = stack.enter_context(BufferView(path, {}))
            total = Outcomes(*map(int.__add__, total, view.outcomes))
    return total


def dead_letters(connection: Connection, topic: str, partitions: int) -> Counter[str]:
    """Distinct refused messages by code: a message refused twice (ingest was killed in between) counts once.

    Raises:
        BrokerError: the topic cannot be read to its end in time.
    """
    consumer = connection.consumer(f"{topic}.count", **{"enable.partition.eof": False})
    seen: set[tuple[bytes, bytes, bytes]] = set()
    codes: Counter[str] = Counter()
    try:
        ends: dict[int, int] = {}
        for partition in range(partitions):
            low, high = consumer.get_watermark_offsets(TopicPartition(topic, partition), timeout=10.0)
            if high > low:
                ends[partition] = high
        consumer.assign([TopicPartition(topic, partition, OFFSET_BEGINNING) for partition in ends])
        while ends:
            message = consumer.poll(_READ_SECONDS)
            if message is None:
                raise BrokerError(f"{topic} could not be read to its end", action="see the broker's log")
            if message.error() is not None:
                raise BrokerError(f"{topic}: {message.error().str()}", action="see the broker's log")
            headers = dict(message.headers() or [])
            place = (headers["source_topic"], headers["source_partition"], headers["source_offset"])
            if place not in seen:
                seen.add(place)
                codes[headers["error"].decode()] += 1
            if message.offset() + 1 >= ends[message.partition()]:
                del ends[message.partition()]
    finally:
        consumer.close()
    return codes
