"""Whether the broker has what a reader was not given, as another client sees it.

Numbers alone do not tell: behind a position there may be markers of transactions, what was aborted, and what compaction
left. So another client reads on from there: a record that it is given, and the reader was not, is proof.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

from confluent_kafka import KafkaError, KafkaException, TopicPartition

from stream.reading.stillness import Partition

ANSWER_SECONDS = 5.0
GIVE_UP_SECONDS = 60.0
"""A question of librdkafka's may outlast its time limit where it knows no broker: the look that asked it is left."""


class SecondLook:
    """One look at a time, on a thread of its own, so that nobody waits for it.

    Args:
        make: a new client, that tells of ends of partitions.
    """

    def __init__(self, make: Callable[[], Any]) -> None:
        self._make = make
        self._lock = threading.Lock()
        self._client: Any = None
        self._running: object = None
        self._began_at = 0.0
        self._closed = False
        self._found: dict[Partition, tuple[int, int]] | None = None
        self._nothing: dict[Partition, tuple[int, int]] = {}

    def ask(self, positions: Mapping[Partition, int]) -> None:
        """Look whether there are records from these positions on. Without effect while a look is under way."""
        with self._lock:
            if self._closed or (self._running and time.monotonic() < self._began_at + GIVE_UP_SECONDS):
                return
            look = self._running = object()
            self._began_at, self._found = time.monotonic(), None
        threading.Thread(target=self._run, args=(look, dict(positions)), name="second-look", daemon=True).start()

    def answer(self) -> dict[Partition, tuple[int, int]] | None:
        """{partition: (position that was asked, end)} where there is a record. None: no look has ended since the last
        answer. A partition of which the broker tells nothing is left out."""
        with self._lock:
            found, self._found = self._found, None
            return found

    def close(self) -> None:
        """Release the client, at the end of a look that is under way."""
        with self._lock:
            self._closed = True
            if self._running:
                return
            client, self._client = self._client, None
        if client is not None:
            client.close()

    def _run(self, look: object, positions: dict[Partition, int]) -> None:
        found: dict[Partition, tuple[int, int]] = {}
        client, self._client = self._client or self._make(), None
        try:
            ends = self._ends(client, positions)
            for partition in self._records(client, {p: at for p, at in positions.items() if p in ends}):
                found[partition] = positions[partition], ends[partition]
            kept = client
        except KafkaException:
            kept = None  # the broker is away, or it is this client's turn to be stuck
        with self._lock:
            if self._running is look and not self._closed:
                self._running, self._found, self._client = None, found, kept
            else:
                self._running = None if self._running is look else self._running
                kept = None
        if kept is None:
            client.close()

    def _ends(self, client: Any, positions: Mapping[Partition, int]) -> dict[Partition, int]:
        """Where something lies behind the position that is not known to be nothing. Raises KafkaException."""
        ends = {}
        for partition, at in positions.items():
            _, end = client.get_watermark_offsets(TopicPartition(*partition), timeout=ANSWER_SECONDS, cached=False)
            if end > at and self._nothing.get(partition) != (at, end):
                ends[partition] = end
                self._nothing.pop(partition, None)
        return ends

    def _records(self, client: Any, positions: Mapping[Partition, int]) -> list[Partition]:
        """Where a record comes. Raises KafkaException: somewhere neither a record nor the end has come."""
        found: list[Partition] = []
        if not positions:
            return found
        left = dict(positions)
        client.assign([TopicPartition(*partition, at) for partition, at in positions.items()])
        deadline = time.monotonic() + ANSWER_SECONDS
        while left and time.monotonic() < deadline:
            message = client.poll(0.2)
            if message is None or left.pop(partition := (message.topic(), message.partition()), None) is None:
                continue
            if message.error() is None:
                found.append(partition)
            elif message.error().code() == KafkaError._PARTITION_EOF:  # noqa: SLF001
                self._nothing[partition] = positions[partition], message.offset()
            client.incremental_unassign([TopicPartition(*partition)])
        client.unassign()
        if left and not found:
            raise KafkaException(KafkaError(KafkaError._TIMED_OUT))  # noqa: SLF001
        return found
