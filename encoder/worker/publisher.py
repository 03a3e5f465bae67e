"""Embedding records of refreshed users, produced and acknowledged."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from encoder.worker.targets import Target
from store.base import metrics
from store.buffer.window import UserWindow
from store.records.embedding import EmbeddingRecord
from stream.kafka.pacing import SafeProducer
from stream.topics import Topics

DELIVERY_SECONDS = 60.0
"""A batch that is not acknowledged within this stops the worker; the supervisor restarts it."""


class Publisher:
    """Writes `embeddings.<scenario>`. For one thread.

    Args:
        producer: its failed deliveries are raised by `flush`.
        now: milliseconds since the epoch.
    """

    def __init__(self, producer: SafeProducer, topics: Topics, now: Callable[[], int]) -> None:
        self._producer = producer
        self._topics = topics
        self._now = now

    def publish(
        self,
        partition: int,
        windows: Sequence[UserWindow],
        targets: Sequence[Target],
        vectors: NDArray[np.float32],
    ) -> None:
        """Queue the records of users of one partition. vectors: (users, targets, dim)."""
        computed_at = self._now()
        for j, (scenario, registration, model) in enumerate(targets):
            topic = self._topics.embeddings(scenario)
            for i, window in enumerate(windows):
                record = EmbeddingRecord(
                    user_id=window.user_id,
                    scenario=scenario,
                    model=model,
                    as_of=window.as_of,
                    ingested_at=window.ingested_at,
                    computed_at=computed_at,
                    vector=vectors[i, j],
                    covers=window.covers,
                    events=window.events,
                    registration=registration,
                )
                self._producer.produce(topic, record.pack(), key=window.user_id.encode(), partition=partition)
            metrics.EMBEDDINGS_PUBLISHED.labels(scenario).inc(len(windows))

    def erase(self, partition: int, users: Sequence[str], targets: Sequence[Target]) -> None:
        """Queue null records: nothing is known of these users any more."""
        for target in targets:
            topic = self._topics.embeddings(target.scenario)
            for user in users:
                self._producer.produce(topic, None, key=user.encode(), partition=partition)

    def flush(self) -> None:
        """Wait for every acknowledgement. Raises BrokerError when one is missing."""
        self._producer.flush(DELIVERY_SECONDS)
